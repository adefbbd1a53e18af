"""Slots on this machine: how many jobs run at once, and what each of them may use."""

import os
from dataclasses import dataclass

import psutil

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.resources import Resources
from tunestudy.records.snapshot import gpus, usable_threads

HOSTS = "hosts"
"""The slot of a job that is spread over hosts."""


@dataclass(frozen=True)
class Slot:
    """A place for one job."""

    name: str
    """`gpu0`, `gpu0+1`, `cpu0`: the same for every launcher on a machine."""
    ranks: int
    devices: tuple[str, ...]
    """GPU indices or uuids; empty on a CPU slot."""
    threads: int
    """Threads of one rank."""

    @property
    def environment(self) -> dict[str, str]:
        """What keeps jobs out of each other's way. Two jobs with two threads each on two cores run about 100 times
        slower than with one each, hence the thread count is always set."""
        if self.name == HOSTS:  # every host has its own GPUs, and shows what it wants to
            return {"OMP_NUM_THREADS": str(self.threads)}
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.devices), "OMP_NUM_THREADS": str(self.threads)}


def find_slots(resources: Resources) -> list[Slot]:
    """The slots of this machine for jobs of `resources.ranks` ranks; StudyError when not even one job fits.

    Spread over hosts there is one: a job takes all of them.
    """
    if resources.is_spread:
        return [Slot(HOSTS, resources.ranks, (), resources.threads or 1)]
    devices = visible_gpus()
    return _gpu_slots(resources, devices) if devices else _cpu_slots(resources)


def visible_gpus() -> list[str]:
    """GPUs this process may use: CUDA_VISIBLE_DEVICES where it is set, else all that nvidia-smi lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(gpu["index"]) for gpu in gpus()]
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names  # CUDA ignores what follows an invalid one


def _gpu_slots(resources: Resources, devices: list[str]) -> list[Slot]:
    ranks, wanted = resources.ranks, resources.ranks * resources.gpus_per_rank
    groups = [tuple(devices[start : start + wanted]) for start in range(0, len(devices) - wanted + 1, wanted)]
    if not groups:
        key, word = ("ranks", "ranks need") if resources.gpus_per_rank == 1 else ("gpus_per_rank", "GPUs per rank need")
        raise StudyError(
            at(f"resources.{key}"),
            f"{wanted} {word} {wanted} GPUs, this machine shows {len(devices)}; set resources.{key}={len(devices)}",
            exit_code=Exit.PREFLIGHT_REFUSED,
        )
    count = len(groups) if resources.slots == "auto" else resources.slots
    threads = resources.threads or max(1, _cores() // (count * ranks))
    rounds = [(groups[place % len(groups)], place // len(groups)) for place in range(count)]
    return [Slot(f"gpu{'+'.join(group)}" + f"#{turn}" * bool(turn), ranks, group, threads) for group, turn in rounds]


def _cpu_slots(resources: Resources) -> list[Slot]:
    threads = resources.threads or 1
    fitting = max(1, _cores() // (resources.ranks * threads))
    count = fitting if resources.slots == "auto" else resources.slots
    return [Slot(f"cpu{place}", resources.ranks, (), threads) for place in range(count)]


def _cores() -> int:
    """Cores, not hardware threads: two trainings that share a core are no faster than one after the other."""
    return min(usable_threads(), psutil.cpu_count(logical=False) or usable_threads())
