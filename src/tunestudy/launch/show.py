"""What people see while jobs run: a live table on a terminal, one line per change of state elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunestudy.launch.durations import duration_text
from tunestudy.launch.task import Task
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import JobDir
from tunestudy.records.redact import redact

REFRESH_S = 0.5
_COLOURS = {
    "done": "green",
    "failed": "red",
    "blocked": "red",
    "running": "cyan",
    "interrupted": "yellow",
    "paused": "yellow",
    "queued": "blue",
}
_WIDE = 100
"""Columns of a terminal."""
_MAX_NOTES = 3
WILL_NOT_START = "will not start"
"""In the note of a job that waits in SLURM's queue for something that waiting does not bring."""
_ORDER = (
    "running",
    "elsewhere",
    "paused",
    "failed",
    "blocked",
    "interrupted",
    "queued",
    "evaluate",
    "pending",
    "waiting",
    "done",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One job in the table; None is shown as a dash."""

    id: str
    name: str
    state: str
    note: str = ""
    phase: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    eta_s: float | None = None


class Display(Protocol):
    """Somewhere to show rows."""

    def update(self, rows: Sequence[Row]) -> None: ...
    def alert(self, words: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def row_of(task: Task) -> Row:
    """A task's row, with the progress its job tells of while it runs."""
    if task.attempt is not None and task.attempt.running.waits:
        return make_row(task.job.id, task.name, "waiting", task.attempt.running.waits, None)
    running = task.state in ("running", "elsewhere")
    number = task.attempt.number if task.attempt is not None else None
    return make_row(task.job.id, task.name, task.state, task.note, task.folder if running else None, attempt=number)


def make_row(
    id_: str, name: str, state: str, note: str, running_in: JobDir | None, *, attempt: int | None = None
) -> Row:
    """A row; `running_in` is the folder whose progress.json belongs to it now.

    attempt: where it is known; what an earlier one told before it was ended is then left out.
    """
    told = read_object(running_in.progress_json) if running_in else {}
    if attempt is not None and told.get("attempt") != attempt:
        told = {}
    live = {key: told.get(key) for key in ("step", "total_steps", "loss", "tokens_per_s", "eta_s")}
    return Row(id=id_, name=name, state=state, note=redact(note), phase=told.get("phase", ""), **live)


def open_display(*, quiet: bool = False) -> Display:
    """The live table where standard output is a terminal, lines otherwise; `quiet` shows nothing."""
    if quiet:
        return LineDisplay(print_lines=False)
    return LiveDisplay() if sys.stdout.isatty() else LineDisplay()


class LineDisplay:
    """Prints a line whenever a job's state or note changes."""

    def __init__(self, *, print_lines: bool = True) -> None:
        self._print = print_lines
        self._told: dict[str, tuple[str, str]] = {}

    def update(self, rows: Sequence[Row]) -> None:
        for row in rows:
            now = (row.state, row.note)
            before = self._told.setdefault(row.id, ("waiting", ""))
            if now != before and self._print and row.note:
                print(f"{time.strftime('%H:%M:%S')}  {row.name}: {row.note}", flush=True)
            self._told[row.id] = now

    def alert(self, words: str) -> None:
        if self._print:
            print(f"{time.strftime('%H:%M:%S')}  {words}", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class LiveDisplay:
    """A table that is redrawn in place; the last state stays when it ends."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False)
        self._rows: Sequence[Row] = ()
        self._next = 0.0

    def update(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REFRESH_S
            self._draw()

    def alert(self, words: str) -> None:
        """It scrolls past above the table."""
        self._live.console.print(f"{time.strftime('%H:%M:%S')}  {words}", style="yellow", markup=False)

    def _draw(self) -> None:
        height = self._console.height - 3 - _MAX_NOTES
        self._live.update(render(self._rows, height=height, width=self._console.width), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        self._live.stop()


def render(rows: Sequence[Row], *, height: int, width: int) -> Group:
    """The table of the `height` most interesting jobs, what went wrong, and one line that counts all jobs.

    Below 100 columns speed and completion time are left out: names must stay readable.
    """
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("job", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    for column in ("step", "loss", "left", *(("done at", "tokens/s") if wide else ())):
        table.add_column(column, justify="right", no_wrap=True)
    chosen = sorted(rows, key=lambda row: _ORDER.index(row.state))[: max(5, height)]
    for row in chosen:
        cells = _cells(row)
        table.add_row(row.name, *(cells if wide else cells[:4]))
    wrong = [row for row in chosen if (row.state == "failed" and row.note) or WILL_NOT_START in row.note]
    notes = [Text(f"{row.id} {row.note}", style="red") for row in wrong]
    return Group(table, *notes[:_MAX_NOTES], Text(summary(rows), style="dim"))


def summary(rows: Iterable[Row]) -> str:
    """`2 running · 5 waiting · 3 done`."""
    counts = Counter(row.state for row in rows)
    return " · ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])


def _cells(row: Row) -> list[str | Text]:
    state = row.phase if row.phase and row.state == "running" else row.state
    step = "–" if row.step is None else f"{row.step}/{row.total_steps or '?'}"
    loss = "–" if row.loss is None else f"{row.loss:.4f}"
    speed = "–" if row.tokens_per_s is None else f"{row.tokens_per_s:,.0f}"
    ends = "–" if row.eta_s is None else time.strftime("%H:%M", time.localtime(time.time() + row.eta_s))
    return [Text(state, style=_COLOURS.get(row.state, "")), step, loss, duration_text(row.eta_s), ends, speed]
