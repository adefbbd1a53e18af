"""Loss on held-out rows: the same rows at every evaluation and for any number of ranks, one all-reduce in all.

Ranks get the same number of forward passes (short ones an ignored dummy), sum in fp64 and meet once at the end;
logits are never gathered. No random number is drawn.
"""

import hashlib
from dataclasses import dataclass
from functools import partial

import torch

from tunestudy.config.stage import TrainStage
from tunestudy.data.batch import Batch
from tunestudy.data.corpus import Corpus
from tunestudy.data.loader import Cutter, Maker, made_ahead
from tunestudy.records.progress import Progress
from tunestudy.train.engines import Engine
from tunestudy.train.metrics import Sums
from tunestudy.train.precision import Precision
from tunestudy.train.world import World


def _same(batch: Batch) -> Batch:
    return batch


SampleLoss = dict[str, str | float | int | None]
"""A row of eval_samples.csv without its step."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    sums: Sums
    """Σ NLL and target tokens by source."""
    samples: list[SampleLoss]
    """In the order of the subset; empty unless asked for."""


class EvaluationSet:
    """The chosen rows (`data.prepare` picks them by hash of id), cut into this rank's batches."""

    def __init__(self, corpus: Corpus, settings: TrainStage, cutter: Cutter, *, micro_batch: int) -> None:
        """micro_batch: rows of this rank at a time."""
        self.ids_sha256 = hashlib.sha256("\n".join(sorted(corpus.sample_ids)).encode()).hexdigest()
        self.corpus = corpus
        self.sources = corpus.sources
        rows = [(sample,) for sample in range(len(corpus))]
        shares = cutter.shares(corpus, rows, micro_batch)
        marked = settings.eval_sample_losses
        self._threads = cutter.threads(corpus, settings.dataloader_num_workers)
        self._makers: list[Maker] = [partial(cutter.batch, corpus, share, mark_samples=marked) for share in shares]
        if corpus.images is None:  # text is small: made once, kept for every evaluation
            made = [make() for make in self._makers]
            self._makers = [partial(_same, batch) for batch in made]
        self._samples = [[sample for (sample,) in share] for share in shares] if marked else []
        """Of each batch; empty unless their losses are wanted."""

    @torch.no_grad()
    def evaluate(
        self, engine: Engine, precision: Precision, world: World, progress: Progress | None = None
    ) -> Evaluated:
        """Sums over the whole subset, equal on all ranks. Leaves the model training. `progress` hears of each batch."""
        engine.train(False)
        count = len(self.sources)
        sums = torch.zeros(2, count, dtype=torch.float64, device=world.device)
        by_sample = torch.zeros(2, len(self.corpus) if self._samples else 0, dtype=torch.float64, device=world.device)
        for index, batch in enumerate(made_ahead(self._makers, self._threads)):
            with precision.autocast():
                losses = engine.evaluated(batch.to(world.device), num_sources=count)
            sums += torch.stack([losses.nll_by_source, losses.tokens_by_source.double()]).to(sums.device)
            if losses.nll_by_sample is not None and losses.tokens_by_sample is not None:
                found = torch.stack([losses.nll_by_sample, losses.tokens_by_sample.double()])
                by_sample[:, self._samples[index]] = found.to(by_sample.device)
            if progress is not None:
                progress.move()
        total = world.all_reduce_sum(torch.cat([sums, by_sample], dim=1))
        nll, targets = total[:, :count].tolist()
        engine.train(True)
        whole = Sums(nll=nll, targets=[int(value) for value in targets])
        return Evaluated(whole, self._rows(*total[:, count:].tolist()) if self._samples else [])

    def _rows(self, nll: list[float], targets: list[float]) -> list[SampleLoss]:
        corpus = self.corpus
        return [
            {
                "id": corpus.sample_ids[sample],
                "source": self.sources[corpus.source[sample]],
                "loss": nll[sample] / targets[sample] if targets[sample] else None,
                "target_tokens": int(targets[sample]),
            }
            for sample in range(len(corpus))
        ]
