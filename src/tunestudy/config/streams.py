"""Standard output and error whose reader may leave, as `| head` does.

Work that keeps its results on disk goes on without being heard; a command that only prints has nothing left to do.
"""

import errno
import io
import os
import sys
from typing import Any

UNHEARD = 128 + 13
"""How a shell tells of a program that SIGPIPE ended: what `head` makes of every other command."""


class Leavable(io.FileIO):
    """A descriptor whose reader may leave: from then on nothing is written, and the program ends or goes on."""

    goes_on = False
    """Whether a program goes on to its end then; else it leaves with `UNHEARD`."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())
        os.close(nothing)
        if self.goes_on:
            return len(memoryview(data).cast("B"))
        raise SystemExit(UNHEARD)


def may_close() -> None:
    """Let readers of this process's standard output and error leave, and show ? for what a terminal cannot show."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream is not getattr(sys, f"__{name}__") or not isinstance(_raw(stream), io.FileIO):
            stream.reconfigure(errors="replace")
            continue
        stream.flush()
        opened = io.TextIOWrapper(
            io.BufferedWriter(Leavable(stream.fileno(), "w", closefd=False)),
            encoding=stream.encoding,
            errors="replace",
            line_buffering=stream.line_buffering or name == "stderr",
            write_through=stream.write_through,
        )
        setattr(sys, name, opened)


def go_on_unheard() -> None:
    """What follows is work: it goes on when nobody listens any more."""
    for stream in (sys.stdout, sys.stderr):
        raw = _raw(stream)
        if isinstance(raw, Leavable):
            raw.goes_on = True


def last_words() -> None:
    """Write out what is held back, while a reader that has left can still be told from a fault."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _raw(stream: Any) -> Any:
    """The descriptor under a text stream; with `python -u` there is no buffer between."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
