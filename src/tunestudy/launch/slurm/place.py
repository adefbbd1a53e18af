"""The slots of an allocation: GPUs that SLURM gave on each of its nodes, and how a job is started on one of them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.resources import Resources
from tunestudy.launch import torchrun
from tunestudy.launch.local import Slot, find_slots
from tunestudy.launch.place import LocalProcess, Place, ThisMachine
from tunestudy.launch.torchrun import command_here
from tunestudy.preflight.slurm import node_names
from tunestudy.records.layout import JobDir
from tunestudy.study.hosts import Host


@dataclass(frozen=True)
class Allocation:
    """Slots on all nodes of an allocation. Those of this node are started here, others by srun, as spread jobs are."""

    slots: Sequence[Slot]
    node_of: Mapping[str, str]
    """Slot name → node."""
    here: str
    resources: Resources
    module: str

    def start(self, folder: JobDir, slot: Slot, environment: Mapping[str, str], log: Path) -> LocalProcess:
        node = self.node_of[slot.name]
        if node == self.here:
            return LocalProcess(torchrun.start(command_here(folder, slot.ranks, self.module), environment, log))
        from tunestudy.launch.spread import spread_command  # as every submission waits for what is imported above

        command = spread_command([Host(node, slot.ranks)], self.resources, folder, self.module)
        return LocalProcess(torchrun.start(command, {**environment, "TUNESTUDY_DEVICES": ",".join(slot.devices)}, log))


def place_for(
    resources: Resources,
    base: Path,
    *,
    single: bool,
    smallest_mb: float | None = None,
    module: str = "tunestudy.worker",
) -> Place:
    """Where this allocation's jobs run. `single`: it is one job's own, so there is one slot.

    `smallest_mb`: as for `find_slots`. `module` runs a job (tests replace it). Raises StudyError where the allocation
    cannot hold a job.
    """
    nodes = allocated_nodes()
    if single and resources.launcher == "srun":
        from tunestudy.launch.spread import command_for

        return ThisMachine(find_slots(resources), command_for(resources, base, module))
    if single:
        alone = resources.model_copy(update={"slots": 1, "gpus": None, "share_gpus": 1})
        named = [replace(slot, name=f"{nodes[0]}:{slot.name}") for slot in _with_threads(find_slots(alone), resources)]
        return ThisMachine(named, partial(command_here, module=module))
    slots = dict(_slots_of(resources, nodes, smallest_mb))
    if not slots:
        raise StudyError(at("resources.ranks"), f"the allocation's {len(nodes)} nodes hold no job of that many ranks")
    local = resources.model_copy(update={"launcher": "srun"})
    named = [slot for slot, _ in slots.values()]
    return Allocation(named, {name: node for name, (_, node) in slots.items()}, nodes[0], local, module)


def allocated_nodes() -> list[str]:
    """Names of the allocation's nodes, this one first. StudyError outside of one."""
    told = os.environ.get("SLURM_JOB_NODELIST")
    if told is None:
        cure = "it is what sbatch files run; `tunestudy run` writes and submits them"
        raise StudyError(
            "tunestudy.launch.slurm.inside", f"this is no SLURM job; {cure}", exit_code=Exit.PREFLIGHT_REFUSED
        )
    names = node_names(told)
    here = os.environ.get("SLURMD_NODENAME", names[0])
    return sorted(names, key=lambda name: name != here)


def _slots_of(
    resources: Resources, nodes: Sequence[str], smallest_mb: float | None
) -> Iterator[tuple[str, tuple[Slot, str]]]:
    """Every node holds what this one does: SLURM gives each the same number of GPUs and cores."""
    most = resources.slots if isinstance(resources.slots, int) else None
    each = resources.model_copy(update={"slots": "auto" if most is None else -(-most // len(nodes)), "gpus": None})
    here = _with_threads(find_slots(each, smallest_mb=smallest_mb), resources)
    names = [(node, slot) for slot in here for node in nodes]  # by turns, so that a small study has nodes to itself
    for node, slot in names[:most]:
        name = f"{node}:{slot.name}"
        yield name, (replace(slot, name=name, devices=_devices(slot, here) if node != nodes[0] else slot.devices), node)


def _devices(slot: Slot, all_here: Sequence[Slot]) -> tuple[str, ...]:
    """The slot's GPUs by their places among those that SLURM shows: on another node their numbers may differ."""
    shown = list(dict.fromkeys(device for one in all_here for device in one.devices))
    return tuple(str(shown.index(device)) for device in slot.devices)


def _with_threads(slots: Sequence[Slot], resources: Resources) -> list[Slot]:
    """This node's slots with equal parts of the processors that SLURM gave on it, where they have GPUs and the study
    does not say."""
    given = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if resources.threads is not None or not given.isdigit() or not all(slot.devices for slot in slots):
        return list(slots)
    threads = max(1, int(given) // sum(slot.ranks for slot in slots))
    return [replace(slot, threads=threads) for slot in slots]
