"""Memory of one rank of a stage: what was counted on its architecture, put right by what was measured.

Nothing is guessed: a stage that was neither counted nor measured has no memory here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tunestudy.study.estimates.spans import Span

MEBIBYTE, GIGABYTE = 2**20, 1e9
FRAGMENTATION = {"cuda": (1.0, 1.05, 1.12), "cpu": (0.9, 1.0, 1.9)}
"""What an allocator holds beyond what lives, of all that comes and goes with a step: from, expected, to."""
WASTE = (0.8, 2.0)
"""Of what comes and goes, what an allocator was seen to hold for it, at least and at most. glibc's aligned blocks do
not fit into the holes that such blocks leave, so a CPU's upper end is far off. What is beyond it is no waste."""
CONSTANTS = (0.7, 1.0, 1.3)
"""Spread of what nobody measured."""
MEASURED = 0.03
"""Spread of a peak that was measured: the next run's is this close."""
TERMS = ("frozen", "trainable", "gradients", "optimizer", "activations", "logits", "gather", "constants")


@dataclass(frozen=True)
class Shift:
    """How measured stages differ from what was counted of them."""

    waste: float
    """What the allocator holds for each byte that comes and goes."""
    bytes: float
    """What they take beside that."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one rank's GPU, or of its process."""

    device: str
    terms: Mapping[str, float]
    """By the names in TERMS, as counted; the remainder that a measurement adds is `measured`."""
    peak: Span
    """Without a GPU's context: what torch reserves, or the whole process."""
    context: float
    """Bytes of a GPU that a process takes beside that."""
    evidence: str
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def whole(self) -> Span:
        """What a card must have."""
        return self.peak + Span.exactly(self.context)

    def fits(self, card_bytes: float) -> bool | None:
        """None: only if all goes well."""
        return True if self.whole.high <= card_bytes else False if self.whole.expected > card_bytes else None

    def as_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "terms_bytes": {name: round(value) for name, value in self.terms.items()},
            "peak_bytes": self.peak.as_json(),
            "context_bytes": round(self.context),
            "evidence": self.evidence,
            "notes": list(self.notes),
        }


def at_tokens(counted: Mapping[str, Any], name: str, tokens: float) -> float:
    """Bytes of a term that grows with the tokens of a micro-batch, from the two sizes that were counted."""
    (many, few), (large, small) = counted["tokens"], counted[name]
    slope = (large - small) / (many - few) if many != few else 0.0
    return max(0.0, float(large + slope * (tokens - many)))


def memory_of(
    counted: Mapping[str, Any],
    *,
    probe: Mapping[str, Any] | None = None,
    peaks_mb: Sequence[float] = (),
    shift: Shift | None = None,
) -> Memory:
    """counted: foresee.json. probe: probe.json of the same stage. peaks_mb: of finished jobs of the same stage.
    shift: how other stages of the study were measured to differ from what was counted."""
    tokens = float((probe or {}).get("largest") or counted["tokens"][0])
    terms = counted_terms(counted, tokens)
    moving = terms["activations"] + terms["logits"]
    fixed = sum(terms.values()) - moving - terms["constants"]
    constants = terms["constants"] + (0.0 if shift is None else shift.bytes)
    spread = (1.0, 1.0, 1.0) if shift is not None else CONSTANTS if counted["device"] == "cuda" else (1.0, 1.0, 1.5)
    low, usual, high = FRAGMENTATION[counted["device"]]
    waste = (low, usual, high) if shift is None else (min(low, shift.waste), shift.waste, max(high, shift.waste))
    ends = [fixed + moving * factor + constants * width for factor, width in zip(waste, spread, strict=True)]
    peak = Span(ends[0] - counted["pages"], ends[1], ends[2])
    evidence = "counted" if shift is None else "counted, and put right by other stages"
    measured = measured_peak(counted, probe, peaks_mb, tokens)
    if measured is not None:
        peak = measured
        evidence = "finished jobs" if peaks_mb else "timed steps"
        terms = {**terms, "measured": peak.expected - sum(terms.values())}
    context = sum(counted["constants_mb"].get(name, 0.0) for name in ("context", "nccl")) * MEBIBYTE
    return Memory(
        device=counted["device"],
        terms=terms,
        peak=peak,
        context=context,
        evidence=evidence,
        notes=counted["notes"],
    )


def counted_terms(counted: Mapping[str, Any], tokens: float) -> dict[str, float]:
    """Bytes by term with micro-batches of so many tokens; `constants` is the process, none on a GPU."""
    terms = {name: float(counted[name]) for name in ("frozen", "trainable", "gradients", "optimizer", "gather")}
    terms |= {name: at_tokens(counted, name, tokens) for name in ("activations", "logits")}
    terms["constants"] = counted["constants_mb"].get("process", 0.0) * MEBIBYTE + counted["copies"]
    return {name: terms[name] for name in TERMS}


def measured_peak(
    counted: Mapping[str, Any], probe: Mapping[str, Any] | None, peaks_mb: Sequence[float], tokens: float
) -> Span | None:
    """From finished jobs, else from timed steps and what the largest micro-batch takes more than those saw."""
    if peaks_mb:
        seen = Span.of_values([peak * MEBIBYTE for peak in peaks_mb])
        return Span(seen.low * (1 - MEASURED), seen.expected, seen.high * (1 + MEASURED))
    if not probe or not probe.get("peak_memory_mb"):
        return None
    grown = sum(
        at_tokens(counted, name, tokens) - at_tokens(counted, name, probe["largest_seen"])
        for name in ("activations", "logits")
    )
    seen_peak = probe["peak_memory_mb"] * MEBIBYTE
    expected = seen_peak + max(0.0, grown)
    return Span(seen_peak * (1 - MEASURED), expected, expected * (1 + 2 * MEASURED))


def shift_of(stages: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None, Sequence[float]]]) -> Shift | None:
    """How measured stages differ from what was counted, medians; None without any.

    Each stage: what was counted, its probe, peaks of its finished jobs. What is more is waste of what comes and goes as
    far as an allocator wastes (`WASTE`), the rest is there whatever the stage's size.
    """
    found = []
    for counted, probe, peaks_mb in stages:
        tokens = float((probe or {}).get("largest") or counted["tokens"][0])
        peak = measured_peak(counted, probe, peaks_mb, tokens)
        if peak is not None:
            terms = counted_terms(counted, tokens)
            moving = terms["activations"] + terms["logits"]
            found.append((peak.expected - sum(terms.values()) + moving, moving))
    if not found:
        return None
    least, most = WASTE
    waste = median(min(most, max(least, held / moving)) if moving else 1.0 for held, moving in found)
    return Shift(waste, median(held - waste * moving for held, moving in found))
