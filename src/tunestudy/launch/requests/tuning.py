"""Which way of cutting a step to try next, and which of those tried is best: pure, no process is started here.

Micro-batches are divisors of a rank's share of the effective batch, so that what is learnt stays. Memory grows with
them, and speed rises until the card is busy and then stays: both make a search of halves enough.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MARGIN, AMPLE = 0.05, 0.10
"""Shares of the card's memory: less free than the first is too tight to rely on, the second is comfortable."""
ALIKE = 0.03
"""Differences of speed up to this share are nothing, however little the steps of one try scatter."""
WAITS = 0.03
"""Share of a step in which data are waited for, from which more workers may help."""
FORECAST_SLACK = 1.2
"""A forecast from smaller micro-batches must be this far above the card before it takes the place of a try."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3, "float16": 1e-3}
"""Relative difference of losses and gradients that rounding explains: sums of the same numbers in another order."""


@dataclass(frozen=True, kw_only=True, order=True)
class Candidate:
    """One way of cutting a step. None of its numbers changes what is learnt beyond rounding."""

    micro_batch: int
    activation_checkpointing: bool
    workers: int


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a candidate; figures are None where it did not come that far."""

    candidate: Candidate
    fits: bool | None
    """None: it failed for another reason than memory."""
    why: str = ""
    peak_bytes: int = 0
    limit_bytes: int = 0
    step_s: float | None = None
    tokens_per_s: float | None = None
    rates: Sequence[float] = ()
    """Tokens per second of every timed step."""
    samples_per_s: float | None = None
    wait_share: float | None = None
    learnt: Sequence[float | None] = ()
    """Losses and norms of gradients of the first steps; with dropout only the loss of the first rows without it."""
    draws: bool = False
    precision: str = "float32"
    images: bool = False
    wall_s: float = 0.0

    @property
    def free(self) -> float:
        """Share of the card's memory that nothing took."""
        return 1 - self.peak_bytes / self.limit_bytes if self.limit_bytes else 0.0

    @property
    def usable(self) -> bool:
        """Whether it fits with some room to spare."""
        return bool(self.fits) and self.free >= MARGIN

    @property
    def speed(self) -> float:
        return self.tokens_per_s or 0.0

    @property
    def verdict(self) -> str:
        """In words, for the table."""
        if self.fits is None:
            return f"failed: {self.why}"
        if not self.fits:
            return "does not fit"
        room = f"{max(0.0, self.free):.0%} free".replace("%", " %")
        return f"too tight, {room}" if self.free < MARGIN else f"fits, {room}" if self.free < AMPLE else "fits"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may be tried for one stage."""

    share: int
    """Rows of one rank in one optimiser step."""
    now: Candidate
    """What the study says."""
    cores: int
    """That one rank may use."""
    counted: Mapping[tuple[int, bool], float] = field(default_factory=dict)
    """Bytes by micro-batch and checkpointing, at least, as the stage's architecture tells; empty: nobody counted."""

    @property
    def ladder(self) -> list[int]:
        """Micro-batches, from small to large."""
        return divisors(self.share)

    @property
    def worker_counts(self) -> list[int]:
        """0, 1, 2, 4, … and all cores."""
        powers = [2**power for power in range(self.cores.bit_length())]
        return sorted({0, *(count for count in powers if count <= self.cores), self.cores})


Known = Mapping[Candidate, Tried]


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def next_candidate(space: Space, known: Known) -> Candidate | None:
    """What to try next, from what is known so far alone: a search that was cut short goes on where it was."""
    if space.now not in known:
        return space.now
    plain = _next_micro_batch(space, known, checkpointing=False, above=-1)
    if plain is not None:
        return plain
    if memory_limits(space, known):
        largest = _largest_usable(space, known, checkpointing=False)
        found = _next_micro_batch(space, known, checkpointing=True, above=largest)
        if found is not None:
            return found
    return _next_workers(space, known)


def memory_limits(space: Space, known: Known) -> bool:
    """Whether larger micro-batches without activation checkpointing fail for memory and for nothing else."""
    _, high = _bounds(space, known, checkpointing=False)
    return high < len(space.ladder) and not _is_flat(space, known, checkpointing=False)


