"""Σ token losses of a micro-batch without its logits: hidden states, unmasked positions, chunked cross-entropy.

Only the language-modelling loss is computed; auxiliary losses of a model (such as a router's balance) are not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tunestudy.config.errors import StudyError, at
from tunestudy.data.batch import IGNORED, Batch
from tunestudy.models.attention import samples_leak
from tunestudy.models.decoder import base_model_of, called, last_hidden_states
from tunestudy.train.head import Head, check_head, inner_linear
from tunestudy.train.linear_ce import Scratch, chunk_rows, linear_cross_entropy


@dataclass(frozen=True)
class LossSums:
    """Sums, not means: whoever knows the target tokens of the whole optimiser step divides by them."""

    nll_sum: Tensor
    """Scalar fp32 with a gradient; smoothed where label smoothing is on."""
    target_tokens: int
    nll_by_source: Tensor
    """(S,) fp64, detached; adds up to `nll_sum`."""
    tokens_by_source: Tensor
    """(S,) int64."""
    nll_by_sample: Tensor | None = None
    """(samples of the batch,) fp64, detached; None unless the batch marks them."""
    tokens_by_sample: Tensor | None = None


class LossModel(nn.Module):
    """A causal model whose forward pass ends in its loss: what an engine wraps, so that its hooks see the call."""

    def __init__(self, model: nn.Module) -> None:
        """model: a transformers causal model, PEFT-wrapped or not. Runs a few tokens to learn what its head does."""
        super().__init__()
        self.model = model
        self.head: Head = check_head(model)
        self._scratch = Scratch()
        self._proven_apart = False

    def forward(self, batch: Batch, *, label_smoothing: float = 0.0, num_sources: int = 1) -> LossSums:
        """The losses of a micro-batch on the model's device. Without targets: 0, with a gradient of zeros."""
        self._require_apart(batch)
        index_N = _positions_of_targets(batch)
        targets_N = batch.targets.flatten()[index_N]
        if self.head.kind == "full":
            nll_sum, losses_N = self._through_model(batch, index_N, targets_N, label_smoothing)
        else:
            hidden_ND = last_hidden_states(self.model, batch).flatten(0, 1)[index_N]
            through = self._fused if self.head.kind == "fused" else self._through_head
            nll_sum, losses_N = through(hidden_ND, targets_N, label_smoothing)
        sources_N = None if batch.sources is None else batch.sources.flatten()[index_N]
        by_source = _by_source(losses_N, sources_N, num_sources)
        if batch.samples is None:
            return LossSums(nll_sum, batch.num_targets, *by_source)
        by_sample = _by_source(losses_N, batch.samples.flatten()[index_N], batch.num_samples)
        return LossSums(nll_sum, batch.num_targets, *by_source, *by_sample)

    def _require_apart(self, batch: Batch) -> None:
        """Refuse, once and for all, to train on rows of several samples with a model that would mix them."""
        if not self._proven_apart and (batch.cu_seqlens is not None or batch.segment_ids is not None):
            self.prove_apart()

    def prove_apart(self) -> None:
        """Run a few tokens to see that samples in a row do not see each other; StudyError where they do."""
        leak = samples_leak(self.model)
        if leak is not None:
            raise StudyError(at("packing"), f"{leak}; train without packing, with padding: right")
        self._proven_apart = True

    def _fused(self, hidden_ND: Tensor, targets_N: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        linear = inner_linear(base_model_of(self.model).get_output_embeddings())
        assert linear is not None
        if self.head.scale != 1.0:
            hidden_ND = hidden_ND * self.head.scale
        hidden_ND = hidden_ND.to(linear.weight.device)
        targets_N = targets_N.to(linear.weight.device)
        return linear_cross_entropy(hidden_ND, linear.weight, linear.bias, targets_N, smoothing, self._scratch)

    def _through_head(self, hidden_ND: Tensor, targets_N: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """The model's own head on chunks of positions, its logits formed again in the backward pass."""
        module = base_model_of(self.model).get_output_embeddings()

        def losses(hidden_CD: Tensor, targets_C: Tensor) -> Tensor:
            logits_CV = self.head.finish(module(hidden_CD)).float()
            return cross_entropy(logits_CV, targets_C.to(logits_CV.device), reduction="none", label_smoothing=smoothing)

        rows = chunk_rows(self.head.vocabulary, hidden_ND.device)
        chunks = zip(torch.split(hidden_ND, rows), torch.split(targets_N, rows), strict=True)
        losses_N = torch.cat([checkpoint(losses, hidden, targets, use_reentrant=False) for hidden, targets in chunks])
        return losses_N.sum(), losses_N.detach()

    def _through_model(
        self, batch: Batch, index_N: Tensor, targets_N: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """All logits: for models whose head does what we do not know."""
        base = base_model_of(self.model)
        logits_NV = called(base, base, batch).logits.flatten(0, 1)[index_N].float()
        losses_N = cross_entropy(logits_NV, targets_N, reduction="none", label_smoothing=smoothing)
        return losses_N.sum(), losses_N.detach()


def _positions_of_targets(batch: Batch) -> Tensor:
    """(N,) flat indices of positions that have a target; their number is known, so a GPU is not waited for."""
    wanted = batch.targets.flatten() != IGNORED
    assert wanted.is_cuda or int(wanted.sum()) == batch.num_targets
    return torch.nonzero_static(wanted, size=batch.num_targets).squeeze(1)


def _by_source(losses_N: Tensor, sources_N: Tensor | None, num_sources: int) -> tuple[Tensor, Tensor]:
    """Sums (S,) fp64 and counts (S,) int64. As a product, since scattered additions on a GPU have no fixed order."""
    if sources_N is None:
        sources_N = torch.zeros_like(losses_N, dtype=torch.int64)
    sources_N = sources_N.to(losses_N.device)
    is_of_SN = sources_N == torch.arange(num_sources, device=losses_N.device)[:, None]
    return is_of_SN.double() @ losses_N.double(), is_of_SN.sum(1)
