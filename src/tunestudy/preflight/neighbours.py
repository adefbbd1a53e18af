"""Other machines: hosts of a hostfile, their clocks, who else runs the study, ports, the network, SLURM and Ray."""

import importlib.util
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunestudy.config.resources import Resources
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.folders import nearest_folder
from tunestudy.preflight.hosts import Difference, Facts
from tunestudy.preflight.inputs import NOTHING_TO_DO
from tunestudy.preflight.points import Point, not_needed, ok, refused, warning
from tunestudy.preflight.slurm import closed_partitions, partitions, wanted_partition
from tunestudy.records import clock
from tunestudy.records.atomic import read_json
from tunestudy.records.events import differing_clocks, read_events
from tunestudy.records.host import host_name
from tunestudy.records.launchers import launchers, launchers_by_name
from tunestudy.records.layout import NETCHECK, StudyDir
from tunestudy.study.hosts import Host

MUCH_AHEAD_S = 60.0
CONNECT_S = 3.0
NOTHING_RELIES_ON_CLOCKS = "nothing here relies on clocks, and results tell the file system's time; other logs will not"
SLOW_PAIR_BITS_PER_S = 1e9


def host_points(asked: Asked) -> Iterator[Point]:
    """The hosts that one job spreads over and that can take part; the port where they meet; all clocks in sight."""
    resources = asked.resources
    hosts = asked.hosts if asked.is_spread else []
    for host, _, found in hosts:
        if not found:
            yield ok("hosts", f"{host.name}: {host.slots} slots; same Python, packages, code and files as here")
    if not resources.is_spread:
        yield not_needed("hosts", "jobs stay on one machine")
    elif not asked.is_local:
        yield not_needed("hosts", f"{resources.executor} chooses the machines of a job when it starts")
    elif not asked.starts:
        yield not_needed("hosts", NOTHING_TO_DO)
    told = [(host, answer) for host, answer, _ in hosts]
    yield rendezvous_point(resources, told)
    yield clock_point({host.name: answer for host, answer in told if not isinstance(answer, Difference)}, asked.folder)


def clock_point(hosts: Mapping[str, Facts], study: StudyDir) -> Point:
    """Who is off by more than a minute. The file server's time counts, as for leases; where it is this machine's disk,
    both are one."""
    here = clock.ahead_s(nearest_folder(study.root))
    ahead = {f"this machine ({host_name()})": here}
    ahead |= {name: float(told["ahead_s"]) + here for name, told in hosts.items()}
    ahead |= leads_of_launchers(study)
    off = {name: lead for name, lead in ahead.items() if abs(lead) > MUCH_AHEAD_S}
    if not off:
        others = f"{len(ahead) - 1} other clocks" if len(ahead) > 1 else "the file system's clock"
        return ok("clock", f"within a minute of {others}")
    named = [f"{name} is {hours_text(abs(lead))} {'ahead' if lead > 0 else 'behind'}" for name, lead in off.items()]
    cure = "let chrony or ntpd set the clock there: `timedatectl set-ntp true`"
    return warning("clock", f"{'; '.join(named)} (by the file system's time); {NOTHING_RELIES_ON_CLOCKS}", cure)


def leads_of_launchers(study: StudyDir) -> dict[str, float]:
    """By how much the clock of each launcher on another machine is ahead of the file server's, as its journal tells."""
    found = {}
    for name, holder in launchers_by_name(study).items():
        if not holder.here:
            told = differing_clocks(read_events(study.events))
            found[holder.host] = told.get(name, 0.0)
    return found


def launcher_point(study: StudyDir) -> Point:
    """Who carries the study out already: two may, and share its jobs, but should know of each other."""
    others = launchers(study)
    if not others:
        return ok("other runs", "nobody else is carrying this study out")
    told = ", ".join(map(str, others))
    return warning(
        "other runs", f"{told} carries it out already", "leave it alone (`tunestudy watch`), or share its jobs"
    )


