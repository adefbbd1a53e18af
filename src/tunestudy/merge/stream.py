"""The merge itself: tensor after tensor, part after part, by several threads, into files laid out before.

The bytes of a tensor depend on the inputs, the settings and the seed alone: parts are cut at fixed places, what is
summed over a whole tensor is summed in the order of its parts, and random choices are functions of a value's place.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.merge import MergeStage
from tunestudy.merge.compat import compat_methods
from tunestudy.merge.methods import Method
from tunestudy.merge.parts import PART, Buffers, Part, Task, num_parts
from tunestudy.merge.source import Inputs
from tunestudy.merge.tasks import Planned, absent_tensors, bytes_of, plan_tensors
from tunestudy.merge.write import ModelWriter
from tunestudy.records.snapshot import usable_threads

GROUP = 256
"""Parts that are looked at and merged together: threads wait for each other between the looks, so not too few; what
looks found is kept meanwhile, so not too many. A larger tensor is a group of its own."""


@dataclass(frozen=True)
class StreamFacts:
    """What a merge did."""

    files: list[str]
    tensors: int
    parameters: int
    absent: list[str]
    """Tensors that the base lacks."""
    threads: int
    duration_s: float
    read_bytes: int
    """Inputs are read again for each look that a method takes."""
    written_bytes: int
    """Of tensors."""


def merge_into(
    prepared: Path,
    inputs: Inputs,
    settings: MergeStage,
    *,
    seed: int,
    threads: int | None,
    stop: Callable[[], bool],
    note: Callable[[float], None] | None = None,
    moves: Callable[[], None] | None = None,
) -> StreamFacts | None:
    """Write the merged tensors into the folder `prepared`; None, with nothing written, when asked to stop.

    threads: default one per core this process may use; `compat` has one. stop: called from any thread. note: gets the
    share that is done, now and then. moves: called after each part, from any thread. StudyError for inputs that do not
    fit together or hold NaN, OSError(ENOSPC) for a full disk: none of them leaves a file.
    """
    began = time.monotonic()
    planned = plan_tensors(inputs, settings, seed=seed)
    if settings.compat != "paper":
        planned, threads = compat_methods(planned, settings, seed=seed), 1
    threads = threads or usable_threads()
    prepared.mkdir(parents=True, exist_ok=True)
    tensors = {one.task.name: (one.task.dtype, one.task.shape) for one in planned}
    with (
        ModelWriter(prepared, tensors, bytes_of(settings.max_shard_size)) as writer,
        _Workers(threads, stop, moves) as workers,
    ):
        total = sum(one.task.num_values for one in planned) or 1
        done = 0
        for group in _groups(planned):
            if not _merge_group(group, inputs, writer, workers):
                return None
            done += sum(one.task.num_values for one in group)
            if note is not None:
                note(done / total)
        writer.finish()
        return StreamFacts(
            files=writer.files,
            tensors=len(planned),
            parameters=sum(one.task.num_values for one in planned),
            absent=absent_tensors(inputs),
            threads=threads,
            duration_s=time.monotonic() - began,
            read_bytes=workers.read_bytes,
            written_bytes=sum(info.num_bytes for info in writer.placed.values()),
        )


def _groups(planned: Sequence[Planned]) -> Iterator[list[Planned]]:
    group: list[Planned] = []
    held = 0
    for one in planned:
        parts = num_parts(one.task, one.part or PART)
        if group and held + parts > GROUP:
            yield group
            group, held = [], 0
        group.append(one)
        held += parts
    if group:
        yield group


@dataclass(frozen=True)
class _Piece:
    """A part that is still to be made."""

    task: Task
    method: Method
    index: int
    start: int
    stop: int


def _merge_group(group: Sequence[Planned], inputs: Inputs, writer: ModelWriter, workers: "_Workers") -> bool:
    """All looks, each over all tensors of the group, then the merge; False when asked to stop."""
    pieces = {one.task.name: _pieces(one) for one in group}
    methods = {name: found[0].method for name, found in pieces.items() if found}

    def part_of(piece: _Piece, buffers: Buffers) -> Part:
        return Part(piece.task, inputs, piece.index, piece.start, piece.stop, buffers)

    def look(number: int, piece: _Piece, buffers: Buffers) -> Any:
        return piece.method.looks[number].of_part(part_of(piece, buffers))

    def merge(piece: _Piece, buffers: Buffers) -> int:
        part = part_of(piece, buffers)
        return writer.write(piece.task.name, piece.start, part.result(piece.method.merge(part)))

    for number in range(max((len(method.looks) for method in methods.values()), default=0)):
        looked = [name for name, method in methods.items() if number < len(method.looks)]
        wanted = [piece for name in looked for piece in pieces[name]]
        found = workers.run(partial(look, number), wanted)
        if found is None:
            return False
        answers = iter(found)
        for name in looked:
            methods[name].looks[number].settle(list(itertools.islice(answers, len(pieces[name]))))
    return workers.run(merge, [piece for found in pieces.values() for piece in found]) is not None


def _pieces(one: Planned) -> list[_Piece]:
    if not one.task.num_values:
        return []
    method, total = one.begin(), one.task.num_values
    size = one.part or PART
    starts = range(0, total, size)
    return [_Piece(one.task, method, number, start, min(total, start + size)) for number, start in enumerate(starts)]


class _Workers:
    """Threads that share a list of parts, each with memory of its own. Torch runs on one thread in each of them."""

    def __init__(self, threads: int, stop: Callable[[], bool], moves: Callable[[], None] | None) -> None:
        self._stop, self._moves = stop, moves
        self._buffers = [Buffers(PART) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="merge")
        self._torch_threads = torch.get_num_threads()

    @property
    def read_bytes(self) -> int:
        return sum(buffers.read_bytes for buffers in self._buffers)

    def __enter__(self) -> "_Workers":
        torch.set_num_threads(1)  # before the threads begin: they take over what is set then
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        torch.set_num_threads(self._torch_threads)

    def run(self, work: Callable[[_Piece, Buffers], Any], pieces: Sequence[_Piece]) -> list[Any] | None:
        """What `work` returns for each, in order; None when asked to stop. Of errors, that of the first piece."""
        found: list[Any] = [None] * len(pieces)
        turns = itertools.count()
        lock = threading.Lock()
        failed: dict[int, BaseException] = {}
        stopped = False

        def loop(buffers: Buffers) -> None:
            nonlocal stopped
            while not failed and not stopped:
                with lock:
                    turn = next(turns)
                if turn >= len(pieces):
                    return
                if self._stop():
                    stopped = True
                    return
                try:
                    found[turn] = work(pieces[turn], buffers)
                except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for all
                    failed[turn] = error
                if self._moves is not None:
                    self._moves()

        for waiting in [self._pool.submit(loop, buffers) for buffers in self._buffers]:
            waiting.result()
        if failed:
            raise failed[min(failed)]
        return None if stopped else found
