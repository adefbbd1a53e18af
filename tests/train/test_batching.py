"""Solving for the cut of a step."""

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.config.stage import TrainStage
from tunestudy.train.batching import BatchPlan, plan_batches


def plan(ranks: int = 1, **settings: object) -> tuple[int, int, int]:
    stage = TrainStage.model_validate({"data": ["d"], "learning_rate": 1e-3, "max_length": 1024, **settings})
    made = plan_batches(stage, ranks, stage="adapt")
    return made.micro_batch, made.accumulation, made.effective


def test_what_is_open_is_solved_for() -> None:
    assert plan(effective_batch_size=32, per_device_train_batch_size=4) == (4, 8, 32)
    assert plan(2, effective_batch_size=32, per_device_train_batch_size=4) == (4, 4, 32)
    assert plan(2, effective_batch_size=32, gradient_accumulation_steps=8) == (2, 8, 32)
    assert plan(2, per_device_train_batch_size=3, gradient_accumulation_steps=5) == (3, 5, 30)
    assert plan(effective_batch_size=32) == (8, 4, 32)
    assert plan(effective_batch_size=6, max_length=100_000) == (1, 6, 6)


@pytest.mark.parametrize(
    ("ranks", "settings", "message"),
    [
        (2, {"effective_batch_size": 9}, "9 does not divide by 2 ranks; nearest that do: 8, 10"),
        (1, {"effective_batch_size": 2, "per_device_train_batch_size": 4}, "nearest that do: 4"),
        (
            1,
            {"effective_batch_size": 8, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
            "8 is not 3 × 2 × 1 ranks",
        ),
    ],
)
def test_contradictions_are_errors_with_the_nearest_that_work(ranks: int, settings: dict, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        plan(ranks, **settings)
    assert caught.value.place.key == "stages.adapt.effective_batch_size"


@pytest.mark.parametrize(
    ("cut", "most", "micro", "accumulation"),
    [
        ((8, 1), 4, 4, 2),
        ((6, 2), 3, 3, 4),
        ((6, 1), 4, 3, 2),
        ((8, 1), 8, 8, 1),
        ((8, 1), None, 8, 1),
        ((2, 3), 5, 2, 3),
    ],
)
def test_less_at_a_time_leaves_the_effective_batch(
    cut: tuple[int, int], most: int | None, micro: int, accumulation: int
) -> None:
    before = BatchPlan(micro_batch=cut[0], accumulation=cut[1], world_size=2)
    after = before.at_most(most)
    assert (after.micro_batch, after.accumulation) == (micro, accumulation)
    assert after.effective == before.effective
