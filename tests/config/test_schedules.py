"""Schedules equal transformers' own, step by step."""

import pytest
import torch
from transformers import get_scheduler

from tunestudy.config.schedules import schedule_of, steps_of
from tunestudy.config.stage import TrainStage

TOTAL, PEAK = 50, 2e-3


def stage(**settings: object) -> TrainStage:
    return TrainStage.model_validate({"data": ["d"], "learning_rate": PEAK, **settings})


CASES = [
    ("linear", {}, {}),
    ("cosine", {}, {}),
    ("constant", {}, {}),
    ("constant_with_warmup", {}, {}),
    ("inverse_sqrt", {}, {}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}, {"min_lr_rate": 0.1}),
    ("polynomial", {"min_lr_rate": 0.05}, {"lr_end": 0.05 * PEAK}),
    ("warmup_stable_decay", {"min_lr_rate": 0.1, "decay_steps": 12}, {"num_decay_steps": 12, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"decay_steps": 0.3}, {"num_decay_steps": 15}),
]


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(("kind", "ours", "theirs"), CASES)
def test_values_equal_those_of_transformers(kind: str, ours: dict, theirs: dict, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    reference = get_scheduler(kind, optimizer, warmup, TOTAL, scheduler_specific_kwargs=theirs)
    multiplier = schedule_of(stage(lr_scheduler_type=kind, warmup_steps=warmup, **ours), TOTAL)
    for step in range(TOTAL):
        assert PEAK * multiplier(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15), step
        optimizer.step()
        reference.step()


def test_steps_may_be_a_share_of_all_steps() -> None:
    assert steps_of(0.1, 55) == 6
    assert steps_of(1, 55) == 1
    assert steps_of(0, 55) == 0


def test_warmup_as_long_as_the_run_and_a_run_of_one_step() -> None:
    assert schedule_of(stage(warmup_steps=10), 10)(9) == pytest.approx(0.9)
    assert schedule_of(stage(lr_scheduler_type="cosine"), 1)(0) == 1.0
