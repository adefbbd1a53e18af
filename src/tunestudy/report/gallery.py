"""Samples to look at: the same rows of a benchmark for every variant, what each said, and what changed from the
baseline. Images are the worker's thumbnails, taken as they are."""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from tunestudy.records.listing import entries
from tunestudy.records.picks import SHARED_ROWS, WRONG_ROWS, place_of, thumbnail_name
from tunestudy.records.redact import redactor
from tunestudy.report.answers import Answers
from tunestudy.report.compare import Headline
from tunestudy.report.facts import Score, StudyFacts
from tunestudy.report.values import mapping, texts

MOST_CARDS, MOST_CARDS_IN_ALL = 60, 900
"""Of one benchmark, and of the page."""
CHANGED = 6
"""Rows gained and rows lost that are shown of each variant, where there are as many."""
IMAGE_BYTES = 24 * 2**20
"""Of all images in the page."""
_LARGEST_IMAGE = 256 * 2**10
_LONGEST = 1_200
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one variant said to one row, at one seed."""

    variant: str
    seed: int
    prediction: str
    understood: str | None
    score: float
    problem: str
    unparsed: bool
    """The metric looked for an answer in the text and found none."""
    change: str
    """`gained` or `lost` against the baseline at this seed; empty without a change."""

    @property
    def verdict(self) -> str:
        return "right" if self.score >= 1 else "wrong" if self.score <= 0 else "partly"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One row of a benchmark."""

    row_id: str
    anchor: str
    """Its place in the page, for links."""
    question: str
    reference: str
    group: str
    categories: list[tuple[str, str]]
    images: list[str]
    """Data URLs."""
    missing: int
    """Images of the row without a thumbnail here."""
    said: list[Said]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How a variant's rows differ from the baseline's at one seed."""

    variant: str
    seed: int
    gained: int
    lost: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """One benchmark."""

    benchmark: str
    cards: list[Card]
    changes: list[Changes]
    categories: list[tuple[str, str]] = field(default_factory=list)

    def changed(self, variant: str) -> list[tuple[Card, str]]:
        """The first cards on which a variant gained, then those on which it lost."""
        every = [(card, said.change) for card in self.cards for said in card.said if said.variant == variant]
        return [found for kind in ("gained", "lost") for found in [e for e in every if e[1] == kind][:CHANGED]]


@dataclass(frozen=True, eq=False)
class _Source:
    """One variant's predictions at the seed that is shown."""

    variant: str
    seed: int
    score: Score
    answers: Answers