def rendezvous_point(resources: Resources, told: Sequence[tuple[Host, Facts | Difference]]) -> Point:
    """Whether the port is free on the first host, where ranks on several hosts meet, as that host itself says."""
    check = "rendezvous port"
    if not told:
        return not_needed(check, "ranks of one machine take a free port")
    host, answer = told[0]
    if isinstance(answer, Difference):
        return warning(check, f"unknown: {host.name} did not tell", "see its own line")
    if resources.rendezvous_port in answer.get("listening", ()):
        cure = "set resources.rendezvous_port to a free one, or end what listens there"
        return refused(check, f"something listens on port {resources.rendezvous_port} of {host.name} already", cure)
    return ok(check, f"{resources.rendezvous_port} is free on {host.name}")


def network_point(study: StudyDir, resources: Resources) -> Point:
    """What `tunestudy netcheck` found the last time."""
    check = "network"
    if resources.ranks == 1:
        return not_needed(check, "one rank per job")
    file = study.netcheck.root / NETCHECK
    found = read_json(file)
    if not isinstance(found, dict):
        if not resources.is_spread:
            return not_needed(check, "ranks share a machine; `tunestudy netcheck STUDY` measures it")
        return warning(check, "never measured", "tunestudy netcheck STUDY")
    when = time.strftime("%Y-%m-%d", time.localtime(file.stat().st_mtime))
    hosts: Sequence[Any] = found["hosts"]
    slowest = min((8 * float(pair["bytes_per_s"]) for pair in found["pairs"]), default=0.0)
    told = f"{len(hosts)} ranks on {len(set(hosts))} hosts, slowest pair {slowest / 1e9:.2f} Gbit/s ({when})"
    if len(hosts) != resources.ranks:
        return warning(check, f"{told}; a job has {resources.ranks} ranks now", "tunestudy netcheck STUDY")
    if resources.is_spread and slowest < SLOW_PAIR_BITS_PER_S:
        return warning(
            check, told, "see `tunestudy netcheck STUDY`: the wrong interface, or sockets beside InfiniBand?"
        )
    return ok(check, told)


def executor_points(asked: Asked) -> Iterator[Point]:
    """Whether what places the jobs is there, and would take them; of SLURM what `run` does not refuse for."""
    if asked.resources.executor == "slurm":
        yield from _slurm(asked.resources)
    elif asked.resources.executor == "ray":
        yield _ray(asked.resources) if asked.starts else not_needed("executor", f"Ray: {NOTHING_TO_DO}")
    else:
        yield ok("executor", "local: this program starts the jobs itself")


def _slurm(resources: Resources) -> Iterator[Point]:
    """A partition that starts nothing now, or what it takes."""
    known = partitions()
    chosen = wanted_partition(resources, known)
    if closed := closed_partitions(resources, known):
        yield warning("executor", f"SLURM: partition {', '.join(closed)} is not up", "jobs wait until it is up again")
    elif chosen is not None:
        limit = "no time limit" if chosen.limit_s is None else f"jobs of {chosen.limit_s / 3600:g} h at most"
        name = resources.slurm.partition or chosen.name
        yield ok("executor", f"SLURM: partition {name} is up: {chosen.nodes} nodes, {limit}")


def _ray(resources: Resources) -> Point:
    check, address = "executor", resources.ray.address
    if importlib.util.find_spec("ray") is None:
        return refused(check, "Ray is not installed", "pip install 'tunestudy[ray]'")
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "") or _ray_on_this_machine()
        if not address:
            return refused(
                check, "Ray: no cluster runs on this machine", "ray start --head, or resources.ray.address=host:port"
            )
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return refused(check, f"Ray: `{address}` is no address", "resources.ray.address: host:port, or auto")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S):
            return ok(check, f"Ray: the head at {host}:{port} answers")
    except OSError as error:
        told = f"Ray: the head at {host}:{port} does not answer: {error.strerror or error}"
        return refused(check, told, "ray start --head there, or another resources.ray.address")


def _ray_on_this_machine() -> str:
    """Where Ray writes down which cluster this machine belongs to."""
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def hours_text(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
