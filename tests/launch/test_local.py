"""Slots of a machine and the selection of jobs."""

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import Resources
from tunestudy.launch import local
from tunestudy.launch.local import find_slots, visible_gpus
from tunestudy.launch.select import select


@pytest.fixture
def machine(monkeypatch):
    def make(*, gpus: str, cores: int = 8) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(local, "_cores", lambda: cores)

    return make


def test_cpu_slots_share_the_cores(machine):
    machine(gpus="", cores=8)
    assert len(find_slots(Resources())) == 8
    assert len(find_slots(Resources(ranks=2))) == 4
    slots = find_slots(Resources(ranks=2, threads=2))
    assert len(slots) == 2 and slots[0].environment == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    assert len(find_slots(Resources(ranks=99))) == 1


def test_gpu_slots_do_not_overlap(machine):
    machine(gpus="4,5,6,7,9", cores=20)
    slots = find_slots(Resources(ranks=2))
    assert [slot.devices for slot in slots] == [("4", "5"), ("6", "7")]
    assert [slot.threads for slot in slots] == [5, 5]
    assert [slot.name for slot in slots] == ["gpu4+5", "gpu6+7"]


def test_more_slots_than_gpus_share_them_in_turn(machine):
    machine(gpus="0,1")
    slots = find_slots(Resources(slots=3))
    assert [slot.devices for slot in slots] == [("0",), ("1",), ("0",)]
    assert len({slot.name for slot in slots}) == 3


def test_too_few_gpus_for_one_job_is_told(machine):
    machine(gpus="0")
    with pytest.raises(StudyError, match="4 ranks need 4 GPUs, this machine shows 1") as caught:
        find_slots(Resources(ranks=4))
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED


def test_devices_after_an_invalid_one_do_not_exist(machine):
    machine(gpus="GPU-12ab, 1,-1,3")
    assert visible_gpus() == ["GPU-12ab", "1"]


def test_only_takes_ancestors_along(fresh_study):
    jobs = fresh_study("s").jobs
    stages = lambda chosen: [job.stage for job in chosen]  # noqa: E731
    assert stages(select(jobs, ["v@adapt"], [])) == ["base", "adapt"]
    assert stages(select(jobs, [], [1])) == ["base", "other", "adapt", "merge"]
    assert stages(select(jobs, ["v@other"], [])) == ["other"]


@pytest.mark.parametrize(
    ("only", "seeds", "told"),
    [(["w"], [], "there are: v"), (["v@adopt"], [], "did you mean 'adapt'"), ([], [7], "there are: 1")],
)
def test_unknown_choice_names_what_there_is(fresh_study, only, seeds, told):
    with pytest.raises(StudyError, match=told):
        select(fresh_study("s").jobs, only, seeds)
