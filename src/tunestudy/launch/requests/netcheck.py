"""`tunestudy netcheck`: how fast the ranks of a job talk, by which way, and what that means for a step."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.local import find_slots
from tunestudy.launch.requests.by_worker import one_at_a_time
from tunestudy.launch.spread import command_for
from tunestudy.launch.torchrun import job_environment, last_line, start, wait_for
from tunestudy.preflight.checks import check
from tunestudy.records.atomic import read_json, remove_tree, write_json
from tunestudy.records.layout import NETCHECK, REQUEST, JobDir, StudyDir
from tunestudy.study.load import LoadedStudy

MODULE = "tunestudy.train.netcheck"
SIZES = (1 << 16, 1 << 20, 1 << 24, 1 << 27)
PAIR_BYTES = 1 << 22
REPEATS = 5

_TRANSPORTS = {
    "IB": re.compile(r"NET/IB : Using .*?/(IB)\b"),
    "RoCE": re.compile(r"NET/IB : Using .*?/(RoCE)\b"),
    "socket": re.compile(r"NET/Socket : Using"),
}
"""What NCCL's own log says when NCCL_DEBUG=INFO."""


def check_network(loaded: LoadedStudy, results: Path) -> list[str]:
    """Measure between the ranks that a job of the study would have; returns the lines to print."""
    resources = loaded.study.resources
    if resources.ranks == 1:
        raise StudyError("resources.ranks", "is 1: one rank has nobody to talk to; set it, or a hostfile")
    study = StudyDir(results / loaded.study.study)
    check(loaded, [], study, starts=True)
    folder = study.netcheck
    with one_at_a_time(study, "netcheck"):
        _measure(loaded, folder)
        if not (folder.root / NETCHECK).exists():  # the last thing that is done; how hosts then end says nothing
            raise StudyError("netcheck", f"failed: {last_line(folder.launch_log)}", exit_code=Exit.PREFLIGHT_REFUSED)
        found: dict[str, Any] = read_json(folder.root / NETCHECK)
        logs = "".join(path.read_text(errors="replace") for path in sorted(folder.root.glob("nccl-*")))
        told = [*tables(found), *transport_lines(found, logs), *prediction_lines(found, loaded, study)]
        return [*told, f"numbers: {folder.root / NETCHECK}"]


def _measure(loaded: LoadedStudy, folder: JobDir) -> None:
    resources = loaded.study.resources
    remove_tree(folder.root)
    write_json(folder.root / REQUEST, {"sizes": SIZES, "pair_bytes": PAIR_BYTES, "repeats": REPEATS})
    slot = find_slots(resources)[0]
    nccl = {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET",
        "NCCL_DEBUG_FILE": f"{folder.root.resolve()}/nccl-%h-%p",
    }
    environment = job_environment({**nccl, **loaded.study.env}, slot.environment, attempt=1)
    process = start(
        command_for(resources, loaded.path.parent, MODULE)(folder, slot.ranks), environment, folder.launch_log
    )
    wait_for(process)


def tables(found: Mapping[str, Any]) -> Iterator[str]:
    """Collectives by size, then pairs."""
    ranks = len(found["hosts"])
    yield f"{ranks} ranks on {len(set(found['hosts']))} hosts, {found['backend']}"
    yield f"{'':14}{'bytes':>14}{'time':>12}{'bus':>16}"
    for row in found["collectives"]:
        yield f"{row['op']:14}{row['bytes']:14,}{_seconds(row['seconds']):>12}{_rate(row['bus_bytes_per_s']):>16}"
    yield ""
    yield f"{'ranks':14}{'hosts':>20}{'latency':>12}{'one way':>16}"
    for row in found["pairs"]:
        low, high = row["ranks"]
        hosts = f"{found['hosts'][low]} – {found['hosts'][high]}"
        yield f"{f'{low} – {high}':14}{hosts:>20}{_seconds(row['latency_s']):>12}{_rate(row['bytes_per_s']):>16}"
    yield ""


