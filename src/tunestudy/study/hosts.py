"""Hosts that one job spreads over, in DeepSpeed's format: a line `name slots=N` each, `#` starts a comment.

DeepSpeed itself takes a hostfile that is not there for a wish to use this machine alone; here that is an error.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunestudy.config.errors import StudyError, at
from tunestudy.config.paths import located
from tunestudy.config.resources import Resources
from tunestudy.study.source import Source

_LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>\d+)")


def ranks_per_host(resources: Resources, base: Path) -> int:
    """Ranks of a job that share a machine; of the host with fewest. `base`: the study file's folder."""
    if resources.hostfile is not None:
        return min(host.slots for host in read_hostfile(located(base, resources.hostfile)))
    if resources.launcher == "srun":
        return max(1, resources.ranks // resources.slurm.nodes)
    return resources.ranks


@dataclass(frozen=True)
class Host:
    """One machine and how many ranks it gets."""

    name: str
    """As ssh knows it."""
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """The hosts in their order: the first one has rank 0. StudyError at the line that is wrong."""
    if not path.is_file():
        raise StudyError(at("resources.hostfile", file=str(path)), "is not there")
    hosts: dict[str, Host] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        line = text.partition("#")[0].strip()
        if not line:
            continue
        place = at("resources.hostfile", file=str(path), line=number)
        match = _LINE.fullmatch(line)
        if match is None:
            raise StudyError(place, f"`{line}` is not `name slots=N`")
        host = Host(match["name"], int(match["slots"]))
        if host.name.startswith("-"):
            raise StudyError(place, f"`{host.name}` is no host: ssh would take it for an option")
        if host.slots == 0:
            raise StudyError(place, f"{host.name} has no slots; leave the line out")
        if host.name in hosts:
            raise StudyError(place, f"{host.name} is named twice; one line with all its slots")
        hosts[host.name] = host
    if not hosts:
        raise StudyError(at("resources.hostfile", file=str(path)), "names no host")
    return list(hosts.values())


def spread_over_hosts(source: Source) -> Iterator[StudyError]:
    """Set `resources.ranks` to what the hostfile offers, before batches are solved for it."""
    resources = source.values.get("resources")
    written = resources.get("hostfile") if isinstance(resources, dict) else None
    if not isinstance(resources, dict) or not isinstance(written, str):
        return
    try:
        total = sum(host.slots for host in read_hostfile(located(source.path.parent, written)))
    except StudyError as error:
        there = bool(error.place.line)
        yield error if there else StudyError(source.place(("resources", "hostfile")), f"`{written}` {error.message}")
        return
    given = resources.get("ranks", total)
    if given != total:
        place = source.place(("resources", "ranks"))
        yield StudyError(place, f"is {given}, but the hostfile has {total} slots; leave it out")
    resources["ranks"] = total
