"""A source seen through another's eyes: rows of its embeddings in another order, and tensors that do not count."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tunestudy.merge.source import Source
from tunestudy.models.tensorfiles import TensorInfo


@dataclass(frozen=True)
class Rows:
    """Which rows make up a tensor, in runs of rows that lie one after the other: (source, first row, rows)."""

    runs: tuple[tuple[Source, int, int], ...]

    @property
    def count(self) -> int:
        return sum(rows for _, _, rows in self.runs)


class View:
    """`source` without the tensors `hidden`, and with those in `rows` put together anew. Safe for threads."""

    def __init__(self, source: Source, *, hidden: Collection[str] = (), rows: Mapping[str, Rows] | None = None) -> None:
        self.source = source
        self._rows = dict(rows or {})
        self._tensors = {
            name: replace(info, shape=(self._rows[name].count, *info.shape[1:])) if name in self._rows else info
            for name, info in source.tensors.items()
            if name not in hidden
        }

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        if name not in self._rows:
            return self.source.read(name, start, stop, out)
        info = self._tensors[name]
        stop = info.num_values if stop is None else stop
        values = torch.empty(stop - start, dtype=info.dtype) if out is None else out[: stop - start]
        for source, first, last, place in self._pieces(name, start, stop):
            values[place : place + last - first] = source.read(name, first, last)
        return values

    def difference(self, base: Source, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        plain = base.source if isinstance(base, View) and name not in base._rows else base
        if name in self._rows or (plain is base and isinstance(base, View)):
            return self.read(name, start, stop).to(torch.float32).sub_(base.read(name, start, stop))
        return self.source.difference(plain, name, start, stop)

    def is_untouched(self, name: str) -> bool:
        return name not in self._rows and self.source.is_untouched(name)

    def _pieces(self, name: str, start: int, stop: int) -> Iterator[tuple[Source, int, int, int]]:
        """(source, first value, last value, place in the result) of the values `start` to `stop`."""
        info = self._tensors[name]
        width = info.num_values // max(info.shape[0], 1)
        begin = 0
        for source, row, rows in self._rows[name].runs:
            first, last = max(start, begin), min(stop, begin + rows * width)
            if first < last:
                yield source, row * width + first - begin, row * width + last - begin, first - start
            begin += rows * width
