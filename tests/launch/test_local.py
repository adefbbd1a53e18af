"""Slots of a machine and the selection of jobs."""

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import Resources
from tunestudy.launch import local
from tunestudy.launch.local import find_slots, planned_slots, visible_gpus
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


def test_a_study_holds_no_more_gpus_than_it_may(machine):
    machine(gpus="4,5,6,7")
    assert [slot.name for slot in find_slots(Resources(gpus=2))] == ["gpu4", "gpu5"]
    with pytest.raises(StudyError, match=r"2 ranks need 2 GPUs, resources.gpus allows 1; set resources.ranks=1"):
        find_slots(Resources(gpus=1, ranks=2))


@pytest.mark.parametrize(("here", "told"), [("0,1", "shows 2; .* set resources.gpus=2"), ("", "shows none; .*=null")])
def test_more_gpus_than_there_are_can_be_planned_for_but_not_run_on(machine, here, told):
    machine(gpus=here)
    with pytest.raises(StudyError, match=told) as caught:
        find_slots(Resources(gpus=4))
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    assert [slot.name for slot in planned_slots(Resources(gpus=4))] == ["gpu0", "gpu1", "gpu2", "gpu3"]
    assert len(planned_slots(Resources(gpus=4, ranks=2, executor="slurm"))) == 2
    assert len(planned_slots(Resources(gpus=1, ranks=2))) == len(planned_slots(Resources(executor="ray"))) == 1


def test_jobs_share_gpus_when_told_to(machine):
    machine(gpus="0,1", cores=8)
    slots = find_slots(Resources(share_gpus=2))
    assert [slot.name for slot in slots] == ["gpu0", "gpu1", "gpu0#1", "gpu1#1"]
    assert [slot.gpus for slot in slots] == ["0", "1", "0", "1"]
    assert {(slot.threads, slot.memory_mb) for slot in slots} == {(2, None)}


@pytest.mark.parametrize(("smallest_mb", "jobs"), [(None, 1), (30_000.0, 2), (50_000.0, 1), (100_000.0, 1), (10.0, 8)])
def test_as_many_share_a_gpu_as_fit_in_its_memory(machine, monkeypatch, smallest_mb, jobs):
    machine(gpus="0,1")
    cards = [{"memory_bytes": size * 2**30} for size in (80, 79)]
    monkeypatch.setattr(local, "gpus", lambda: cards)
    slots = find_slots(Resources(share_gpus="auto"), smallest_mb=smallest_mb)
    assert len(slots) == 2 * jobs
    assert slots[0].memory_mb == (None if smallest_mb is None else pytest.approx(79 * 1024 * 0.95))


@pytest.mark.parametrize("wrong", [{"share_gpus": 0}, {"slots": 0}, {"gpus": 0}, {"share_gpus": "all"}])
def test_no_place_for_a_job_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Resources(**wrong)


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
    [(["w"], [], "known are: v"), (["v@adopt"], [], "did you mean `adapt`"), ([], [7], "known are: 1")],
)
def test_unknown_choice_names_what_there_is(fresh_study, only, seeds, told):
    with pytest.raises(StudyError, match=told):
        select(fresh_study("s").jobs, only, seeds)
