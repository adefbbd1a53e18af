"""How long a rank works on a step by itself, before it waits for others: where one rank is slow, this tells which.

Under engines that gather weights on the way (fsdp2, ZeRO stage 3) waiting is part of the forward pass, and ranks look
alike. On a GPU times are those of its own events, read when rows are written, so nothing waits for them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunestudy.records.host import host_name
from tunestudy.records.layout import JobDir
from tunestudy.records.tables import TableLog
from tunestudy.train.world import World

COLUMNS = ("step", "own_s", "host")


class RankPace:
    """One table per rank, `logs/pace-<rank>.csv`; nothing with a single rank."""

    def __init__(self, folder: JobDir, world: World, *, keep_through_step: int) -> None:
        self._on_gpu = world.device.type == "cuda"
        self._device = world.device
        self._own_s, self._steps = 0.0, 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._table: TableLog | None = None
        if world.size > 1:
            self._table = TableLog(folder.pace_log(world.rank), COLUMNS, keep_through_step=keep_through_step)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Around what a rank does without the others."""
        if self._table is None:
            yield
            return
        if not self._on_gpu:
            began = time.perf_counter()
            yield
            self._own_s += time.perf_counter() - began
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record(torch.cuda.current_stream(self._device))
        yield
        end.record(torch.cuda.current_stream(self._device))
        self._events.append((start, end))

    def step(self) -> None:
        """A step was taken."""
        self._steps += 1

    def write(self, step: int) -> None:
        """One row: the mean over the steps since the last one."""
        if self._table is None or not self._steps:
            return
        done = [pair for pair in self._events if pair[1].query()]  # type: ignore[no-untyped-call]
        own_s = self._own_s + sum(start.elapsed_time(end) for start, end in done) / 1000
        self._table.append({"step": step, "own_s": round(own_s / self._steps, 6), "host": host_name()})
        self._own_s, self._steps, self._events = 0.0, 0, []

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
