"""Jobs whose launcher is gone while their processes live on, on this machine."""

import contextlib
import os
import signal
from dataclasses import dataclass

from tunestudy.launch.hang import Patience, SignsOfLife, end_if_it_hangs, is_due
from tunestudy.launch.torchrun import ask_to_stop, kill, show_stacks
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Holder, Lease


def orphan_of(folder: JobDir) -> Holder | None:
    """Who works on the job without a launcher: torchrun as the claim's `keeper`, or else rank 0 as holder itself."""
    claim = Lease.holder(folder.claim)
    if claim is not None:
        return claim if claim.is_gone and claim.keeper else None
    worker = Lease.holder(folder.lease)
    return worker if worker is not None and worker.here else None


def stop_orphan(orphan: Holder) -> None:
    """SIGTERM to its ranks: they save and leave."""
    if orphan.keeper:
        ask_to_stop(orphan.keeper)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan.pid, signal.SIGTERM)


def kill_orphan(orphan: Holder) -> None:
    """SIGKILL to all its processes."""
    kill(orphan.keeper or orphan.pid)


def end_orphan_if_it_hangs(signs: SignsOfLife, folder: JobDir, patience: Patience) -> None:
    """As a launcher does with what it started itself; nothing while the job has a launcher, or none here."""
    if not is_due(signs, patience):
        return
    orphan = orphan_of(folder)
    if orphan is None:
        return
    attempt = orphan.attempt
    if not orphan.keeper:  # the number is that of the worker's lease
        told = read_object(folder.progress_json)
        attempt = told["attempt"] if told.get("pid") == orphan.pid and "attempt" in told else 0
    end_if_it_hangs(signs, _Processes(orphan), folder, attempt, patience)


@dataclass(frozen=True)
class _Processes:
    """An orphan's, to be ended."""

    orphan: Holder

    def show_stacks(self) -> None:
        show_stacks(self.orphan.keeper or self.orphan.pid)

    def kill(self) -> None:
        kill_orphan(self.orphan)
