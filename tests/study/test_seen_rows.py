"""A score on rows that the model was trained on is announced in the plan."""

from collections.abc import Callable
from typing import Any

Folder = Any  # the class of conftest.py
Edit = Callable[..., str]

BASE = "base: {data: upright,"


def flattering(folder: Folder, text: str) -> list[str]:
    return [line for line in folder.plan(text).warnings if "flatter" in line]


def test_a_benchmark_on_training_rows_is_a_warning(folder: Folder, edited: Edit) -> None:
    [line] = flattering(folder, edited(("dataset: rotated@held_out", "dataset: rotated")))
    assert "benchmark `accuracy` scores `rotated`" in line
    assert "full, lora_r4, lora_r16" in line and "untrained" not in line
    assert "`rotated@held_out`" in line


def test_eval_data_on_training_rows_is_a_warning(folder: Folder, edited: Edit) -> None:
    [line] = flattering(folder, edited((BASE, f"{BASE} eval_data: upright,")))
    assert "eval_data of `base` scores `upright`" in line


def test_held_out_rows_and_other_data_are_fine(folder: Folder, edited: Edit) -> None:
    assert flattering(folder, edited()) == []
    assert flattering(folder, edited((BASE, f"{BASE} eval_data: rotated,"))) == []
