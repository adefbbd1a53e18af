"""Each method against its paper's formula, written out in float64 with sorting and whole arrays."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import MergeStage
from tunestudy.merge import parts
from tunestudy.merge.drop import Drop
from tunestudy.merge.methods import method_named
from tunestudy.merge.whole import merge_differences

Array = NDArray[np.float64]
NAME = "model.layers.0.mlp.up_proj.weight"
COUNT = parts.PART + 4321
"""Two parts."""
KNOWN = [0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1]
"""Which of the first 32 values are kept with key 12345 and density 0.3."""


def stage(method: str, weights: dict[str, float], density: float | None = None, **others: Any) -> MergeStage:
    one = {} if density is None else {"density": density}
    models = {name: {"path": name, "weight": weight, **one} for name, weight in weights.items()}
    base = {} if method in ("linear", "slerp") else {"base": {"path": "base"}}
    return MergeStage(method=method, models=models, **base, **others)  # type: ignore[arg-type]


def drawn(seed: int, *names: str, count: int = COUNT) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, generator=generator) for name in names}


def merged(settings: MergeStage, values: dict[str, torch.Tensor], seed: int = 0) -> Array:
    return merge_differences(NAME, values, settings, seed=seed).numpy().astype(np.float64)


def trimmed(values: Array, density: float) -> Array:
    """By a stable sort: of equal magnitudes the lower index comes first."""
    count = max(1, int(density * len(values)))
    kept = np.zeros_like(values)
    largest = np.argsort(-np.abs(values), kind="stable")[:count]
    kept[largest] = values[largest]
    return kept


def disjoint(rows: list[Array], weights: list[float], *, mean: bool) -> Array:
    stacked = np.stack([row * weight for row, weight in zip(rows, weights, strict=True)])
    sign = np.sign(stacked.sum(0))
    agree = (np.sign(stacked) == sign) & (sign != 0)
    total = np.where(agree, stacked, 0).sum(0)
    share = (agree * np.abs(np.array(weights))[:, None]).sum(0)
    return total / np.where(share == 0, 1, share) if mean else total


def arrays(values: dict[str, torch.Tensor]) -> list[Array]:
    return [one.numpy().astype(np.float64) for one in values.values()]


@pytest.mark.parametrize("normalize", [None, True, False])
def test_linear(normalize: bool | None) -> None:
    values = drawn(1, "a", "b", "c")
    one, two, three = arrays(values)
    expected = (0.5 * one + 0.25 * two + 1.5 * three) / (1 if normalize is False else 2.25)
    found = merged(stage("linear", {"a": 0.5, "b": 0.25, "c": 1.5}, normalize=normalize), values)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("normalize", [None, True])
def test_task_arithmetic(normalize: bool | None) -> None:
    values = drawn(2, "a", "b")
    one, two = arrays(values)
    expected = 0.7 * (0.5 * one - 0.25 * two) / (0.25 if normalize else 1)
    found = merged(stage("task_arithmetic", {"a": 0.5, "b": -0.25}, scale=0.7, normalize=normalize), values)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("density", [0.2, 1e-9, 0.999, 1.0])
@pytest.mark.parametrize("normalize", [None, False])
def test_ties(density: float, normalize: bool | None) -> None:
    values, weights = drawn(3, "a", "b", "c"), {"a": 0.6, "b": 0.4, "c": -0.3}
    rows = [trimmed(row, density) for row in arrays(values)]
    expected = 0.9 * disjoint(rows, list(weights.values()), mean=normalize is None)
    found = merged(stage("ties", weights, density, scale=0.9, normalize=normalize), values)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.8])
def test_ties_of_equal_magnitudes_keep_the_lower_index(density: float) -> None:
    """Few distinct values, zeros among them: as differences of bfloat16 weights are; one sits at the threshold."""
    generator = torch.Generator().manual_seed(4)
    values = {"a": torch.randint(-3, 4, (COUNT,), generator=generator) * 2.0**-10}
    expected = trimmed(arrays(values)[0], density)
    np.testing.assert_array_equal(merged(stage("ties", {"a": 1.0}, density), values), expected)


def test_ties_adds_nothing_where_signs_cancel() -> None:
    values = {"a": torch.tensor([1.0, 2.0, -3.0]), "b": torch.tensor([-1.0, 2.0, 1.0])}
    assert merged(stage("ties", {"a": 0.5, "b": 0.5}, 1.0), values).tolist() == [0.0, 2.0, -3.0]


@pytest.mark.parametrize("magnitude", [1e-35, 1e-20, 1e30])
def test_ties_holds_for_tiny_and_huge_differences(magnitude: float) -> None:
    values = {name: one * magnitude for name, one in drawn(5, "a", "b", count=5000).items()}
    rows = [trimmed(row, 0.3) for row in arrays(values)]
    expected = disjoint(rows, [1.0, 1.0], mean=True)
    np.testing.assert_allclose(merged(stage("ties", {"a": 1, "b": 1}, 0.3), values), expected, atol=magnitude * 1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [0.1, 0.37, 1.0])
def test_dare(method: str, density: float) -> None:
    """Kept values are told from the merge of each model alone; the formula does the rest."""
    values, weights = drawn(6, "a", "b"), {"a": 0.6, "b": 0.4}
    rows = []
    for name, row in zip(values, arrays(values), strict=True):
        alone = merged(stage("dare_linear", {name: 1.0}, density), {name: values[name]}, seed=7)
        kept = alone != 0
        assert abs(kept.mean() - density) < 5 * np.sqrt(density * (1 - density) / COUNT) + 1e-12
        np.testing.assert_allclose(alone[kept], row[kept] / density, rtol=1e-6)
        rows.append(np.where(kept, row / density, 0))
    ties = method == "dare_ties"
    expected = disjoint(rows, [0.6, 0.4], mean=True) if ties else 0.6 * rows[0] + 0.4 * rows[1]
    np.testing.assert_allclose(merged(stage(method, weights, density), values, seed=7), expected, atol=1e-5)


def test_dare_depends_on_seed_and_model_and_tensor_and_on_nothing_else() -> None:
    values = drawn(8, "a")["a"]

    def kept(seed: int, model: str, tensor: str) -> list[bool]:
        settings = stage("dare_linear", {model: 1.0}, 0.5)
        return (merge_differences(tensor, {model: values}, settings, seed=seed) != 0).tolist()

    first = kept(1, "a", "x")
    assert kept(1, "a", "x") == first
    for other in (kept(2, "a", "x"), kept(1, "b", "x"), kept(1, "a", "y")):
        assert 0.45 < np.mean(np.array(first) == np.array(other)) < 0.55


def test_draws_of_any_run_are_those_of_the_whole() -> None:
    drop = Drop(0.3, 12345)
    whole = drop.kept(0, 1000)
    np.testing.assert_array_equal(drop.kept(320, 555), whole[320:875])
    assert whole[:32].astype(int).tolist() == KNOWN, "a study made before would now drop others"


@pytest.mark.parametrize("density", [1e-4, 0.3, 1 - 1e-4])
def test_draws_have_the_density_beyond_what_their_bytes_resolve(density: float) -> None:
    count = 4_000_000
    share = Drop(density, 99).kept(0, count).mean()
    assert abs(share - density) < 5 * np.sqrt(density * (1 - density) / count)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(t: float) -> None:
    values = drawn(9, "a", "b")
    one, two = arrays(values)
    angle = np.arccos(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    expected = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)
    np.testing.assert_allclose(merged(stage("slerp", {"a": 1, "b": 1}, t=t), values), expected, atol=2e-6)


def test_slerp_of_nearly_parallel_or_empty_tensors_is_the_straight_line() -> None:
    one = drawn(10, "a", count=100)["a"]
    for two in (one * 1.5, torch.zeros(100)):
        found = merged(stage("slerp", {"a": 1, "b": 1}, t=0.25), {"a": one, "b": two})
        np.testing.assert_allclose(found, 0.75 * one.numpy() + 0.25 * two.numpy(), rtol=1e-5, atol=1e-7)


def test_a_roles_own_weight_and_density_win() -> None:
    models = {
        "a": {"path": "a", "weight": 1.0, "density": 0.5, "weights": {"lm_head": 3.0}, "densities": {"lm_head": 1}}
    }
    settings = MergeStage(method="ties", base={"path": "b"}, models=models, normalize=False)  # type: ignore[arg-type]
    values = drawn(11, "a", count=100)
    head = merge_differences("lm_head.weight", values, settings, seed=0)
    np.testing.assert_allclose(head.numpy(), 3 * values["a"].numpy(), rtol=1e-6)
    assert int((merge_differences(NAME, values, settings, seed=0) != 0).sum()) == 50


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_weights_that_cancel_cannot_be_divided_by(method: str) -> None:
    with pytest.raises(StudyError, match="sum up to 0"):
        merged(stage(method, {"a": 1.0, "b": -1.0}, normalize=True), drawn(12, "a", "b", count=8))


def test_every_method_of_the_settings_is_a_module() -> None:
    for name in ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "slerp"):
        assert callable(method_named(name).for_tensor)
