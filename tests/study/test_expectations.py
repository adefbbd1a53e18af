"""`expect:`, `alerts:` and `trackers:`: each mistake at its line, with the nearest that there is."""

from collections.abc import Callable
from typing import Any

import pytest

Folder = Any
Edit = Callable[..., str]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("expect: {train_los: {below: 2}}", "there is no figure `train_los`; did you mean `train_loss`?"),
        ("expect: {train_loss: {belo: 2}}", "there is no key `belo` here; did you mean `below`?"),
        ("expect: {train_loss: [{below: 2}, {belo: 2}]}", "there is no key `belo` here; did you mean `below`?"),
        ("expect: {train_loss: {at_step: 5}}", "expects nothing: give `above`, `below` or both"),
        ("expect: {train_loss: {above: 3, below: 2}}", "nothing lies above 3 and below 2"),
        ("expect: {train_loss: {below: 3, at_step: 2, from_step: 1}}", "at_step is one row"),
        ("expect: {train_loss: {below: 3, stages: [adap]}}", "no variant has a stage `adap`; did you mean `adapt`?"),
        ("expect: {train_loss: {below: 3, variants: [ful]}}", "there is no variant `ful`; did you mean `full`?"),
        ("expect: {ful.accuracy: {above: 1}}", "there is no figure `ful.accuracy`; did you mean `full.accuracy`?"),
        ("expect: {full.accuracy: {above: 1, at_step: 3}}", "a score comes once, at the end: leave out the steps"),
        ("expect: {full.accuracy: {above: 1, stop: true}}", "there is nothing left to stop"),
        ("expect: {train_loss: 2}", "train_loss"),
        ("expect: [train_loss]", "must be a mapping of keys"),
        ("alerts: {comand: x}", "there is no key `comand` here; did you mean `command`?"),
        ("alerts: {slow_rank: 0.5}", "slow_rank"),
        ("trackers: {tag: [x]}", "there is no key `tag` here; did you mean `tags`?"),
        ("trackers: {run_name: '{sede}'}", "has no {sede}; known are {study}, {variant}, {seed}, {stage}, {job}"),
    ],
)
def test_told_at_its_line(folder: Folder, edited: Edit, written: str, message: str) -> None:
    text = edited(("defaults:\n", f"{written}\ndefaults:\n"))
    told = folder.error(text)
    line = text[: text.index(written)].count("\n") + 1
    assert message in told
    assert f"study.yaml:{line}: " in told
    assert not any(word in told for word in ("pydantic", "Traceback", "Input should", "type="))


def test_neither_bands_nor_alerts_nor_trackers_change_a_job(folder: Folder, edited: Edit) -> None:
    more = "expect: {train_loss: {below: 2}}\nalerts: {loss_margin: 1}\ntrackers: {project: p}\ndefaults:\n"
    before = {planned.job.id for planned in folder.plan(edited()).jobs}
    assert {planned.job.id for planned in folder.plan(edited(("defaults:\n", more))).jobs} == before
