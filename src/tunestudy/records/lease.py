"""Leases: who may work on something, safe on NFS and against clocks that differ, without any server.

A lease is a folder of numbered files, one per attempt: `<path>/000001.json`, `000002.json`, … Whoever creates the
next number holds it. Numbers only grow, so a holder that was believed dead and wakes up later can see that it was
replaced (`still_mine`), and is told at its next heartbeat (`on_lost`). Nothing is ever deleted, hence there is no
moment at which two takers of a stale lease could delete each other's.

- Creation is `link(2)` of a unique file, judged by its link count: on NFS a lost reply makes the call itself lie.
- A holder shows life by touching its file. A reader judges its age against a probe file it has just written beside
  it: both times come from the file server, so clocks never matter.
- On the same machine no waiting is needed: process id and start time tell at once whether the holder lives.
"""

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tunestudy.records.atomic import is_disk_full, overwrite, temporary_beside, write_json
from tunestudy.records.clock import TOLERANCE_S
from tunestudy.records.host import host_name, machine, process_start, user_name

HEARTBEAT_S = 10.0
STALE_S = 100.0
"""Without a touch for this long a holder on another machine counts as dead. Above NFS' attribute cache (60 s)."""

_TRIES = 10
"""For a folder that others delete while it is made."""

_from_the_future: dict[tuple[Path, float], float] = {}
"""Leases that were touched at a time which is yet to come → when that was first seen, by our monotonic clock."""

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease, as its file tells."""

    attempt: int
    host: str = "unknown"
    pid: int = 0
    machine: str = ""
    started: str = ""
    since: float = 0.0
    """Unix seconds, by the file server's clock."""
    user: str = ""
    facts: dict[str, Any]
    """What the holder added with `note`."""
    keeper: int | None = None
    """A process of that machine which keeps the lease alive beside (or instead of) the holder."""

    @property
    def here(self) -> bool:
        """Whether the holder's process can be seen (and sent a signal) from this one."""
        return self.machine == machine()

    @property
    def is_gone(self) -> bool:
        """Whether the holding process itself is known to have ended, though its keeper may live."""
        return self.here and process_start(self.pid) != self.started

    def __str__(self) -> str:
        began = f"since {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.since))}" if self.since else ""
        told = ", ".join(filter(None, [self.user, began]))
        return f"process {self.pid} on {self.host}" + (f" ({told})" if told else "")


class LeaseHeldError(Exception):
    """Someone else holds the lease."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.holder = holder
        super().__init__(f"{path.name} is held by {holder}")


class Lease:
    """A held lease. Made by `acquire`; use as a context manager or `release()` it."""

    def __init__(
        self,
        path: Path,
        file: Path,
        record: dict[str, Any],
        heartbeat_s: float,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.attempt: int = record["attempt"]
        """The fencing number: higher than that of every holder before."""
        self._file = file
        self._record = record
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {path.name}", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        wait_s: float = 0.0,
        heartbeat_s: float = HEARTBEAT_S,
        stale_s: float = STALE_S,
        on_lost: Callable[[], None] | None = None,
    ) -> "Lease":
        """Take the lease, waiting for its holder up to `wait_s` (`math.inf`: for as long as it takes).

        `on_lost` is called once, from the heartbeat's thread, when someone else has taken the lease over.
        Raises LeaseHeldError with the holder when it stays held, OSError when the folder cannot be written.
        """
        give_up = time.monotonic() + wait_s
        while True:
            newest = _newest(path)
            holder = _judge(path, newest, stale_s)
            if holder is None and (taken := _take_in(path, newest + 1)):
                return cls(path, *taken, heartbeat_s, on_lost)
            if holder is not None and time.monotonic() >= give_up:
                raise LeaseHeldError(path, holder)
            time.sleep(0.01 if holder is None else min(0.2, max(0.02, give_up - time.monotonic())))

    @staticmethod
    def holder(path: Path, *, stale_s: float = STALE_S) -> Holder | None:
        """Who holds the lease now; None when nobody does: never taken, given back, or its holder is dead."""
        while True:
            newest = _newest(path)
            holder = _judge(path, newest, stale_s)
            if holder is not None or newest == _newest(path):  # else it passed to the next number while we looked
                return holder

    @staticmethod
    def is_abandoned(path: Path) -> bool:
        """Whether it was held and nobody holds it now. A folder that is still empty is of someone about to take it."""
        return _newest(path) > 0 and Lease.holder(path) is None

    def still_mine(self) -> bool:
        """Whether no one has taken over. Ask before publishing anything: a suspended holder may be out of date."""
        return self._is_here() and _newest(self.path) == self.attempt

    def note(self, **facts: Any) -> None:
        """Add facts for readers (`Holder.facts`). `keeper` = a pid of this machine that keeps the lease alive too."""
        self._record["facts"].update(facts)
        if "keeper" in facts:
            self._record["keeper"] = [facts["keeper"], process_start(facts["keeper"])]
        write_json(self._file, self._record)

    def renew(self) -> "Lease":
        """Take the next number without letting anyone in between; this lease is given back."""
        taken = _take(self.path, self.attempt + 1)
        if taken is None:  # only possible when this lease was lost long ago
            self.release()
            return Lease.acquire(self.path)
        self.release()
        return Lease(self.path, *taken, self._heartbeat_s, self._on_lost)

    def release(self) -> None:
        """Give the lease back; a second call does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError):  # the study was deleted: there is nothing to give back
            if self._is_here():
                self._write_released()

    def _is_here(self) -> bool:
        """Whether its file is there and still its own. Where the folder was deleted and made anew, numbers begin anew:
        then the file is somebody else's, who took the lease meanwhile."""
        try:
            told = _parsed(self._file.read_bytes(), self.attempt)
        except FileNotFoundError:
            return False
        return all(told.get(name, self._record[name]) == self._record[name] for name in ("pid", "started", "since"))

    def _write_released(self) -> None:
        given_back = {**self._record, "released": True}
        try:
            write_json(self._file, given_back)
        except OSError as error:
            if not is_disk_full(error):
                raise
            overwrite(self._file, json.dumps(given_back).encode())

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            with contextlib.suppress(OSError):  # a file server that is away now is asked again at the next beat
                os.utime(self._file)
                if self._on_lost and not self.still_mine():
                    self._on_lost()
                    return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _judge(path: Path, newest: int, stale_s: float) -> Holder | None:
    """The holder of number `newest` if it lives. Whoever finds that it does not may try the next number, no other."""
    if newest == 0:
        return None
    try:
        with open(_file_of(path, newest), "rb") as stream:  # opening makes an NFS client ask the server for true times
            touched = os.fstat(stream.fileno()).st_mtime
            record = _parsed(stream.read(), newest)
    except FileNotFoundError:
        return None  # the study was deleted meanwhile
    if record.get("released"):
        return None
    holder = _holder_from(record)
    alive = _any_process_lives(record) if holder.here else _is_fresh(path, touched, stale_s)
    return holder if alive else None