def transport_lines(found: Mapping[str, Any], nccl_log: str) -> Iterator[str]:
    """Which way NCCL went by its own log, and what to change where the hardware could do better."""
    if found["backend"] != "nccl":
        yield f"transport: {found['backend']} over TCP"
        return
    used = [name for name, pattern in _TRANSPORTS.items() if pattern.search(nccl_log)]
    yield f"transport: {', '.join(used) or 'within the host only, as far as NCCL tells'}"
    devices = sorted({name for names in found["interfaces"] for name in names})
    if devices and used == ["socket"]:
        yield (
            f"these hosts have {', '.join(devices)}, and NCCL goes over sockets: unset NCCL_IB_DISABLE, set "
            "NCCL_IB_HCA to one of them, see that libibverbs is installed and `ulimit -l` is unlimited"
        )


def prediction_lines(found: Mapping[str, Any], loaded: LoadedStudy, study: StudyDir) -> Iterator[str]:
    """What the figures mean for the largest model that a job of the study has trained, by way to share it."""
    results = [read_json(path) for path in study.root.glob("jobs/*/result.json")]
    trained = [one for one in results if one and one.get("trainable_params")]
    if not trained:
        yield "once a job has run, this also tells how long a step's traffic takes by engine"
        return
    largest = max(trained, key=lambda one: int(one["total_params"]))
    width = 4 if loaded.study.model.dtype == "float32" else 2
    learns = 4.0 * largest["trainable_params"]
    frozen = float(width) * (largest["total_params"] - largest["trainable_params"])
    micro_batches = largest["accumulation"] or 1
    network = Network.of(found)
    yield (
        f"traffic of one step, {micro_batches} micro-batches, {frozen / 1e9:.3g} GB frozen and {learns / 1e9:.3g} GB "
        "that learn, were nothing of it hidden behind computing:"
    )
    for name, seconds in seconds_of_step(network, frozen=frozen, learns=learns, micro_batches=micro_batches).items():
        yield f"  {name:28}{_seconds(seconds):>12}"


@dataclass(frozen=True, kw_only=True)
class Network:
    """What steps are predicted from. Rates in bytes per second."""

    hosts: int
    ranks_per_host: int
    bus: float
    """Of an all-gather of the largest size, over all ranks."""
    within: float
    """Of the slowest pair on one host; 0 where every host has one rank."""
    between: float
    """Of the slowest pair on two hosts; 0 where there is one."""

    @staticmethod
    def of(found: Mapping[str, Any]) -> "Network":
        names: list[str] = found["hosts"]
        same = {True: [0.0], False: [0.0]}
        for row in found["pairs"]:
            low, high = row["ranks"]
            same[names[low] == names[high]].append(row["bytes_per_s"])
        gathers = [row for row in found["collectives"] if row["op"] == "all_gather"]
        bus = max(gathers, key=lambda row: int(row["bytes"]))["bus_bytes_per_s"]
        within, between = (min(same[key][1:], default=0.0) for key in (True, False))
        hosts = len(set(names))
        return Network(hosts=hosts, ranks_per_host=len(names) // hosts, bus=bus, within=within, between=between)


def seconds_of_step(network: Network, *, frozen: float, learns: float, micro_batches: int) -> dict[str, float]:
    """Seconds of an optimiser step's traffic by way to share a model. `frozen`, `learns`: bytes of weights; gradients
    weigh what their weights do. Sliced weights are gathered twice per micro-batch; DeepSpeed's stages 2 and 3 reduce
    gradients in each of them, the others once per step."""
    ranks = network.hosts * network.ranks_per_host
    share = (ranks - 1) / ranks / network.bus
    found = {
        "ddp": 2 * share * learns,
        "fsdp2": share * (2 * micro_batches * (frozen + learns) + learns),
        "fsdp2: {shard: gradients}": share * (micro_batches * learns + learns),
    }
    found |= {
        "deepspeed, stage 1": 2 * share * learns,
        "deepspeed, stage 2": share * (micro_batches * learns + learns),
        "deepspeed, stage 3": share * micro_batches * (2 * (frozen + learns) + learns),
    }
    if network.within and network.between:
        inner = (network.ranks_per_host - 1) / network.ranks_per_host / network.within
        outer = 2 * (network.hosts - 1) / network.hosts / network.between / network.ranks_per_host
        found["fsdp2: {within_node: true}"] = inner * (2 * micro_batches * (frozen + learns) + learns) + outer * learns
    return found


def _seconds(value: float) -> str:
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"


def _rate(value: float) -> str:
    return f"{value * 8 / 1e9:.2f} Gbit/s"
