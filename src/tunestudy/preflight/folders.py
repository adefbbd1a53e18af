"""The results folder and the limits of this process: space, quota, files, speed, shared memory."""

import contextlib
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tunestudy.config.resources import Resources
from tunestudy.preflight.points import Point, answer_of, not_needed, ok, refused, warning
from tunestudy.records.atomic import TEMPORARY
from tunestudy.records.space import bytes_text

FEW_FILES = 20_000
"""Images, checkpoints, predictions and logs of a study of some dozen jobs."""
SLOW_BYTES_PER_S = 20e6
"""A checkpoint of an 8B model's optimiser would take an hour."""
SLOW_FLUSH_S = 0.5
WRITTEN_BYTES = 32 * 2**20
WRITING_S = 1.0
SMALL_SHARED_MEMORY = 2**30
"""NCCL and shared file mappings of several ranks; containers come with 64 MB."""
FEW_OPEN_FILES = 4096
INFINIBAND = Path("/sys/class/infiniband")
SHARED_MEMORY = Path("/dev/shm")


def folder_points(root: Path, needed: int) -> Iterator[Point]:
    """Of a folder that can be written and has room: how much, and how fast it is."""
    present = nearest_folder(root)
    free = shutil.disk_usage(present).free
    wanted = f", about {bytes_text(needed)} needed at least" if needed else ""
    yield ok("results folder", f"{root}: {bytes_text(free)} free{wanted}")
    yield speed_point(present)


def nearest_folder(path: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def files_point(folder: Path) -> Point:
    """How many more files the file system takes."""
    check, stat = "inodes", os.statvfs(folder)
    if stat.f_files == 0:
        return not_needed(check, "this file system does not count files")
    told = f"room for {stat.f_favail:,} more files of {stat.f_files:,}"
    if stat.f_favail < 100:
        return refused(check, told, "delete small files there (`tunestudy clean`, old caches), or use --results")
    if stat.f_favail < FEW_FILES:
        return warning(check, told, "delete small files there (`tunestudy clean`, old caches), or use --results")
    return ok(check, told)


def quota_point(folder: Path, needed: int) -> Point:
    """This user's limit on the file system of `folder`, where `quota` tells of one. It counts in KiB."""
    check = "quota"
    answer = answer_of(["quota", "-wp"], env={**os.environ, "LC_ALL": "C"})
    if answer.state == "absent":
        return not_needed(check, "no `quota` here; free space is what the file system tells")
    if answer.state == "silent":
        return warning(check, f"`quota` gives {answer.text}", "a file server may be away")
    device = device_of(folder)
    for line in answer.text.splitlines():  # over quota, it exits with 1 and tells all the same
        words = line.split()
        if len(words) >= 4 and words[0] == device and words[1].rstrip("*").isdigit():
            used, soft, hard = (int(word.rstrip("*")) * 1024 for word in words[1:4])
            return _within_quota(used, soft, hard, needed)
    return ok(check, "none on this file system")


def _within_quota(used: int, soft: int, hard: int, needed: int) -> Point:
    check, limit = "quota", hard or soft
    if not limit:
        return ok(check, f"none on this file system; {bytes_text(used)} used")
    told = f"{bytes_text(used)} of {bytes_text(limit)} used"
    cure = "make room (`tunestudy clean`), ask for more, or use --results"
    if used + needed > limit:
        return refused(check, f"{told}, about {bytes_text(needed)} are needed", cure)
    if soft and used > soft:
        return warning(
            check, f"{told}, over the soft limit of {bytes_text(soft)}: writing stops after a grace time", cure
        )
    return ok(check, told)


def device_of(folder: Path) -> str:
    """The device or export that `folder` lies on, as /proc/mounts names it."""
    best, found = "", ""
    where = str(folder.resolve())
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            device, mount = line.split()[:2]
            inside = where == mount or where.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, found = mount, device
    return found


def speed_point(folder: Path) -> Point:
    """Write, flush, delete: as much as a second takes, 32 MB at most."""
    check, block = "write speed", os.urandom(2**20)
    probe = folder / f"{TEMPORARY}speed-{os.getpid()}"
    try:
        began = time.perf_counter()
        with open(probe, "wb", buffering=0) as file:
            written = 0
            while written < WRITTEN_BYTES and time.perf_counter() - began < WRITING_S:
                written += file.write(block)
            os.fsync(file.fileno())
            took = time.perf_counter() - began
            began = time.perf_counter()
            file.write(b"x")
            os.fsync(file.fileno())
            flush = time.perf_counter() - began
    except OSError as error:
        cure = "make room, mend the file system, or use --results"
        return refused(check, f"writing {bytes_text(WRITTEN_BYTES)} fails: {error.strerror}", cure)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    rate, told = written / took, f"{written / took / 1e6:,.0f} MB/s, {flush * 1e3:.1f} ms to flush a small file"
    if rate < SLOW_BYTES_PER_S or flush > SLOW_FLUSH_S:
        cure = "use --results on a faster disk, or save less often (save_steps, full_save_steps)"
        return warning(check, told, cure)
    return ok(check, told)


def limit_points(resources: Resources) -> Iterator[Point]:
    """Shared memory and this process's limits, which jobs inherit."""
    several = resources.ranks > 1
    yield shared_memory_point(SHARED_MEMORY, several=several)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    if soft != resource.RLIM_INFINITY and soft < FEW_OPEN_FILES:
        more = "ulimit -n 65536" if hard == resource.RLIM_INFINITY or hard >= 65536 else f"ulimit -n {hard}"
        cure = f"{more} before the run, or in the site's limits.conf"
        yield warning("open files", f"{told} per process: image folders and many ranks take more", cure)
    else:
        yield ok("open files", f"{told} per process")
    yield _locked_memory(several=several)


def shared_memory_point(folder: Path, *, several: bool) -> Point:
    """What ranks of one machine exchange goes through /dev/shm."""
    check = "shared memory"
    if not folder.is_dir():
        return not_needed(check, "this system has no /dev/shm")
    usage = shutil.disk_usage(folder)
    told = f"{bytes_text(usage.free)} of {bytes_text(usage.total)} free in {folder}"
    if not several:
        return not_needed(check, f"one rank per job ({told})")
    if usage.free < SMALL_SHARED_MEMORY:
        return warning(check, told, "in a container: --shm-size=8g or --ipc=host; else delete what lies there")
    return ok(check, told)


def _locked_memory(*, several: bool) -> Point:
    check = "locked memory"
    if not several or not (INFINIBAND.is_dir() and any(INFINIBAND.iterdir())):
        return not_needed(check, "no InfiniBand here" if several else "one rank per job")
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return ok(check, "unlimited")
    cure = "ulimit -l unlimited (limits.conf; in a container --ulimit memlock=-1), or NCCL falls back to sockets"
    return warning(check, f"{bytes_text(soft)} per process", cure)