def _next_micro_batch(space: Space, known: Known, *, checkpointing: bool, above: int) -> Candidate | None:
    """Halve what is left between the largest that fits and the smallest that does not; then look beside the best."""
    low, high = _bounds(space, known, checkpointing=checkpointing)
    low = max(low, above)
    if high - low > 1 and not _is_flat(space, known, checkpointing=checkpointing):
        return _at(space, (low + high + 1) // 2 if high == len(space.ladder) else (low + high) // 2, checkpointing)
    rungs = _rungs(space, known, checkpointing)
    usable = {place: tried for place, tried in rungs.items() if tried.usable}
    if not usable:
        return None
    best = max(usable, key=lambda place: usable[place].speed)
    beside = [place for place in (best - 1, best + 1) if above < place <= max(usable) and place not in rungs]
    return _at(space, beside[0], checkpointing) if beside else None


def _bounds(space: Space, known: Known, *, checkpointing: bool) -> tuple[int, int]:
    """Places on it: of the largest that is usable (−1: none), of the smallest that is not (none: its length)."""
    rungs = _rungs(space, known, checkpointing)
    low = max((place for place, tried in rungs.items() if tried.usable), default=-1)
    bad = [place for place, tried in rungs.items() if not tried.usable]
    bad += [place for place in range(low + 1, len(space.ladder)) if _foreseen(space, known, place, checkpointing)]
    return low, min(bad, default=len(space.ladder))


def _rungs(space: Space, known: Known, checkpointing: bool) -> dict[int, Tried]:
    """What is known by place on the ladder, with the study's number of workers."""
    found = {}
    for place in range(len(space.ladder)):
        tried = known.get(_at(space, place, checkpointing))
        if tried is not None:
            found[place] = tried
    return found


def _at(space: Space, place: int, checkpointing: bool) -> Candidate:
    return Candidate(micro_batch=space.ladder[place], activation_checkpointing=checkpointing, workers=space.now.workers)


def _is_flat(space: Space, known: Known, *, checkpointing: bool) -> bool:
    """Whether the largest that was tried is no faster than the next smaller one."""
    rungs = _rungs(space, known, checkpointing)
    usable = [tried for _, tried in sorted(rungs.items()) if tried.usable]
    return len(usable) > 1 and not is_faster(usable[-1], usable[-2])


def _foreseen(space: Space, known: Known, place: int, checkpointing: bool) -> int | None:
    """Bytes that a larger micro-batch would take, if far too many: by the line through the two largest that fit, else
    as counted."""
    limit = max((tried.limit_bytes for tried in known.values()), default=0)
    measured = [tried for _, tried in sorted(_rungs(space, known, checkpointing).items()) if tried.fits]
    counted = space.counted if place else {}  # one row is always tried: what counting does not know may save it
    expected = counted.get((space.ladder[place], checkpointing), 0.0)
    if len(measured) > 1:
        a, b = measured[-2:]
        slope = (b.peak_bytes - a.peak_bytes) / (b.candidate.micro_batch - a.candidate.micro_batch)
        expected = b.peak_bytes + slope * (space.ladder[place] - b.candidate.micro_batch)
    return round(expected) if limit and expected > FORECAST_SLACK * limit else None


def _largest_usable(space: Space, known: Known, *, checkpointing: bool) -> int:
    return _bounds(space, known, checkpointing=checkpointing)[0]


def _next_workers(space: Space, known: Known) -> Candidate | None:
    """More workers while data are waited for and the last ones added have helped; not more than there are cores."""
    base = best_of(known, space)
    if base is None or not base.images:
        return None
    same = sorted(
        (tried for tried in known.values() if _same_memory(tried.candidate, base.candidate)),
        key=lambda tried: tried.candidate.workers,
    )
    most = same[-1]
    if most.candidate.workers > space.cores:  # more threads than cores: are fewer as good?
        fewer = replace(most.candidate, workers=space.cores)
        return None if fewer in known else fewer
    if (most.wait_share or 0.0) < WAITS or (len(same) > 1 and not is_faster(most, same[-2])):
        return None
    more = [count for count in space.worker_counts if count > most.candidate.workers]
    return replace(most.candidate, workers=more[0]) if more else None


def _same_memory(a: Candidate, b: Candidate) -> bool:
    return (a.micro_batch, a.activation_checkpointing) == (b.micro_batch, b.activation_checkpointing)


def scatter(tried: Tried) -> float:
    """Standard error of the speed, from step to step."""
    count = len(tried.rates)
    return statistics.stdev(tried.rates) / math.sqrt(count) if count > 1 else 0.0


def is_faster(a: Tried, b: Tried) -> bool:
    """Whether the difference is more than chance: two standard errors, and at least ALIKE."""
    chance = max(ALIKE * max(a.speed, b.speed), 2 * math.hypot(scatter(a), scatter(b)))
    return a.speed - b.speed > chance


def best_of(known: Known, space: Space) -> Tried | None:
    """The fastest with room to spare; among those alike the study's own, else the one that takes least memory."""
    usable = [tried for tried in known.values() if tried.usable]
    if not usable:
        return None
    fastest = max(usable, key=lambda tried: tried.speed)
    alike = [tried for tried in usable if not is_faster(fastest, tried)]
    own = next((tried for tried in alike if tried.candidate == space.now), None)
    return own or min(alike, key=lambda tried: (tried.peak_bytes, tried.candidate))


def not_needed(space: Space, known: Known) -> Iterator[tuple[str, str]]:
    """What was left out on purpose: in words, and why."""
    for checkpointing in (False, True):
        rungs = _rungs(space, known, checkpointing)
        bad = min((place for place, tried in rungs.items() if not tried.usable), default=len(space.ladder))
        _, high = _bounds(space, known, checkpointing=checkpointing)
        word = "with activation checkpointing" if checkpointing else "without activation checkpointing"
        if high < bad and (expected := _foreseen(space, known, high, checkpointing)):
            left = ", ".join(str(size) for size in space.ladder[high:bad])
            yield f"micro-batch {left} {word}", f"{space.ladder[high]} would take about {expected / 1e9:.1f} GB"
        elif rungs and max(rungs) + 1 < bad and _is_flat(space, known, checkpointing=checkpointing):
            left = ", ".join(str(size) for size in space.ladder[max(rungs) + 1 : bad])
            yield f"micro-batch {left} {word}", f"{space.ladder[max(rungs)]} is no faster than smaller ones"
    if not memory_limits(space, known) and not _rungs(space, known, True):
        yield "activation checkpointing", "it saves memory at the cost of speed, and memory is not the limit"
    best = best_of(known, space)
    if best is not None and not best.images:
        yield "workers", "they decode images, and this stage has none"
    elif best is not None and (best.wait_share or 0.0) < WAITS:
        yield "more workers", f"data are waited for in {best.wait_share or 0:.1%} of the time".replace("%", " %")


def differing(known: Known, space: Space) -> list[tuple[Tried, float]]:
    """Candidates whose first steps are not those of the study's own (else of the first), and by which share."""
    measured = [tried for tried in known.values() if tried.learnt and None not in tried.learnt]
    own = next((tried for tried in measured if tried.candidate == space.now), measured[0] if measured else None)
    found = []
    for tried in measured:
        assert own is not None
        apart = max(_apart(a, b) for a, b in zip(tried.learnt, own.learnt, strict=True))
        if apart > TOLERANCE.get(tried.precision, 1e-4):
            found.append((tried, apart))
    return found


def _apart(a: float | None, b: float | None) -> float:
    assert a is not None and b is not None
    return abs(a - b) / max(abs(a), abs(b), 1e-12)


def few_divisors(share: int, ranks: int) -> str | None:
    """What an effective batch nearby would allow, where this one hardly divides; None where it does."""
    if share < 4 or len(divisors(share)) > 2:
        return None
    below = next(size for size in range(share - 1, 0, -1) if len(divisors(size)) > 2 or size < 4)
    above = next(size for size in range(share + 1, 2 * share + 2) if len(divisors(size)) > 2)
    words = [f"{size * ranks} allows {', '.join(map(str, divisors(size)))}" for size in (below, above)]
    return (
        f"a rank's share of {share} rows divides only by 1 and itself; an effective_batch_size of {words[0]}; of "
        f"{words[1]} (another effective batch is another result)"
    )


def tried_from(found: Mapping[str, Any]) -> Tried:
    """From try.json and what was asked for, as `as_json` keeps it."""
    names = {name for name in Tried.__dataclass_fields__ if name != "candidate"}
    candidate = Candidate(**{name: found[name] for name in Candidate.__dataclass_fields__})
    return Tried(candidate=candidate, **{name: found[name] for name in names & found.keys()})
