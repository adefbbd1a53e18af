"""Jobs whose launcher is gone while their processes live on, on this machine."""

import contextlib
import os
import signal

from tunestudy.launch.torchrun import ask_to_stop, kill
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
