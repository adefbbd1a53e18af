"""Who and where this process is, in terms that another process can check later."""

import os
import platform
import pwd
from functools import cache
from pathlib import Path

import psutil

from tunestudy.records.redact import redact


def host_name() -> str:
    """This machine's name, redacted: cluster names are made by people and scripts, and may hold anything."""
    return redact(platform.node())


@cache
def user_name() -> str:
    """Who runs this process, redacted; the number of a user whom the machine has no name for, as in containers."""
    try:
        return redact(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        return f"user {os.getuid()}"


@cache
def machine() -> str:
    """An id of the set of processes that this one can see and signal: boot, PID name space (containers), user.

    Host names are no such id: containers on different machines often share one. The user belongs to it, since
    other users' processes may be hidden (`hidepid`), and hidden must not be taken for dead.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}/{os.getuid()}"
    except OSError:  # not Linux
        return f"{host_name()}/{psutil.boot_time():.0f}/{os.getuid()}"


def process_start(pid: int) -> str | None:
    """When process `pid` began, as text to compare for equality; None when there is none or it is a zombie.

    With the PID it names one process for good: PIDs are reused, pairs of PID and start are not. On Linux it is
    counted in ticks since boot, since wall clock times of processes move when the clock is set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _process_start_elsewhere(pid)
    except ProcessLookupError:  # it went away while being read
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before may hold spaces and brackets
    return None if fields[0] in "ZX" else fields[19]


def _process_start_elsewhere(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None
