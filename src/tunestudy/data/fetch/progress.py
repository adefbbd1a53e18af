"""How far a fetch is: a bar on a terminal, a line every few seconds anywhere else, and a table at the end."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from tunestudy.data.fetch.manifest import Outcome

LINE_EVERY_S = 5.0


class Progress:
    """Counts images and shows them."""

    def __init__(self, name: str, total: int, output: TextIO | None = None) -> None:
        """`total`: images of all records that this run goes through."""
        self._name, self._total = name, total
        self._output = output or sys.stderr
        self.known = 0
        """Images that an earlier run had settled."""
        self.ok = self.num_bytes = 0
        self.failed: Counter[str] = Counter()
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        if self._output.isatty():
            self._bar = tqdm(
                desc=name, total=total, unit="image", file=self._output, dynamic_ncols=True, mininterval=0.5
            )

    def recalled(self, count: int) -> None:
        """So many images need not be asked for."""
        self.known += count
        if self._bar is not None:
            self._bar.total = self._total - self.known  # its rate and its end shall be those of what is fetched now
        self._show()

    def settled(self, outcome: Outcome, *, times: int = 1) -> None:
        """An image that records name `times` times has come, or will not."""
        if outcome.ok:
            self.ok += times
        else:
            self.failed[outcome.reason] += times
        if self._bar is not None:
            self._bar.update(times)
        self._show()

    def received(self, num_bytes: int) -> None:
        """So many bytes came over the network."""
        self.num_bytes += num_bytes

    def close(self) -> None:
        self._show(last=True)
        if self._bar is not None:
            self._bar.close()

    def line(self) -> str:
        """Where it stands, in one line."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        done = self.ok + self.failed.total()
        left = self._total - self.known - done
        rate = done / seconds
        eta = f", {_clock(left / rate)} left" if rate and left > 0 else ""
        told = f"{self._name}: {self.known + done:,} of {self._total:,} images"
        return f"{told}, {rate:.0f}/s, {self._counts(seconds)}{eta}"

    def _show(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._told < (0.5 if self._bar is not None else LINE_EVERY_S):
            return
        self._told = now
        if self._bar is not None:
            self._bar.set_postfix_str(self._counts(max(now - self._began, 1e-9)))
        else:
            print(self.line(), file=self._output, flush=True)

    def _counts(self, seconds: float) -> str:
        return f"{self.num_bytes / seconds / 1e6:.1f} MB/s, {self.ok:,} ok, {self.failed.total():,} failed"


def table(name: str, ok: int, num_bytes: int, failed: Mapping[str, int]) -> Iterator[str]:
    """What came and what did not, the most frequent reason first."""
    missing = sum(failed.values())
    yield f"{name}: {ok:,} of {ok + missing:,} images are here ({num_bytes / 1e6:,.1f} MB)"
    for reason, count in sorted(failed.items(), key=lambda item: (-item[1], item[0])):
        yield f"{count:>12,}  {reason}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
