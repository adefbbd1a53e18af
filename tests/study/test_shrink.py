"""The forecast of the shrink budget, against a simulation of gates and against what was measured before."""

from typing import Any

import numpy as np
import pytest

from tunestudy.config.stage import TrainStage
from tunestudy.study.shrink import forecast, warnings

Folder = Any
STEPS = 3000


def stage(steps: int = STEPS, lr: float = 2e-4, scheduler: str = "linear", **adapter: Any) -> TrainStage:
    return TrainStage.model_validate(
        {
            "data": "d",
            "learning_rate": lr,
            "max_steps": steps,
            "lr_scheduler_type": scheduler,
            "adapter": {"type": "sora", **adapter},
        }
    )


@pytest.mark.parametrize(("strength", "measured"), [(0.1, 0.021), (0.3, 0.071), (0.5, 0.121), (1.0, 0.24), (5.0, 0.87)])
def test_scaled_by_the_rate_as_measured(strength: float, measured: float) -> None:
    """The measurement drew some thousand gates, so its shares are off by a few tenths of a percent."""
    found = forecast(stage(sparse_lambda=strength), STEPS)
    assert found is not None
    assert found.share == pytest.approx(measured, abs=0.006)
    assert found.budget == pytest.approx(strength * 2e-4 * (STEPS + 1) / 2)


@pytest.mark.parametrize(("strength", "step"), [(0.1, 27), (0.3, 9), (0.5, 6)])
def test_absolute_as_measured(strength: float, step: int) -> None:
    found = forecast(stage(sparse_lambda=strength, prox="absolute"), STEPS)
    assert found is not None
    assert found.share == pytest.approx(1.0)
    assert found.dead_by is not None
    assert abs(found.dead_by - step) <= 1
    assert f"dead by step {found.dead_by}" in str(found)


def simulated(settings: TrainStage, rates: np.ndarray, strengths: np.ndarray, gates: np.ndarray) -> float:
    """Share at zero after the proximal steps alone, one after the other."""
    adapter: Any = settings.adapter
    for rate, strength in zip(rates, strengths, strict=True):
        pull = strength * (rate if adapter.prox == "lr_scaled" else 1.0)
        if adapter.threshold == "soft":
            gates = np.sign(gates) * np.maximum(np.abs(gates) - pull, 0)
        else:  # in the order of the published code
            gates = np.where(gates > pull, gates - pull, np.where(gates < -pull, gates + pull, gates))
            gates = np.where(np.abs(gates) < pull, 0, gates)
    return float((gates == 0).mean())


@pytest.mark.parametrize("threshold", ["soft", "official"])
@pytest.mark.parametrize("prox", ["lr_scaled", "absolute"])
@pytest.mark.parametrize("scheduler", ["linear", "constant"])
@pytest.mark.parametrize("strengths", [(0.8,), (0.0, 0.5, 3.0), (3.0, 0.2)])
def test_equals_a_simulation(threshold: str, prox: str, scheduler: str, strengths: tuple[float, ...]) -> None:
    steps = 40
    scale = 1.0 if prox == "lr_scaled" else 0.02
    settings = stage(
        steps,
        lr=0.02,
        scheduler=scheduler,
        threshold=threshold,
        prox=prox,
        sparse_lambda_schedule=[s * scale for s in strengths],
    )
    rates = 0.02 * (1 - np.arange(steps) / steps if scheduler == "linear" else np.ones(steps))
    of_step = np.array([strengths[step * len(strengths) // steps] * scale for step in range(steps)])
    grid = np.linspace(-4, 4, 20_001)
    weight = np.exp(-(grid**2) / 2)
    died = [simulated(settings, rates, of_step, np.array([value])) for value in grid[::50]]
    expected = float((np.array(died) * weight[::50]).sum() / weight[::50].sum())
    found = forecast(settings, steps)
    assert found is not None
    assert found.share == pytest.approx(expected, abs=0.02)


def test_long_runs_are_summed_at_fewer_steps() -> None:
    found = forecast(stage(1_000_000, sparse_lambda=0.01), 1_000_000)
    assert found is not None
    assert found.budget == pytest.approx(0.01 * 2e-4 * 1_000_001 / 2, rel=1e-3)


def test_ones_die_together() -> None:
    below, above = (forecast(stage(gate_init="ones", sparse_lambda=s), STEPS) for s in (3.0, 4.0))
    assert below is not None
    assert above is not None
    assert (below.share, above.share) == (0.0, 1.0)


def test_a_target_is_held_and_steps_may_be_unknown() -> None:
    held = forecast(stage(target_sparsity=0.5, sparse_lambda=0.3), None)
    unknown = forecast(stage(sparse_lambda=0.3), None)
    assert str(held) == "held at 50 % by target_sparsity"
    assert "not known before the data are read" in str(unknown)
    assert unknown is not None
    assert list(warnings("adapt", stage(sparse_lambda=0.3), unknown)) == []


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"sparse_lambda": 0.3}, []),
        ({"sparse_lambda": 0.3, "prox": "absolute"}, ["shuts every gate by step 9 of 3,000", "about 0.00022 would"]),
        ({"sparse_lambda": 20.0}, ["sparse_lambda 20 with prox: lr_scaled shuts every gate", "about 2.2 would"]),
        ({"sparse_lambda": 0.01}, ["shuts 0.239 % of the gates, next to none", "about 2.2 would shut half"]),
        ({"sparse_lambda_schedule": [0, 0.01]}, ["0 → 0.01", "let target_sparsity hold"]),
        ({"target_sparsity": 0.5, "prox": "absolute"}, ["prox have no effect where target_sparsity"]),
        ({"target_sparsity": 0.5, "sparse_lambda": 0.3}, []),
    ],
)
def test_warnings(adapter: dict[str, Any], said: list[str]) -> None:
    settings = stage(**adapter)
    seen = forecast(settings, STEPS)
    assert seen is not None
    told = list(warnings("adapt (sora)", settings, seen))
    assert len(told) == bool(said)
    assert all(piece in told[0] for piece in said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"early_stopping_patience": 2}, "early_stopping_patience may end the stage before target_sparsity is reached"),
        ({"load_best_model_at_end": True}, "may publish weights from before target_sparsity was reached"),
    ],
)
def test_a_target_needs_the_whole_run(settings: dict[str, Any], said: str) -> None:
    wanted = stage(target_sparsity=0.5).model_copy(update=settings)
    seen = forecast(wanted, STEPS)
    assert seen is not None
    (told,) = warnings("adapt (sora)", wanted, seen)
    assert said in told


def test_a_plan_prints_it_and_warns(folder: Folder, edited: Any) -> None:
    from tunestudy.study.show import plan_lines

    text = edited(("adapt.adapter.lora_r:", "adapt.adapter: {type: sora, prox: absolute, sparse_lambda: 0.3}  #"))
    plan = folder.plan(text.replace("lora_r{r}", "sora_{r}").replace("[4, 16]", "[4]"))
    (gated,) = plan.as_json()["gates"]
    assert gated["variants"] == ["sora_4"]
    assert gated["expected_sparsity"] == pytest.approx(1.0)
    lines = "\n".join(plan_lines(plan))
    assert "Gates, were nothing but the proximal step to move them:\n  adapt (sora_4): ≈ 100 % shut" in lines
    assert any("adapt (sora_4): sparse_lambda 0.3 with prox: absolute" in line for line in plan.warnings)
    assert folder.plan().as_json()["gates"] == []
