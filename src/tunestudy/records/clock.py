"""The time that all machines of a study agree on: that of the file server, which dates their files.

What one machine writes down is read on another, sorted and subtracted: a clock that is two hours off would make a job
of ten seconds last two hours. So times in the results are told by the clock that all see.
"""

import contextlib
import time
from pathlib import Path

from tunestudy.records.atomic import temporary_beside

TOLERANCE_S = 2.0
"""A clock that is off by less is right: file systems count whole seconds, or pairs of them."""
_SET_S = 1.0

_known: dict[Path, tuple[float, float]] = {}
"""Folder → by how much its clock is behind ours, and between which of our two clocks that was measured."""


def now(folder: Path) -> float:
    """Unix seconds by the clock that dates files in `folder`; by our own where none can be written."""
    clock = time.time()
    between = clock - time.monotonic()
    known = _known.get(folder)
    if known is None or abs(between - known[1]) > _SET_S:  # the first time, and when our clock was set meanwhile
        known = _known[folder] = (ahead_s(folder), between)
    return clock - known[0]


def ahead_s(folder: Path) -> float:
    """Seconds by which this machine's clock is ahead of the one that dates files in `folder`; 0 where both agree, and
    where no file can be written."""
    probe = temporary_beside(folder / "clock")
    try:
        before = time.time()
        probe.write_bytes(b"?")
        dated = probe.stat().st_mtime
        after = time.time()
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return 0.0 if before - TOLERANCE_S <= dated <= after + TOLERANCE_S else (before + after) / 2 - dated
