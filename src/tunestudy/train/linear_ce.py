"""Cross-entropy straight from hidden states: logits exist for one chunk of positions at a time.

The gradient of a chunk is taken while its probabilities are at hand, in the forward pass, so nothing of size
vocabulary × positions is ever kept. The chunk lives in a buffer reused over calls: on CPU a fresh buffer of
tens of megabytes costs more in page faults than its softmax costs in arithmetic.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CPU_CHUNK_BYTES = 64 << 20
"""Of fp32 logits; 512 positions at a vocabulary of 32k, the fastest of 64 … 2048 measured."""
GPU_CHUNK_BYTES = 512 << 20


@dataclass
class Scratch:
    """One growing buffer per dtype; contents are undefined between uses."""

    buffers: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def take(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(rows, columns), contiguous, uninitialised, valid until the next `take` of the same dtype."""
        held = self.buffers.get(dtype)
        if held is None or held.numel() < rows * columns or held.device != device:
            held = torch.empty(rows * columns, dtype=dtype, device=device)
            self.buffers[dtype] = held
        return held[: rows * columns].view(rows, columns)


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Positions whose logits are formed at once."""
    size = CPU_CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
    return max(32, size // (4 * vocabulary))


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, smoothing: float, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Σ and each of the cross-entropies of softmax(hidden · weightᵀ + bias) against targets.

    Shapes: hidden (N, D), weight (V, D), bias (V,), targets (N,) int64, none of them masked.
    Returns the sum (scalar fp32, differentiable once) and the losses (N,) fp32, detached. With `smoothing` ε the
    target distribution is (1 − ε) · one-hot + ε / V. Products run in the autocast type where autocast is on,
    softmax and sums in fp32.
    """
    kind = hidden_ND.device.type
    compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
    with_gradient = torch.is_grad_enabled()
    with torch.autocast(kind, enabled=False):
        total, losses_N = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD, bias_V, targets_N, smoothing, scratch, compute, with_gradient
        )
    return total, losses_N


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        smoothing: float,
        scratch: Scratch,
        compute: torch.dtype,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = [with_gradient and need for need in ctx.needs_input_grad[:3]]
        gradients = _Gradients.zeros(hidden_ND, weight_VD, bias_V, wanted)
        weight_VD = weight_VD.to(compute)
        bias_V = None if bias_V is None else bias_V.to(compute)
        losses_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        rows = chunk_rows(len(weight_VD), hidden_ND.device)
        for start in range(0, len(targets_N), rows):
            part = slice(start, start + rows)
            hidden_CD, targets_C = hidden_ND[part].to(compute), targets_N[part]
            logits_CV = _logits(hidden_CD, weight_VD, bias_V, scratch)
            losses_N[part], probs_CV = _losses(logits_CV, targets_C, smoothing)
            if any(wanted):
                slope_CV = _slope(probs_CV, targets_C, smoothing, compute, scratch)
                gradients.add(part, slope_CV, hidden_CD, weight_VD)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(dtype=torch.float64).float(), losses_N

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("this loss was already differentiated; its gradients were given away")
        gradients, ctx.gradients = ctx.gradients, None
        return (*gradients.scaled(grad_total), None, None, None, None, None)


@dataclass
class _Gradients:
    """Of the summed loss, filled chunk by chunk; None where not wanted. Head gradients add up in fp32."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    head_dtype: torch.dtype

    @classmethod
    def zeros(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: list[bool]) -> "_Gradients":
        return cls(
            torch.empty_like(hidden) if wanted[0] else None,
            torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None,
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None,
            weight.dtype,
        )

    def add(self, part: slice, slope_CV: Tensor, hidden_CD: Tensor, weight_VD: Tensor) -> None:
        """Of one chunk, from the slope of its losses by its logits."""
        if self.hidden is not None:
            target = self.hidden[part]
            if target.dtype == slope_CV.dtype:
                torch.mm(slope_CV, weight_VD, out=target)
            else:
                target.copy_(slope_CV @ weight_VD)
        if self.weight is not None:
            if slope_CV.dtype == torch.float32:
                self.weight.addmm_(slope_CV.T, hidden_CD)
            else:
                self.weight.add_(slope_CV.T @ hidden_CD)
        if self.bias is not None:
            self.bias.add_(slope_CV.sum(0, dtype=torch.float32))

    def scaled(self, factor: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """In place: a head's gradient can be gigabytes."""
        hidden = None if self.hidden is None else self.hidden.mul_(factor)
        weight = None if self.weight is None else self.weight.mul_(factor).to(self.head_dtype)
        bias = None if self.bias is None else self.bias.mul_(factor).to(self.head_dtype)
        return hidden, weight, bias


def _logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, scratch: Scratch) -> Tensor:
    """fp32 logits in the scratch buffer."""
    shape, device = (len(hidden_CD), len(weight_VD)), hidden_CD.device
    product_CV = scratch.take(*shape, hidden_CD.dtype, device)
    if bias_V is None:
        torch.mm(hidden_CD, weight_VD.T, out=product_CV)
    else:
        torch.addmm(bias_V, hidden_CD, weight_VD.T, out=product_CV)
    if product_CV.dtype == torch.float32:
        return product_CV
    return scratch.take(*shape, torch.float32, device).copy_(product_CV)


def _losses(logits_CV: Tensor, targets_C: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Losses (C,) and probabilities (C, V); the logits are overwritten by the probabilities."""
    at_target_C = logits_CV.gather(1, targets_C[:, None]).squeeze(1)
    mean_C = logits_CV.mean(1) if smoothing else at_target_C
    highest_C = logits_CV.amax(1)
    probs_CV = torch.softmax(logits_CV, 1, out=logits_CV)
    # The largest probability is at least 1/V, so its logarithm is exact where the target's might underflow.
    log_sum_C = highest_C - probs_CV.amax(1).log()
    return log_sum_C - torch.lerp(at_target_C, mean_C, smoothing), probs_CV


def _slope(probs_CV: Tensor, targets_C: Tensor, smoothing: float, compute: torch.dtype, scratch: Scratch) -> Tensor:
    """d losses / d logits = probabilities − target distribution, over the probabilities, in the compute type."""
    if smoothing:
        probs_CV.sub_(smoothing / probs_CV.shape[1])
    share = probs_CV.new_full((len(targets_C), 1), smoothing - 1.0)
    probs_CV.scatter_add_(1, targets_C[:, None], share)
    if compute == torch.float32:
        return probs_CV
    return scratch.take(len(probs_CV), probs_CV.shape[1], compute, probs_CV.device).copy_(probs_CV)
