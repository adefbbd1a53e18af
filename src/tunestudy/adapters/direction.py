"""The direction of a weight-decomposed adapter: row norms without a dense ΔW, and a product as lean as LoRA's.

y = m·(W + s·B diag(g) A) x / n + bias, n_i = ‖W_i + s·(B diag(g) A)_i‖, held constant in the backward pass as the
paper advises (Liu et al. 2024, arXiv:2402.09353, section 4.3). DoRA has no gate g; SDoRA has SoRA's.
Dimensions in names: O outputs, I inputs, R ranks, T tokens.
"""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

CHUNK = 1 << 20
"""Numbers of a weight that are cast at a time."""
PRODUCT_CHUNK = 1 << 22
"""Numbers of two activations in half precision that are cast and multiplied at a time."""
SCRATCH = 1 << 24
"""Numbers in fp32 that stay allocated for products on a CPU."""
SMALLEST_STRETCH = 1e-3
"""Below this m/n the product cannot be had back from the output."""
CANCELLED = 1e-2
"""A row whose squared norm is below this share of ‖W_i‖² lost digits to cancellation; it is summed up directly."""


def is_hollow(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and no numbers: memory is being foreseen."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def row_squares(weight_OI: Tensor) -> Tensor:
    """(O,) fp32: Σ_i W². No temporary of the weight's size."""
    if weight_OI.dtype == torch.float32:
        norms: Tensor = torch.linalg.vector_norm(weight_OI, dim=1)
        return norms.square_()
    return torch.cat([rows.float().square_().sum(1) for rows in _row_chunks(weight_OI)])


def row_norms(
    weight_OI: Tensor,
    down_RI: Tensor,
    up_OR: Tensor,
    *,
    scale: float,
    gate_R: Tensor | None = None,
    squares_O: Tensor | None = None,
) -> Tensor:
    """(O,) fp32: row norms of W + s·B diag(g) A, without forming the product.

    Source: ‖W_i + s·b_i A‖² = ‖W_i‖² + 2s⟨(W Aᵀ)_i, b_i⟩ + s²·b_i (A Aᵀ) b_iᵀ; accumulated in fp32. `squares_O` are
    `row_squares(weight_OI)`, for those who keep them.
    """
    with torch.no_grad(), _without_autocast(weight_OI.device):
        down, up = down_RI.float(), up_OR.float()
        if gate_R is not None:
            up = up * gate_R.float()
        fixed = row_squares(weight_OI) if squares_O is None else squares_O
        inner = torch.addmm(_down_products(weight_OI, down), up, down @ down.T, beta=2 * scale, alpha=scale * scale)
        squares = (fixed + (inner * up).sum(1)).clamp_min_(0)
        _sum_cancelled(squares, fixed, weight_OI, down, up, scale)
        return squares.sqrt_()


def _sum_cancelled(squares: Tensor, fixed: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> None:
    """Overwrite the squares that are differences of much larger numbers: ΔW_i ≈ -W_i."""
    if is_hollow(squares):  # numbers that are not there cancel nothing
        return
    rows = (squares < CANCELLED * fixed).nonzero().squeeze(1)
    for part in torch.split(rows, max(1, CHUNK // weight.shape[1])) if len(rows) else ():
        squares[part] = torch.addmm(weight[part].float(), up[part], down, alpha=scale).square_().sum(1)


def _down_products(weight_OI: Tensor, down_RI: Tensor) -> Tensor:
    """(O, R) fp32: W Aᵀ."""
    if weight_OI.dtype == torch.float32:
        return weight_OI @ down_RI.T
    return torch.cat([rows.float() @ down_RI.T for rows in _row_chunks(weight_OI)])


def _row_chunks(weight: Tensor) -> Iterator[Tensor]:
    """Parts of at most CHUNK numbers and an eighth of the weight."""
    rows = max(1, min(CHUNK // weight.shape[1], weight.shape[0] // 8))
    return iter(torch.split(weight, rows))


@dataclass(frozen=True)
class Direction:
    """What depends on parameters alone, in fp32 and without gradients: once per optimiser step is enough.

    norm (O,) n; stretch (O,) m/n; reach (O, 1) s·m/n; up (O, R) s·m/n·B diag(g); per_magnitude, per_norm (O,) 1/m and
    1/n; all 0 where n = 0. `recoverable`: every row's product can be had back from its output.
    """

    norm: Tensor
    stretch: Tensor
    reach: Tensor
    up: Tensor
    per_magnitude: Tensor
    per_norm: Tensor
    scale: float
    recoverable: bool


def direction_of(
    norm_O: Tensor, *, up_OR: Tensor, magnitude_O: Tensor, gate_R: Tensor | None, scale: float
) -> Direction:
    """The direction of B, m and g for these row norms. On an accelerator this waits for its queue."""
    with torch.no_grad(), _without_autocast(norm_O.device):
        zero = norm_O == 0
        magnitude = magnitude_O.float()
        per_norm, per_magnitude = (t.reciprocal().masked_fill_(zero, 0) for t in (norm_O, magnitude))
        stretch = (magnitude / norm_O).masked_fill_(zero, 0)  # m = n must give exactly 1
        reach = (stretch * scale).unsqueeze(1)
        recoverable = is_hollow(stretch) or bool((stretch.abs() > SMALLEST_STRETCH).logical_or_(zero).all())
        up = _gated(up_OR, gate_R) * reach
    return Direction(norm_O, stretch, reach, up, per_magnitude, per_norm, float(scale), recoverable)


def directed(
    result: Tensor,
    x: Tensor,
    direction: Direction,
    *,
    bias_O: Tensor | None,
    down_RI: Tensor,
    up_OR: Tensor,
    magnitude_O: Tensor,
    gate_R: Tensor | None,
    weight_OI: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """m/n·(result - bias + s·B diag(g) A x) + bias, where `result` is W x + bias and `direction` that of B, m and g.

    Shapes: result (…, O), x (…, I) → (…, O) in result's dtype. A row with n = 0 is zero but for its bias, and so are
    its gradients. Half precision: products in the wider of x's and A's dtype, or autocast's; the rest in fp32.
    `overwrite` lets the output take the place of `result`, which nobody else may hold. Given the frozen fp32
    `weight_OI` as well, the gradient of x is that of both branches, in one tensor, and none flows to `result`.
    """
    takes_over = weight_OI is not None and result.dtype == x.dtype == down_RI.dtype == torch.float32
    apply: Any = _Directed.apply
    out: Tensor = apply(
        result.detach() if takes_over else result,
        x,
        bias_O,
        down_RI,
        up_OR,
        magnitude_O,
        gate_R,
        weight_OI if takes_over else None,
        direction,
        overwrite,
    )
    return out


class _Directed(torch.autograd.Function):
    """Keeps what LoRA keeps (x, A x, A, B) and one tensor of the result's size: in fp32 the output, which most
    consumers keep anyway and which m's gradient divides by m again. In half precision the output is rounded once more,
    so there, and where m/n is too small, it is `result`."""

    @staticmethod
    def forward(
        ctx: Any,
        result: Tensor,
        x: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        magnitude: Tensor,
        gate: Tensor | None,
        weight: Tensor | None,
        direction: Direction,
        overwrite: bool,
    ) -> Tensor:
        device = result.device.type
        half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        ctx.dtype = half or torch.promote_types(x.dtype, down.dtype)
        ctx.keeps_output = direction.recoverable and result.dtype == torch.float32
        overwrite = overwrite and ctx.keeps_output and ctx.dtype == torch.float32
        with _without_autocast(result.device):
            inner = _rows(x).to(ctx.dtype) @ down.to(ctx.dtype).T
            out = _compose(_rows(result), bias, inner, direction, overwrite).view(result.shape)
        if overwrite:
            ctx.mark_dirty(result)
            out = result
        ctx.direction = direction
        ctx.save_for_backward(out if ctx.keeps_output else result, x, inner, bias, down, up, gate, weight)
        ctx.magnitude_dtype = magnitude.dtype
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        kept, x, inner, bias, down, up, gate, weight = ctx.saved_tensors
        direction: Direction = ctx.direction
        wants_result, wants_x, wants_bias, wants_down, wants_up, wants_magnitude, wants_gate, *_ = ctx.needs_input_grad
        d_bias = d_up = d_magnitude = d_gate = None
        with _without_autocast(d_out.device):
            dy = _rows(d_out)
            dy_cast = dy.to(ctx.dtype)
            d_x, d_down = _input_grads(dy_cast, x, down, direction.up, wants_x, wants_down)
            crossed = (inner.T @ dy_cast).float().T if wants_up or wants_gate or wants_magnitude else None
            if crossed is not None:
                d_up, d_gate = _up_grads(crossed * direction.reach, up, gate)
            summed = dy.sum(0, dtype=torch.float32) if bias is not None and (wants_bias or wants_magnitude) else None
            if summed is not None:
                d_bias = ((1 - direction.stretch) * summed).to(bias.dtype)
            buffer = scratch_like(dy) if weight is not None else None
            buffer, d_stretch = _summed_product(dy, _rows(kept), buffer) if wants_magnitude else (buffer, None)
            if d_stretch is not None:
                if summed is not None:
                    d_stretch -= bias * summed
                if not ctx.keeps_output and crossed is not None:
                    d_stretch += (_gated(up, gate) * crossed).sum(1) * direction.scale
                d_stretch *= direction.per_magnitude if ctx.keeps_output else direction.per_norm
                d_magnitude = d_stretch.to(ctx.magnitude_dtype)
            d_result = _times(dy, direction.stretch, buffer).view(d_out.shape) if wants_result else None
            if weight is not None and d_x is not None:
                _rows(d_x).addmm_(_times(dy, direction.stretch, buffer), weight)
        return d_result, d_x, d_bias, d_down, d_up, d_magnitude, d_gate, None, None, None


def _compose(result: Tensor, bias: Tensor | None, inner: Tensor, direction: Direction, overwrite: bool) -> Tensor:
    """stretch·(result - bias) + bias + inner·upᵀ, (T, O) in result's dtype."""
    stretch, up = direction.stretch, direction.up
    if result.dtype == inner.dtype == torch.float32:
        out = torch.mul(result, stretch, out=result if overwrite else None)
        if bias is not None:
            out += bias * (1 - stretch)
        return out.addmm_(inner, up.T)
    out = (inner @ up.to(inner.dtype).T).float().addcmul_(result.float(), stretch)
    return (out if bias is None else out.add_(bias * (1 - stretch))).to(result.dtype)


def _input_grads(
    dy: Tensor, x: Tensor, down: Tensor, up: Tensor, wants_x: bool, wants_down: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x through the adapter's branch and of A; `up` is stretched and scaled."""
    if not (wants_x or wants_down):
        return None, None
    d_inner = dy @ up.to(dy.dtype)
    d_x = (d_inner @ down.to(dy.dtype)).view(x.shape).to(x.dtype) if wants_x else None
    d_down = (d_inner.T @ _rows(x).to(dy.dtype)).to(down.dtype) if wants_down else None
    return d_x, d_down


def _up_grads(d_gated: Tensor, up: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of B and g from that of B diag(g), (O, R)."""
    if gate is None:
        return d_gated.to(up.dtype), None
    return (d_gated * gate).to(up.dtype), (d_gated * up).sum(0).to(gate.dtype)


def _summed_product(a: Tensor, b: Tensor, buffer: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """(O,) fp32: Σ_t a·b for two (T, O), and in fp32 the product's memory, to be used again."""
    if a.dtype == b.dtype == torch.float32:
        product = torch.mul(a, b, out=buffer)
        return product, product.sum(0)
    rows = max(1, PRODUCT_CHUNK // a.shape[1])
    total = torch.zeros(a.shape[1], device=a.device)
    for part, other in zip(torch.split(a, rows), torch.split(b, rows), strict=True):
        total += (part.float() * other.float()).sum(0)
    return None, total


class _Scratch(threading.local):
    """Memory for values that do not outlive a call: fresh pages would cost more than the arithmetic on them."""

    memory: Tensor | None = None


_scratch = _Scratch()


def scratch_like(tensor: Tensor) -> Tensor:
    """Uninitialised, of `tensor`'s shape; the same memory for every call of a thread, on a CPU and up to SCRATCH."""
    if tensor.device.type != "cpu" or tensor.dtype != torch.float32 or tensor.numel() > SCRATCH:
        return torch.empty_like(tensor)
    if _scratch.memory is None or _scratch.memory.numel() < tensor.numel():
        _scratch.memory = torch.empty(tensor.numel())
    return _scratch.memory[: tensor.numel()].view(tensor.shape)


def _times(dy: Tensor, stretch: Tensor, buffer: Tensor | None) -> Tensor:
    return torch.mul(dy, stretch, out=buffer).to(dy.dtype)


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):  # tensors without content know no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _gated(up: Tensor, gate: Tensor | None) -> Tensor:
    return up.float() if gate is None else up.float() * gate.float()


def _rows(tensor: Tensor) -> Tensor:
    """(T, last): all dimensions but the last as one."""
    return tensor.reshape(-1, tensor.shape[-1])
