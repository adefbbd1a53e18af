"""Writing checkpoints in the background: one at a time, proven before anything older goes."""

import sys
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor

from tunestudy.config.stage import CheckpointSettings
from tunestudy.records.atomic import is_disk_full
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems
from tunestudy.records.pushes import enqueue
from tunestudy.records.space import NoSpaceError
from tunestudy.records.tables import TableLog
from tunestudy.train.checkpoint import Snapshot, size_of, write_checkpoint
from tunestudy.train.retention import prune


class UnreadableError(RuntimeError):
    """A checkpoint did not read back as it was written: the disk cannot be trusted."""


class CheckpointWriter:
    """A thread that writes snapshots. Its errors surface in `submit`, `check` and `close`.

    A full disk is no error of training: the checkpoint is given up with a message, after one more try with older
    checkpoints pruned, and the next one is tried in its turn. Only one that is needed is never given up.
    """

    def __init__(
        self, folder: JobDir, settings: CheckpointSettings, pinned: Collection[str], logs: Collection[TableLog]
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._pinned = pinned
        self._logs = logs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self.given_up: set[int] = set()
        """Steps whose checkpoint found no space."""

    def wait(self) -> None:
        """Until nothing is being written; raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raise what went wrong, without waiting."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def submit(self, snapshot: Snapshot) -> None:
        """Hand over a snapshot. Call `wait` before its buffers are filled."""
        assert self._pending is None, "wait() for the last checkpoint first: its buffers would change under the writer"
        self._pending = self._thread.submit(self._write, snapshot)

    def close(self) -> None:
        """Finish what is being written."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        for log in self._logs:
            log.sync()
        try:
            self._write_and_prove(snapshot)
        except Exception as error:
            if not is_disk_full(error):
                raise
            self._make_room()
            self._try_once_more(snapshot)
        self._let_wait_for_upload(snapshot.step)
        prune(self._folder, self._settings, self._pinned)

    def _write_and_prove(self, snapshot: Snapshot) -> None:
        final = self._folder.checkpoint(snapshot.step)
        write_checkpoint(snapshot, final)
        if found := problems(final):
            raise UnreadableError("; ".join(found))
        self.given_up.discard(snapshot.step)

    def _let_wait_for_upload(self, step: int) -> None:
        """Queue the checkpoint where the stage pushes at every save. What goes wrong there never stops training."""
        strategy = self._settings.hub_strategy
        if not self._settings.push_to_hub or strategy == "end" or step in self.given_up:
            return
        name = self._folder.checkpoint(step).name
        try:
            gone = enqueue(self._folder, self._folder.checkpoint(step), keep_older=strategy == "all_checkpoints")
        except OSError as error:
            print(f"{name} is not queued for its upload: {error}; training goes on", file=sys.stderr, flush=True)
            return
        if gone:
            print(f"{name} takes the place of {', '.join(gone)}, not uploaded yet", flush=True)

    def _make_room(self) -> None:
        """Keep only the last checkpoints (one of all, one full one), the best and the pinned."""
        prune(self._folder, self._settings.model_copy(update={"save_total_limit": 1}), self._pinned)

    def _with_price(self, full: NoSpaceError) -> NoSpaceError:
        """The stage fails by it, and goes on from its last full checkpoint: told where there can be none."""
        if not self._settings.writes_full:
            full.words += "; the stage will begin anew, as with full_save_steps: null it writes nothing to go on from"
        return full

    def _try_once_more(self, snapshot: Snapshot) -> None:
        try:
            self._write_and_prove(snapshot)
        except Exception as error:
            if not is_disk_full(error):
                raise
            full = NoSpaceError(f"for checkpoint-{snapshot.step}", self._folder.root, size_of(snapshot), error)
            if snapshot.needed:
                raise self._with_price(full) from error
            self.given_up.add(snapshot.step)
            print(f"{full}; training goes on without it", file=sys.stderr, flush=True)
