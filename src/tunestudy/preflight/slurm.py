"""Whether this machine can hand a study's jobs to SLURM: its programs, the partition, the partition's time limit; and
the names of an allocation's nodes."""

import difflib
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.resources import Resources, seconds_of

PATIENCE_S = 30.0
_NEEDED = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo tells it."""

    name: str
    is_default: bool
    is_up: bool
    """Whether it starts jobs now; one that is down takes them, and lets them wait."""
    limit_s: float | None
    """None without a limit."""
    nodes: int
    has_gpus: bool


def partitions() -> list[Partition]:
    """All of the cluster. StudyError when SLURM does not answer."""
    try:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%P|%a|%l|%D|%G"], capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise _silent(f"sinfo took longer than {PATIENCE_S:.0f} s") from None
    if done.returncode:
        raise _silent((done.stderr.strip().splitlines() or ["no word"])[-1])
    found: dict[str, Partition] = {}
    for line in done.stdout.splitlines():
        name, available, limit, nodes, gres = line.split("|", 4)
        plain, before = name.rstrip("*"), found.get(name.rstrip("*"))
        found[plain] = Partition(
            plain,
            name.endswith("*"),
            available == "up",
            None if limit in ("infinite", "n/a") else _seconds(limit),
            int(nodes) + (before.nodes if before else 0),  # sinfo has a line per kind of node
            "gpu" in gres or bool(before and before.has_gpus),
        )
    return list(found.values())


def wanted_partition(resources: Resources, known: list[Partition]) -> Partition | None:
    """The one that the study names, else the default; None when there is none of that name, or no default.

    Of several names with commas between, as sbatch takes them, the first.
    """
    name = (resources.slurm.partition or "").split(",")[0]
    return next((one for one in known if (one.name == name if name else one.is_default)), None)


def slurm_problems(resources: Resources) -> Iterator[StudyError]:
    """Everything that sbatch would refuse, or never start, told before anything is submitted."""
    if resources.executor != "slurm":
        return
    missing = next((name for name in _NEEDED if shutil.which(name) is None), None)
    if missing:
        cure = "run it on a login node of the cluster, or with resources.executor=local"
        yield StudyError(at("resources.executor"), f"there is no {missing} on this machine; {cure}")
        return
    try:
        known = partitions()
    except StudyError as error:
        yield error
        return
    settings = resources.slurm
    chosen = wanted_partition(resources, known)
    names = [one.name for one in known]
    absent = [name for name in (settings.partition or "").split(",") if name and name not in names]
    if absent:
        near = difflib.get_close_matches(absent[0], names, n=1)
        cure = f"did you mean {near[0]}? " if near else ""
        told = f"there is no partition {absent[0]}; {cure}this cluster has: {', '.join(names)}"
        yield StudyError(at("resources.slurm.partition"), told)
    elif chosen is None:
        told = f"this cluster has no default partition; name one of {', '.join(names)}"
        yield StudyError(at("resources.slurm.partition"), told)
    else:
        yield from _beyond(resources, chosen)


def closed_partitions(resources: Resources, known: list[Partition]) -> list[str]:
    """Of those that the study would use the ones that start nothing now."""
    chosen = wanted_partition(resources, known)
    names = (resources.slurm.partition or (chosen.name if chosen else "")).split(",")
    return [one.name for one in known if one.name in names and not one.is_up]


def node_names(told: str) -> list[str]:
    """Names of the nodes in SLURM's short form: `node[01-03,7],big` → node01, node02, node03, node7, big.

    Inside of a container there is often no scontrol to ask, so its work is done here where it is absent.
    """
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", told], capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return _unfolded(told)
    return done.stdout.split() or _unfolded(told)


def _unfolded(told: str) -> list[str]:
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", told):
        names = [""]
        for plain, inside in re.findall(r"([^\[]+)|\[([^\]]*)\]", part):
            ends = [plain] if plain else [number for one in inside.split(",") for number in _numbers(one)]
            names = [name + end for name in names for end in ends]
        found += names
    return found


def _numbers(told: str) -> list[str]:
    """`01-03` → 01, 02, 03, as wide as they are written."""
    first, _, last = told.partition("-")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]


def _beyond(resources: Resources, partition: Partition) -> Iterator[StudyError]:
    settings = resources.slurm
    limit, wanted = partition.limit_s, settings.time
    if limit is not None and wanted is not None and wanted > limit:
        told = f"{wanted / 3600:g} h is above the {limit / 3600:g} h of partition {partition.name}"
        cure = f"set {limit / 3600:g}h or less: a job that takes longer is saved before the limit and queued again"
        yield StudyError(at("resources.slurm.time"), f"{told}; {cure}")
    shortest = min((one for one in (limit, wanted) if one is not None), default=None)
    if shortest is not None and settings.signal_s >= shortest:
        told = f"{settings.signal_s:g} s before the limit is before the start: the limit is {shortest:g} s"
        yield StudyError(at("resources.slurm.signal_s"), f"{told}; make it shorter")
    if settings.nodes > partition.nodes:
        told = f"{settings.nodes} nodes are more than the {partition.nodes} of partition {partition.name}"
        yield StudyError(at("resources.slurm.nodes"), told)
    if settings.gpus_per_node and not partition.has_gpus:
        told = f"partition {partition.name} has no GPUs; see `sinfo -o '%P %G'`"
        yield StudyError(at("resources.slurm.gpus_per_node"), told)


def _seconds(limit: str) -> float:
    """SLURM's time: `1-12:00:00`, `6:00:00`, or `30:00`, which are minutes and seconds."""
    parts = limit.partition("-")[2] or limit
    if "-" not in limit and parts.count(":") == 1:
        minutes, seconds = parts.split(":")
        return int(minutes) * 60.0 + int(seconds)
    value = seconds_of(limit)
    assert isinstance(value, float), limit
    return value


def _silent(said: str) -> StudyError:
    cure = "try again in a minute, `scontrol ping` tells whether it is up"
    return StudyError(
        at("resources.executor"), f"SLURM does not answer: {said}; {cure}", exit_code=Exit.PREFLIGHT_REFUSED
    )