def _take_in(path: Path, attempt: int) -> tuple[Path, dict[str, Any]] | None:
    """`_take` in a folder that is made if missing, and again when `clean` removed it just then."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            path.mkdir(parents=True, exist_ok=True)
            return _take(path, attempt)
    path.mkdir(parents=True, exist_ok=True)
    return _take(path, attempt)


def _take(path: Path, attempt: int) -> tuple[Path, dict[str, Any]] | None:
    """Create the file of number `attempt`; None when another process was faster."""
    file = _file_of(path, attempt)
    unique = temporary_beside(file)
    unique.touch()
    record: dict[str, Any] = {
        "attempt": attempt,
        "host": host_name(),
        "pid": os.getpid(),
        "started": process_start(os.getpid()),
        "machine": machine(),
        "since": round(unique.stat().st_mtime, 3),
        "user": user_name(),
        "facts": {},
    }
    data = json.dumps(record).encode()
    unique.write_bytes(data)
    try:
        won = _link(unique, file, data)
    finally:
        unique.unlink(missing_ok=True)
    return (file, record) if won else None


def _link(unique: Path, file: Path, data: bytes) -> bool:
    try:
        os.link(unique, file)
    except FileExistsError:
        pass  # perhaps by this very call, repeated by NFS: the link count knows
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_exclusively(file, data)
    return unique.stat().st_nlink == 2


def _create_exclusively(file: Path, data: bytes) -> bool:
    """For file systems without hard links (exFAT, some FUSE)."""
    try:
        with open(file, "xb") as stream:
            stream.write(data)
    except FileExistsError:
        return False
    return True


def _newest(path: Path) -> int:
    try:
        names = os.listdir(path)  # noqa: PTH208 - names are all that is needed, and status asks this for every job
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(name[:6]) for name in names if name[:6].isdigit()), default=0)


def _file_of(path: Path, attempt: int) -> Path:
    return path / f"{attempt:06d}.json"


def _parsed(data: bytes, attempt: int) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError:
        record = {}  # its maker was killed between creating and writing it; its age tells the rest
    return record if isinstance(record, dict) and "attempt" in record else {"attempt": attempt}


def _holder_from(record: dict[str, Any]) -> Holder:
    names = ("attempt", "host", "pid", "machine", "started", "since", "user")
    known = {name: record[name] for name in names if name in record}
    return Holder(**known, facts=record.get("facts", {}), keeper=record.get("keeper", [None])[0])


def _any_process_lives(record: dict[str, Any]) -> bool:
    processes = [(record["pid"], record["started"]), *([record["keeper"]] if "keeper" in record else [])]
    return any(started is not None and process_start(pid) == started for pid, started in processes)


def _is_fresh(path: Path, touched: float, stale_s: float) -> bool:
    """Whether the file server says that the lease was touched within `stale_s`."""
    probe = temporary_beside(path / "probe")
    try:
        probe.write_bytes(b"?")
        now = probe.stat().st_mtime
    except OSError:
        return True  # a reader that may not write cannot tell; taking over needs writing anyway
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    if now - touched < -TOLERANCE_S:  # the file server's own clock was set back: for how long did we see no touch?
        return time.monotonic() - _from_the_future.setdefault((path, touched), time.monotonic()) < stale_s
    return now - touched < stale_s
