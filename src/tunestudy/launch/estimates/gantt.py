"""A packing as text: one row per slot, time from left to right."""

from collections.abc import Container, Iterable, Mapping, Sequence
from string import ascii_lowercase

from tunestudy.config.job import Job
from tunestudy.study.packing.dispatch import Placement
from tunestudy.study.packing.pack import Packing

MAX_WIDTH = 100
MAX_SLOTS = 24
_NAME_WIDTH = 16
_IDLE, _MORE = "·", "+"


def gantt_lines(packing: Packing, jobs: Iterable[Job], *, length: str) -> list[str]:
    """At most `MAX_WIDTH` columns. A letter stands for a stage of the same variants, all seeds alike; a capital begins
    a job. `length`: the packing's, in words. Jobs that share a column show as the longest of them.
    """
    if packing.makespan <= 0:
        return []
    by_job, words = _letters(jobs, packing.placements)
    shown = packing.slots[:MAX_SLOTS]
    names = [name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…" for name in shown]
    wide = max(map(len, names))
    columns = MAX_WIDTH - wide - 5
    of_slot: dict[str, list[tuple[Placement, str]]] = {name: [] for name in packing.slots}
    for job, placement in packing.placements.items():
        if placement.slot in of_slot:
            of_slot[placement.slot].append((placement, by_job[job]))
    lines = [
        f"  {name.ljust(wide)} |{_row(of_slot[slot], columns, packing.makespan)}|"
        for name, slot in zip(names, shown, strict=True)
    ]
    if len(packing.slots) > len(shown):
        lines.append(f"  … and {len(packing.slots) - len(shown)} more slots; --json lists every job")
    lines.append(f"  {' ' * wide} 0{length.rjust(columns)}")
    return [*lines, *_legend(words)]


def _letters(jobs: Iterable[Job], wanted: Container[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Letter by job id, and what each means."""
    groups: dict[tuple[str, tuple[str, ...]], str] = {}
    by_job: dict[str, str] = {}
    words: dict[str, str] = {}
    for job in jobs:
        if job.id in wanted:
            free = ascii_lowercase[len(groups)] if len(groups) < len(ascii_lowercase) else _MORE
            letter = groups.setdefault((job.stage, job.variants), free)
            by_job[job.id] = letter
            words.setdefault(letter, _words(job))
    return by_job, words


def _words(job: Job) -> str:
    first, *more = job.variants or ("?",)
    return f"{job.stage} ({first}{f' +{len(more)}' if more else ''})"


def _row(placements: Sequence[tuple[Placement, str]], columns: int, whole: float) -> str:
    cells = [_IDLE] * columns
    scale = columns / whole
    for placement, letter in sorted(placements, key=lambda entry: entry[0].end - entry[0].start):
        begin = min(int(placement.start * scale + 0.5), columns - 1)
        end = max(begin + 1, int(placement.end * scale + 0.5))
        cells[begin:end] = [letter] * (end - begin)
    for placement, letter in placements:
        begin = min(int(placement.start * scale + 0.5), columns - 1)
        if cells[begin] == letter:
            cells[begin] = letter.upper()
    return "".join(cells)


def _legend(words: Mapping[str, str]) -> list[str]:
    """Several to a line."""
    told = [f"{letter} {'more' if letter == _MORE else what}" for letter, what in words.items()]
    lines: list[str] = []
    for entry in told:
        if lines and len(lines[-1]) + len(entry) + 3 <= MAX_WIDTH:
            lines[-1] += f" · {entry}"
        else:
            lines.append(f"  {entry}"[:MAX_WIDTH])
    return lines
