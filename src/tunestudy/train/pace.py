"""How long a rank works on a step by itself, before it waits for others: where one rank is slow, this tells which.

Under engines that gather weights on the way (fsdp2, ZeRO stage 3) waiting is part of the forward pass. Of it only the
parts count then that compute between one gathering and the next: the engine names them (`between_gatherings`). On a GPU
times are those of its own events, read when rows are written, so nothing waits for them.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

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
        self._has_parts = self._in_forward = False
        self._began: Any = None
        self._table: TableLog | None = None
        if world.size > 1:
            self._table = TableLog(folder.pace_log(world.rank), COLUMNS, keep_through_step=keep_through_step)

    def watch(self, parts: Sequence[nn.Module], *, compiled: bool = False) -> None:
        """Of the forward pass these alone count. Hooks of the engine, which wait for weights, run before and after.

        A compiler leaves the engine's hooks out of a part, and these as well: what is between them stays one graph.
        """
        self._has_parts = bool(parts) and self._table is not None
        left_out: Any = torch.compiler.disable if compiled else lambda hook: hook
        for part in parts if self._has_parts else ():
            part.register_forward_pre_hook(left_out(self._enter))
            part.register_forward_hook(left_out(self._exit), prepend=True)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Around what a rank does without the others."""
        if self._table is None:
            yield
            return
        began = self._mark()
        yield
        self._add(began)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around a forward pass."""
        if not self._has_parts:
            with self.own():
                yield
            return
        self._in_forward = True
        yield
        self._in_forward = False

    def _enter(self, *_: Any) -> None:
        self._began = self._mark() if self._in_forward else None

    def _exit(self, *_: Any) -> None:
        """In a backward pass, which may compute a part again, nothing counts."""
        if self._in_forward and self._began is not None:
            self._add(self._began)

    def _mark(self) -> Any:
        """Now, by this rank's clock or its GPU's."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _add(self, began: Any) -> None:
        if self._on_gpu:
            self._events.append((began, self._mark()))
        else:
            self._own_s += time.perf_counter() - began

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