def galleries(facts: StudyFacts, headline: Headline) -> list[Gallery]:
    """One per benchmark with predictions. Every text is redacted."""
    sources = {name: _sources(facts, headline, name) for name in facts.benchmarks}
    held = [name for name, of in sources.items() if of]
    most = min(MOST_CARDS, MOST_CARDS_IN_ALL // max(1, len(held)))
    budget = IMAGE_BYTES // max(1, len(held))
    clean = redactor()
    return [_gallery(facts, number, sources[name], most, budget, clean) for number, name in enumerate(held)]


def _sources(facts: StudyFacts, headline: Headline, benchmark: str) -> list[_Source]:
    """Each variant at its first seed with predictions; those on other questions than the first are left out."""
    found: list[_Source] = []
    for variant in sorted(facts.variants, key=lambda name: name != facts.baseline):
        for seed in facts.seeds:
            job = facts.last_job(variant, seed)
            score = job.scores.get(benchmark) if job else None
            answers = headline.shelf.answers(score) if score else None
            if score and answers and (not found or answers.questions is found[0].answers.questions):
                found.append(_Source(variant, seed, score, answers))
                break
    return found


def _gallery(
    facts: StudyFacts, number: int, sources: list[_Source], most: int, budget: int, clean: Callable[[Any], Any]
) -> Gallery:
    benchmark = sources[0].score.benchmark
    base = sources[0] if sources[0].variant == facts.baseline else None
    scores = [of.answers.rows.tolist() for of in sources]
    rows = chosen_rows(sources[0].answers.questions.ids, scores, with_baseline=base is not None)[:most]
    read = [_lines(source, rows) for source in sources]
    album = Album(_folders(facts, benchmark), budget)
    cards = [
        _card(f"s{number}-{k}", rows[k], list(zip(sources, told, strict=True)), base, album, clean)
        for k, told in enumerate(zip(*read, strict=True))
    ]
    return Gallery(
        benchmark=benchmark,
        cards=cards,
        changes=[_changes(of, base) for of in sources if base is not None and of is not base],
        categories=list(dict.fromkeys(pair for card in cards for pair in card.categories)),
    )


def chosen_rows(ids: Sequence[str], scores: Sequence[Sequence[float]], *, with_baseline: bool) -> list[int]:
    """Rows to show, most wanted first: those that are the same whatever was said, then changed ones, then wrong ones.

    scores: of each variant, (R,); the first is the baseline's if `with_baseline`. Only a row's id decides its turn.
    """
    order = sorted(range(len(ids)), key=lambda row: place_of(ids[row]))
    chosen, order = dict.fromkeys(order[:SHARED_ROWS]), order[SHARED_ROWS:]
    turns: list[list[int]] = []
    for of in scores[1:] if with_baseline else ():
        turns.append([row for row in order if of[row] > scores[0][row]][:CHANGED])
        turns.append([row for row in order if of[row] < scores[0][row]][:CHANGED])
    turns += [[row for row in order if of[row] < 1][:WRONG_ROWS] for of in scores]
    for turn in range(max(CHANGED, WRONG_ROWS)):
        chosen |= dict.fromkeys(rows[turn] for rows in turns if turn < len(rows))
    return list(chosen)


def _lines(source: _Source, rows: Iterable[int]) -> list[dict[str, Any]]:
    """The lines of these rows; empty ones where the file changed under us."""
    try:
        every = [line for line in source.score.predictions.read_bytes().split(b"\n") if line.strip()]
        return [mapping(from_json(every[source.answers.lines[row]])) for row in rows]
    except (OSError, ValueError, IndexError):
        return [{} for _ in rows]


def _folders(facts: StudyFacts, benchmark: str) -> list[Path]:
    """Of thumbnails: the same image has the same name in all of them."""
    scores = [job.scores[benchmark] for job in facts.jobs if benchmark in job.scores]
    return [score.predictions.with_name(f"{benchmark}.images") for score in scores]


class Album:
    """Thumbnails as data URLs, until there are too many for one page."""

    def __init__(self, folders: Sequence[Path], budget: int) -> None:
        self._held = [(folder, _names(folder)) for folder in folders]
        self._left = budget
        self._urls: dict[str, str | None] = {}

    def url(self, sha256: str) -> str | None:
        """None where no job kept one, where it is no JPEG, and where the page is full."""
        if sha256 not in self._urls:
            self._urls[sha256] = self._read(sha256)
        return self._urls[sha256]

    def _read(self, sha256: str) -> str | None:
        if re.fullmatch(r"[0-9a-f]{64}", sha256) is None:  # it becomes part of a path
            return None
        name = thumbnail_name(sha256)
        path = next((folder / name for folder, names in self._held if name in names), None)
        try:
            data = path.read_bytes() if path is not None else b""
        except OSError:
            return None
        if not data.startswith(_JPEG) or len(data) > min(_LARGEST_IMAGE, self._left):
            return None
        self._left -= len(data)
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in entries(folder))


def _card(
    anchor: str, row: int, told: Sequence[tuple[_Source, dict[str, Any]]], base: _Source | None, album: Album,
    clean: Callable[[Any], Any],
) -> Card:  # fmt: skip
    first = told[0][1]
    images = texts(first.get("images"))
    urls = [url for image in images if (url := album.url(image)) is not None]
    return Card(
        anchor=anchor,
        row_id=clean(told[0][0].answers.questions.ids[row]),
        question=_short(first.get("asked"), clean),
        reference=_short(first.get("reference"), clean),
        group=_short(first.get("group"), clean),
        categories=[(clean(str(k)), clean(str(v))) for k, v in mapping(first.get("categories")).items() if v],
        images=urls,
        missing=len(images) - len(urls),
        said=[_said(row, source, line, base, clean) for source, line in told],
    )


def _said(row: int, source: _Source, line: dict[str, Any], base: _Source | None, clean: Callable[[Any], Any]) -> Said:
    score = float(source.answers.rows[row])
    before = score if base is None else float(base.answers.rows[row])
    understood = line.get("understood")
    return Said(
        variant=source.variant,
        seed=source.seed,
        prediction=_short(line.get("prediction"), clean),
        understood=None if understood is None else _short(understood, clean),
        score=score,
        problem=_short(line.get("problem"), clean),
        unparsed=understood is None and score <= 0 and bool(source.score.counts.get("unparsed")),
        change="gained" if score > before else "lost" if score < before else "",
    )


def _changes(source: _Source, base: _Source) -> Changes:
    ours, theirs = source.answers.rows, base.answers.rows
    return Changes(
        variant=source.variant,
        seed=source.seed,
        gained=int((ours > theirs).sum()),
        lost=int((ours < theirs).sum()),
        rows=len(ours),
    )


def _short(value: object, clean: Callable[[Any], Any]) -> str:
    text = str(clean("" if value is None else str(value)))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
