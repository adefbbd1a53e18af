"""Slots on this machine: how many jobs run at once, and what each of them may use."""

import os
from dataclasses import dataclass

import psutil

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.resources import Resources
from tunestudy.records.snapshot import gpus, usable_threads

HOSTS = "hosts"
"""The slot of a job that is spread over hosts."""
_MOST_SHARING = 8
"""Jobs on one GPU at most with `share_gpus: auto`: more only wait for each other."""
_USABLE = 0.95
"""Share of a GPU's memory that jobs may take together: its driver and their fragments need the rest."""


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
    memory_mb: float | None = None
    """What jobs that share its GPUs may take together, each GPU; None: not looked at."""

    @property
    def gpus(self) -> str:
        """Equal for slots that share GPUs."""
        node = self.name.rpartition(":")[0]  # of an allocation on several
        return f"{node}:" * bool(node) + "+".join(self.devices) if self.devices else self.name

    @property
    def environment(self) -> dict[str, str]:
        """What keeps jobs out of each other's way. Two jobs with two threads each on two cores run about 100 times
        slower than with one each, hence the thread count is always set."""
        if self.name == HOSTS:  # every host has its own GPUs, and shows what it wants to
            return {"OMP_NUM_THREADS": str(self.threads)}
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.devices), "OMP_NUM_THREADS": str(self.threads)}


def find_slots(resources: Resources, *, smallest_mb: float | None = None) -> list[Slot]:
    """The slots of this machine for jobs of `resources.ranks` ranks; StudyError when not even one job fits.

    `smallest_mb`: GPU memory of the smallest job that waits, for `share_gpus: auto`; None: nothing is known.
    Spread over hosts there is one slot: a job takes all of them.
    """
    if resources.is_spread:
        return [Slot(HOSTS, resources.ranks, (), resources.threads or 1)]
    devices = visible_gpus()
    if resources.gpus is not None:
        if resources.gpus > len(devices):
            raise StudyError(
                at("resources.gpus"),
                f"{resources.gpus} GPUs are asked for, this machine shows {len(devices) or 'none'}; `plan` plans for "
                f"them, to run here {_fewer(len(devices))}",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )
        devices = devices[: resources.gpus]
    return _gpu_slots(resources, devices, smallest_mb) if devices else _cpu_slots(resources)


def _fewer(visible: int) -> str:
    return f"set resources.gpus={visible}" if visible else "set resources.gpus=null (then jobs run on the CPU)"


def planned_slots(resources: Resources, *, smallest_mb: float | None = None) -> list[Slot]:
    """The slots to plan for: those of this machine, or as many as `resources.gpus` make where it has fewer GPUs.

    One where nothing fits here, so that a plan can be read on any machine.
    """
    elsewhere = resources.executor != "local"
    if resources.gpus is not None and (elsewhere or resources.gpus > len(visible_gpus())) and not resources.is_spread:
        devices = [str(place) for place in range(resources.gpus)]
        return _gpu_slots(resources, devices, smallest_mb) if _groups(resources, devices) else [_one(resources)]
    if elsewhere:
        return [_one(resources)]
    try:
        return find_slots(resources, smallest_mb=smallest_mb)
    except StudyError:
        return [_one(resources)]


def _one(resources: Resources) -> Slot:
    return Slot("slot0", resources.ranks, (), resources.threads or 1)


def visible_gpus() -> list[str]:
    """GPUs this process may use: CUDA_VISIBLE_DEVICES where it is set, else all that nvidia-smi lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(gpu["index"]) for gpu in gpus()]
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names  # CUDA ignores what follows an invalid one


def _gpu_slots(resources: Resources, devices: list[str], smallest_mb: float | None) -> list[Slot]:
    ranks, wanted = resources.ranks, resources.ranks * resources.gpus_per_rank
    groups = _groups(resources, devices)
    if not groups:
        key, word = ("ranks", "ranks need") if resources.gpus_per_rank == 1 else ("gpus_per_rank", "GPUs per rank need")
        shown = "this machine shows" if resources.gpus is None else "resources.gpus allows"
        raise StudyError(
            at(f"resources.{key}"),
            f"{wanted} {word} {wanted} GPUs, {shown} {len(devices)}; set resources.{key}={len(devices)}",
            exit_code=Exit.PREFLIGHT_REFUSED,
        )
    sharing, limit_mb = _sharing(resources, smallest_mb)
    count = len(groups) * sharing if resources.slots == "auto" else resources.slots
    threads = resources.threads or max(1, _cores() // (count * ranks))
    rounds = [(groups[place % len(groups)], place // len(groups)) for place in range(count)]
    return [
        Slot(f"gpu{'+'.join(group)}" + f"#{turn}" * bool(turn), ranks, group, threads, limit_mb)
        for group, turn in rounds
    ]


def _groups(resources: Resources, devices: list[str]) -> list[tuple[str, ...]]:
    """GPUs of one job each."""
    wanted = resources.ranks * resources.gpus_per_rank
    return [tuple(devices[start : start + wanted]) for start in range(0, len(devices) - wanted + 1, wanted)]


def _sharing(resources: Resources, smallest_mb: float | None) -> tuple[int, float | None]:
    """Jobs on one GPU, and the memory that they may take together where that is looked at."""
    if resources.share_gpus != "auto":
        return resources.share_gpus, None
    sizes = [gpu["memory_bytes"] for gpu in gpus() if gpu["memory_bytes"]]
    if not sizes or smallest_mb is None:
        return 1, None
    limit_mb = min(sizes) / 2**20 * _USABLE
    return max(1, min(_MOST_SHARING, int(limit_mb // max(smallest_mb, 1.0)))), limit_mb


def _cpu_slots(resources: Resources) -> list[Slot]:
    threads = resources.threads or 1
    fitting = max(1, _cores() // (resources.ranks * threads))
    count = fitting if resources.slots == "auto" else resources.slots
    return [Slot(f"cpu{place}", resources.ranks, (), threads) for place in range(count)]


def _cores() -> int:
    """Cores, not hardware threads: two trainings that share a core are no faster than one after the other."""
    return min(usable_threads(), psutil.cpu_count(logical=False) or usable_threads())
