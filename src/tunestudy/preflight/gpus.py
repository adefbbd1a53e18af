"""GPUs as nvidia-smi tells of them: there or not, healthy or not, free or not, and whether the driver is new enough."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.preflight.packages import cuda_of_torch, numbers
from tunestudy.preflight.points import Answer, Point, answer_of, not_needed, ok, refused, warning

OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""Linux drivers that run any CUDA x.y of a major version. Source: CUDA Toolkit release notes, table 2 (minor version
compatibility)."""
BF16_FROM = (8, 0)
"""Compute capability with bfloat16 in hardware (Ampere)."""
MUCH_MEMORY = 0.05
"""Share of a GPU's memory that a driver and a desktop take by themselves."""

_FIELDS = ("index", "uuid", "name", "memory.total", "memory.used", "driver_version", "compute_cap")
_ERRORS = ("index", "ecc.errors.uncorrected.volatile.total")
_REMAPPED = ("gpu_bus_id", "remapped_rows.pending", "remapped_rows.failure")
_YES = ("yes", "1")
_XID = re.compile(r"NVRM: Xid \(PCI:([^)]+)\): (\d+)")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A line of nvidia-smi; None for what it does not say."""

    index: int
    uuid: str
    name: str
    total_mib: int | None
    used_mib: int | None
    driver: str
    capability: tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """What this machine has, and how nvidia-smi answered."""

    answer: Answer
    gpus: tuple[Gpu, ...]


def look() -> Seen:
    """Ask nvidia-smi once."""
    answer = answer_of(["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"])
    rows = _rows(answer, len(_FIELDS))
    return Seen(
        answer,
        tuple(
            Gpu(
                index=int(index),
                uuid=uuid,
                name=name,
                total_mib=_whole(total),
                used_mib=_whole(used),
                driver=driver,
                capability=numbers_of(capability),
            )
            for index, uuid, name, total, used, driver, capability in rows
        ),
    )


def are_hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES lets jobs see none of this machine's GPUs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in ("", "-1")


def gpu_points(study: Study, unfinished: Sequence[Job]) -> Iterator[Point]:
    """All points about GPUs: of this machine, as far as jobs run on it."""
    if study.resources.executor != "local":
        where = {"slurm": "SLURM's nodes", "ray": "Ray's machines"}[study.resources.executor]
        yield not_needed("GPUs", f"jobs run on {where}, whatever this machine has")
        return
    if are_hidden():
        yield not_needed("GPUs", "CUDA_VISIBLE_DEVICES hides them: jobs run on the CPU")
        return
    seen = look()
    yield _presence(seen, study)
    if seen.gpus:
        yield _driver(seen.gpus)
        yield _memory(seen.gpus)
        yield _health()
        yield _precision(seen.gpus, study, unfinished)


def _presence(seen: Seen, study: Study) -> Point:
    check, answer = "GPUs", seen.answer
    if seen.gpus:
        names = sorted({gpu.name for gpu in seen.gpus})
        told = f"{len(seen.gpus)} × {', '.join(names)}"
        if len(names) > 1:
            return warning(
                check, told, "ranks of one job wait for the slowest: keep kinds apart by CUDA_VISIBLE_DEVICES"
            )
        return ok(check, told)
    if answer.state == "absent":
        if study.resources.gpus and not study.resources.is_spread:
            cure = "run on the machine that has them, or leave resources.gpus out"
            return refused(check, f"no nvidia-smi here, and resources.gpus is {study.resources.gpus}", cure)
        where = "" if study.resources.is_spread else ": jobs run on the CPU"
        return ok(check, f"none here (no nvidia-smi){where}")
    wrong = warning if study.resources.is_spread else refused  # this machine may be none of the hosts
    cure = "is the driver loaded (`nvidia-smi`, `dmesg | grep NVRM`)? after an update of it: reboot"
    if answer.state == "said":
        words = answer.text.strip().splitlines()
        return wrong(check, f"nvidia-smi names no GPU: {words[0][:120] if words else 'it says nothing'}", cure)
    return wrong(check, f"nvidia-smi does not work: {answer.text}", cure)


def _driver(gpus: Sequence[Gpu]) -> Point:
    check, driver, cuda = "driver", gpus[0].driver, cuda_of_torch()
    if cuda is None:
        return not_needed(check, f"{driver}; this torch does not use CUDA")
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if oldest is None:
        return ok(check, f"{driver}; CUDA {cuda} is newer than what is known here of drivers")
    if numbers(driver) < numbers(oldest):
        cure = f"update the driver to {oldest} or newer, or install a torch built for an older CUDA"
        return refused(check, f"{driver} is too old for torch's CUDA {cuda}", cure)
    return ok(check, f"{driver}, new enough for CUDA {cuda}")


def _memory(gpus: Sequence[Gpu]) -> Point:
    check = "GPUs free"
    apps = answer_of(
        ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", "--format=csv,noheader"]
    )
    busy: dict[str, list[str]] = {}
    for row in _rows(apps, 4, numbered=False):
        busy.setdefault(row[0], []).append(f"process {row[1]} ({row[2].rpartition('/')[2][:30]}, {row[3]})")
    told = []
    for gpu in gpus:
        used = gpu.used_mib or 0
        if gpu.uuid in busy:
            told.append(f"GPU {gpu.index}: {', '.join(busy[gpu.uuid][:3])}")
        elif gpu.total_mib and used > MUCH_MEMORY * gpu.total_mib:
            told.append(f"GPU {gpu.index}: {used:,} of {gpu.total_mib:,} MiB are taken, by nobody who can be seen")
    if told:
        cure = "wait for them, or leave these GPUs out: CUDA_VISIBLE_DEVICES=… tunestudy run"
        return warning(check, "; ".join(told), cure)
    return ok(check, "no other process, memory free")


def _health() -> Point:
    check = "GPU health"
    errors = answer_of(["nvidia-smi", f"--query-gpu={','.join(_ERRORS)}", "--format=csv,noheader,nounits"])
    remapped = answer_of(["nvidia-smi", f"--query-remapped-rows={','.join(_REMAPPED)}", "--format=csv,noheader"])
    worries = []
    for index, count in _rows(errors, len(_ERRORS)):
        if _whole(count):
            worries.append(f"GPU {index}: {count} uncorrected memory errors since the driver was loaded")
    for bus, pending, failed in _rows(remapped, len(_REMAPPED), numbered=False):
        if failed.lower() in _YES:
            worries.append(f"GPU at {bus}: rows of its memory could not be remapped")
        if pending.lower() in _YES:
            worries.append(f"GPU at {bus}: rows of its memory wait for a reset to be remapped")
    kernel = answer_of(["dmesg"])
    xids = [f"Xid {code} on {bus}" for bus, code in _XID.findall(kernel.text)] if kernel.state == "said" else []
    worries += list(dict.fromkeys(xids))[-5:]
    if worries:
        cure = "reset or replace that GPU before a long run (`nvidia-smi -q`, NVIDIA's table of Xids)"
        return warning(check, "; ".join(worries), cure)
    unread = "" if kernel.state == "said" else "; the kernel's log may not be read, so Xids are unknown"
    return ok(check, ("no memory errors" if errors.state == "said" else "not told by this driver") + unread)


def _precision(gpus: Sequence[Gpu], study: Study, unfinished: Sequence[Job]) -> Point:
    check = "precision"
    wanted = study.model.dtype == "bfloat16" or any(job.training and job.training.bf16 for job in unfinished)
    oldest = min((gpu.capability for gpu in gpus if gpu.capability), default=())
    told = ".".join(map(str, oldest)) or "unknown"
    if not wanted:
        return not_needed(check, f"no stage asks for bfloat16 (compute capability {told})")
    if oldest and oldest < BF16_FROM:
        cure = "use fp16: true or float32 on these GPUs"
        return warning(check, f"bfloat16 is emulated on compute capability {told}: correct, but slow", cure)
    return ok(check, f"bfloat16, compute capability {told}")


def _rows(answer: Answer, width: int, *, numbered: bool = True) -> list[list[str]]:
    """Lines of the right number of cells; whatever else a broken driver prints is no GPU."""
    if answer.state != "said":
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.text.splitlines()]
    return [row for row in rows if len(row) == width and (row[0].isdigit() or not numbered)]


def numbers_of(text: str) -> tuple[int, ...]:
    """`8.0` → (8, 0); empty for anything else."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


def _whole(text: str) -> int | None:
    return int(float(text)) if re.fullmatch(r"\d+(\.\d+)?", text) else None
