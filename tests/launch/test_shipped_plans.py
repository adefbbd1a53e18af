"""Studies that ship are foreseen and packed from what their files state, without the hub and without a GPU."""

import shutil
from pathlib import Path

import pytest

from tunestudy.launch.estimates.outlook import Outlook, make_outlook
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

STUDIES = Path(__file__).parents[2] / "studies"
HOUR_S = 3600


def outlook_of(name: str, folder: Path, *overrides: str) -> Outlook:
    shutil.copy(STUDIES / name, folder)
    return make_outlook(make_plan(load_study(folder / name, overrides), folder / "results"))


def test_the_curricula_fit_into_their_six_hours(tmp_path: Path) -> None:
    """Four GPUs, stages one after the other, evaluation included: as planned by hand, and no later than that."""
    verdict = outlook_of("qwen3vl_curriculum.yaml", tmp_path).schedule.verdict
    assert verdict is not None and verdict.fits and verdict.wall_clock_s == 6 * HOUR_S and verdict.slots == 4
    one = 1.5 * HOUR_S + (0.5 + 1) / 2 * HOUR_S  # of an experiment: its steps and its evaluation
    assert one < verdict.makespan_s < 2 * one + 0.5 * HOUR_S, "by hand, two of them share a GPU"
    few = outlook_of("qwen3vl_curriculum.yaml", tmp_path, "resources.gpus=2").schedule.verdict
    assert few is not None and few.fits is (few.makespan_s <= 6 * HOUR_S) and few.makespan_s > verdict.makespan_s


def test_the_plan_of_the_world_study_takes_its_days(tmp_path: Path) -> None:
    """18,750 steps of 3 s and 375 saves of 5 to 10 minutes; 100,000 samples go before the full pool."""
    found = outlook_of("theworld_datacomp.yaml", tmp_path)
    seconds = {one.variant: one.total_s for one in found.experiments}
    assert seconds["plan_100k"] == pytest.approx(3 * (18_750 * 3 + 375 * 450 + 900))
    assert seconds["base"] == 900 and seconds["random_projection"] == 3 * 900, "nothing but their benchmarks"
    assert [slot.name for slot in found.schedule.slots] == ["gpu0+1"], "one job at a time, on both"
