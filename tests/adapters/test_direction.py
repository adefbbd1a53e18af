"""The factored norm and the product: against dense fp64, without dense temporaries, safe on rows of zeros."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tunestudy.adapters.direction import directed, direction_of, row_norms, row_squares

OUT, IN, RANK, TOKENS = 96, 80, 4, 10
SCALE = 2.0


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parts(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {
        "weight": normal(OUT, IN, seed=1, dtype=dtype),
        "down": normal(RANK, IN, seed=2) / 8,
        "up": normal(OUT, RANK, seed=3) / 2,
        "magnitude": normal(OUT, seed=4).abs() + 0.5,
        "gate": normal(RANK, seed=5),
        "bias": normal(OUT, seed=6),
        "x": normal(2, TOKENS // 2, IN, seed=7, dtype=dtype),
    }


def dense_norms(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, gate: Any = None) -> torch.Tensor:
    gated = up.double() if gate is None else up.double() * gate.double()
    return (weight.double() + SCALE * gated @ down.double()).norm(dim=1)


class Shapes(TorchDispatchMode):
    """Shapes of all that is newly computed; views of the weight are not."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.seen.add(tuple(tensor.shape))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gated", [False, True])
def test_norms_are_those_of_the_dense_sum(dtype, gated):
    p = parts(dtype)
    gate = p["gate"] if gated else None
    norms = row_norms(p["weight"], p["down"], p["up"], scale=SCALE, gate_R=gate)
    torch.testing.assert_close(norms.double(), dense_norms(p["weight"], p["down"], p["up"], gate), rtol=1e-6, atol=0)


def test_a_transposed_weight_is_as_good():
    p = parts()
    stored = p["weight"].T.contiguous()
    norms = row_norms(stored.T, p["down"], p["up"], scale=SCALE)
    torch.testing.assert_close(norms.double(), dense_norms(p["weight"], p["down"], p["up"]), rtol=1e-6, atol=0)


def test_rows_that_almost_cancel_keep_their_digits():
    """Without the direct sum, the norm of these rows is rounding error."""
    p = parts()
    p["weight"] = -SCALE * p["up"] @ p["down"] * 0.9999
    exact = dense_norms(p["weight"], p["down"], p["up"])
    norms = row_norms(p["weight"], p["down"], p["up"], scale=SCALE)
    torch.testing.assert_close(norms.double(), exact, rtol=1e-3, atol=1e-7)


def test_rows_of_zeros_have_norm_zero():
    p = parts()
    p["weight"][3], p["up"][3] = 0, 0
    norms = row_norms(p["weight"], p["down"], p["up"], scale=SCALE)
    assert norms[3] == 0 and bool((norms[:3] > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_temporary_of_the_weights_size(dtype):
    p = parts(dtype)
    leaves = {name: p[name].requires_grad_() for name in ("down", "up", "magnitude", "gate", "x")}
    weight = p["weight"]
    result = torch.nn.functional.linear(p["x"], weight, p["bias"].to(dtype))
    with Shapes() as shapes:
        norm = row_norms(weight, p["down"], p["up"], scale=SCALE, gate_R=p["gate"], squares_O=row_squares(weight))
        output(p, result, norm, keep_output=True).float().square().sum().backward()
    assert all(leaf.grad is not None for leaf in leaves.values())
    assert (TOKENS, OUT) in shapes.seen  # the mode sees the backward pass's operations
    dense = {(OUT, IN), (IN, OUT), (IN, IN), (OUT, OUT)}
    assert not shapes.seen & dense, shapes.seen & dense


def output(p: dict[str, Any], result: torch.Tensor, norm: torch.Tensor, *, keep_output: bool) -> torch.Tensor:
    found = direction_of(norm, up_OR=p["up"], magnitude_O=p["magnitude"], gate_R=p["gate"], scale=SCALE)
    return directed(
        result,
        p["x"],
        found if keep_output else replace(found, recoverable=False),
        bias_O=p["bias"],
        down_RI=p["down"],
        up_OR=p["up"],
        magnitude_O=p["magnitude"],
        gate_R=p["gate"],
    )


def recoverable(p: dict[str, Any], norm: torch.Tensor) -> bool:
    return direction_of(norm, up_OR=p["up"], magnitude_O=p["magnitude"], gate_R=p["gate"], scale=SCALE).recoverable


def dense_output(p: dict[str, Any], norm: torch.Tensor) -> torch.Tensor:
    delta = SCALE * (p["up"] * p["gate"]) @ p["down"]
    direction_OI = (p["weight"] + delta) / norm.unsqueeze(1)
    return p["x"] @ (p["magnitude"].unsqueeze(1) * direction_OI).T + p["bias"]


@pytest.mark.parametrize("keep_output", [False, True])
def test_output_and_gradients_are_those_of_the_dense_product(keep_output):
    p = {name: value.double() for name, value in parts().items()}
    norm = dense_norms(p["weight"], p["down"], p["up"], p["gate"])
    wanted = {name: value.clone().requires_grad_() for name, value in p.items() if name != "weight"}
    expected = dense_output({**p, **wanted}, norm)
    direct = normal(*expected.shape, seed=9).double()
    (expected * direct).sum().backward()
    got = {name: value.float().requires_grad_() for name, value in p.items() if name != "weight"}
    result = torch.nn.functional.linear(got["x"], p["weight"].float(), got["bias"])
    actual = output(got, result, norm.float(), keep_output=keep_output)
    (actual * direct.float()).sum().backward()
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    for name, leaf in got.items():
        error = (leaf.grad.double() - wanted[name].grad).norm() / wanted[name].grad.norm()
        assert error < 1e-6, name


@pytest.mark.parametrize("keep_output", [False, True])
def test_a_row_of_zeros_is_its_bias_and_has_finite_gradients(keep_output):
    p = parts()
    p["weight"][3], p["up"][3], p["magnitude"][3] = 0, 0, 0
    leaves = [p[name].requires_grad_() for name in ("x", "bias", "down", "up", "magnitude", "gate")]
    norm = row_norms(p["weight"], p["down"], p["up"], scale=SCALE, gate_R=p["gate"])
    assert recoverable(p, norm)
    result = torch.nn.functional.linear(p["x"], p["weight"], p["bias"])
    out = output(p, result, norm, keep_output=keep_output)
    assert torch.equal(out[..., 3], p["bias"][3].expand(out.shape[:-1]))
    out.square().sum().backward()
    assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves)
    assert p["magnitude"].grad[3] == 0 and not p["up"].grad[3].any()


def test_a_magnitude_of_zero_still_gets_its_gradient():
    """Its output is zero, so the product cannot be had back from it."""
    p = parts()
    p["magnitude"][5] = 0
    norm = row_norms(p["weight"], p["down"], p["up"], scale=SCALE, gate_R=p["gate"])
    assert not recoverable(p, norm)
    p["magnitude"].requires_grad_()
    result = torch.nn.functional.linear(p["x"], p["weight"], p["bias"])
    output(p, result, norm, keep_output=True).sum().backward()  # as far as it can
    reference = p["magnitude"].detach().clone().requires_grad_()
    dense_output({**p, "magnitude": reference}, norm).sum().backward()
    assert reference.grad[5] != 0
    torch.testing.assert_close(p["magnitude"].grad, reference.grad, rtol=1e-4, atol=1e-4)
