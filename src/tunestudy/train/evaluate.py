"""Loss on held-out rows: the same rows at every evaluation and for any number of ranks, one all-reduce in all.

Ranks get the same number of forward passes (short ones an ignored dummy), sum in fp64 and meet once at the end;
logits are never gathered. No random number is drawn.
"""

import hashlib

import torch

from tunestudy.config.stage import EvaluationSettings
from tunestudy.data.batch import Layout, micro_batches
from tunestudy.data.corpus import Corpus
from tunestudy.train.engines import Engine
from tunestudy.train.metrics import Sums
from tunestudy.train.precision import Precision
from tunestudy.train.world import World


class EvaluationSet:
    """The chosen rows (`data.prepare` picks them by hash of id), cut into this rank's batches."""

    def __init__(
        self, corpus: Corpus, settings: EvaluationSettings, world: World, *, micro_batch: int, layout: Layout
    ) -> None:
        self.ids_sha256 = hashlib.sha256("\n".join(sorted(corpus.sample_ids)).encode()).hexdigest()
        self.sources = corpus.sources
        self._batches = micro_batches(
            corpus,
            [(sample,) for sample in range(len(corpus))],
            rank=world.rank,
            world_size=world.size,
            micro_batch=settings.per_device_eval_batch_size or micro_batch,
            layout=layout,
        )

    @torch.no_grad()
    def evaluate(self, engine: Engine, precision: Precision, world: World) -> Sums:
        """Σ NLL and target tokens by source over the whole subset, equal on all ranks. Leaves the model training."""
        engine.train(False)
        count = len(self.sources)
        sums = torch.zeros(2, count, dtype=torch.float64, device=world.device)
        for batch in self._batches:
            with precision.autocast():
                losses = engine.evaluated(batch.to(world.device), num_sources=count)
            sums += torch.stack([losses.nll_by_source, losses.tokens_by_source.double()]).to(sums.device)
        nll, targets = world.all_reduce_sum(sums).tolist()
        engine.train(True)
        return Sums(nll=nll, targets=[int(value) for value in targets])
