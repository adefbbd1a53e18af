"""Slots of an allocation, without SLURM: what it says in the environment is enough."""

from pathlib import Path

import pytest

from tunestudy.config.resources import Resources
from tunestudy.launch import local
from tunestudy.launch.slurm.place import Allocation, place_for
from tunestudy.launch.slurm.script import _cpus as cpus
from tunestudy.launch.slurm.script import gpus_per_node


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two nodes, of which SLURM gave 2 of 8 GPUs and 16 processors each."""
    told = {"SLURM_JOB_NODELIST": "n1,n2", "SLURMD_NODENAME": "n1", "SLURM_CPUS_ON_NODE": "16"}
    for name, value in {**told, "CUDA_VISIBLE_DEVICES": "4,6"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(local, "gpus", lambda: [{"memory_bytes": 80 * 2**30}] * 8)
    monkeypatch.setattr(local, "_cores", lambda: 64)


@pytest.mark.parametrize(
    ("wanted", "slots", "threads"),
    [
        ({}, 4, 8),
        ({"ranks": 2}, 2, 8),
        ({"share_gpus": 2}, 8, 4),
        ({"slots": 16}, 16, 2),
        ({"share_gpus": 2, "threads": 3}, 8, 3),
    ],
)
def test_the_jobs_of_a_node_together_have_the_processors_that_it_gave(wanted, slots, threads):
    place = place_for(Resources(**wanted), Path(), single=False)
    assert len(place.slots) == slots
    assert {slot.threads for slot in place.slots} == {threads}


def test_a_job_of_its_own_has_all_of_them():
    (slot,) = place_for(Resources(share_gpus=4, slots=9), Path(), single=True).slots
    assert (slot.name, slot.threads, slot.devices) == ("n1:gpu4", 16, ("4",))


@pytest.mark.parametrize(("smallest_mb", "each"), [(None, 1), (30_000.0, 2)])
def test_jobs_share_its_gpus_by_their_memory(smallest_mb, each):
    place = place_for(Resources(share_gpus="auto"), Path(), single=False, smallest_mb=smallest_mb)
    assert isinstance(place, Allocation) and len(place.slots) == 4 * each
    assert len({slot.gpus for slot in place.slots}) == 4
    assert {slot.threads for slot in place.slots} == {8 // each}


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        ({"gpus": 4}, 2),
        ({"gpus": 4, "share_gpus": 3, "threads": 2}, 12),
        ({"ranks": 4, "slots": 2}, 4),
        ({"slots": 6}, 3),
    ],
)
def test_processors_are_asked_for_as_many_jobs_as_a_node_takes(wanted, asked):
    resources = Resources.model_validate({**wanted, "slurm": {"mode": "allocation", "nodes": 2}})
    gpus = gpus_per_node(resources, allocation=True, has_gpus=True)
    assert cpus(resources, gpus, allocation=True) == asked
