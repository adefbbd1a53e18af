"""What a stage will cost in steps, tokens and checkpoints, as far as that is known before it runs.

Nothing is invented: a number that cannot be derived is None. What a job on the same data has counted (its data.json) is
exact and wins over what is counted here.
"""

import csv
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.data import (
    DatacompDataset,
    Dataset,
    DigitsDataset,
    FileDataset,
    MixturePart,
    SynthDataset,
    samples_per_epoch,
)
from tunestudy.config.model import CharacterTokenizer
from tunestudy.config.order import Curriculum
from tunestudy.config.paths import located
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study

DIGITS = 1797
"""Records of scikit-learn's digits."""

COUNTED_UP_TO_BYTES = 2_000_000_000
"""Larger files are not read for a plan: their number of records stays unknown."""


@dataclass(frozen=True)
class Amount:
    """A number, and whether it is exact."""

    value: int
    exact: bool = False

    def __str__(self) -> str:
        return f"{'' if self.exact else '≈'}{self.value:,}"


@dataclass(frozen=True)
class Estimate:
    """Of one job. None: unknown before the data are read."""

    steps: Amount | None
    tokens: Amount | None
    checkpoints: int | None
    """Written in all; retention keeps fewer."""


Measured = Mapping[str, Mapping[str, Any]]
"""`sources` of a data.json: name → {"samples", "tokens", …}."""


@dataclass(frozen=True)
class _Source:
    samples: Amount
    tokens_per_sample: float | None


@dataclass(frozen=True)
class _Epoch:
    """Rows (samples, or packs) of one epoch and their mean length; None: unknown."""

    rows: Amount | None = None
    tokens_per_sample: float | None = None


NO_STEPS = Estimate(Amount(0, exact=True), Amount(0, exact=True), 0)
UNKNOWN = Estimate(None, None, None)


class Estimator:
    """Estimates stages of one study; each data set is counted once."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study = study
        self._folder = folder
        self._records: dict[str, Amount | None] = {}

    def of(self, stage: TrainStage, measured: Measured) -> Estimate:
        """Steps, tokens and checkpoints of one job; `measured`: `sources` of data.json of a job on the same data."""
        if stage.trains_nothing:
            return NO_STEPS
        sources = [self._source(part, measured) for part in stage.data]
        epoch = _epoch(stage, [source for source in sources if source is not None]) if None not in sources else _Epoch()
        steps = _steps(stage, epoch)
        tokens = None
        if steps is not None and stage.packing:
            tokens = Amount(steps.value * (stage.effective_batch_size or 1) * stage.max_length)
        elif steps is not None and epoch.tokens_per_sample is not None:
            tokens = Amount(round(steps.value * (stage.effective_batch_size or 1) * epoch.tokens_per_sample))
        return Estimate(steps, tokens, _checkpoints(stage, steps, epoch))

    def _source(self, part: MixturePart, measured: Measured) -> _Source | None:
        """What a part of a mixture can draw from; None when nothing is known."""
        facts = measured.get(part.dataset, {})
        samples, tokens = facts.get("samples"), facts.get("tokens")
        if isinstance(samples, int) and isinstance(tokens, int) and samples:
            return _Source(Amount(samples, exact=True), tokens / samples)
        name, _, share = part.dataset.partition("@")
        dataset = self._study.datasets[name]
        if name not in self._records:
            self._records[name] = _count(dataset, self._folder)
        records = self._records[name] or (Amount(dataset.limit) if dataset.limit else None)
        if records is None:
            return None
        count = min(records.value, dataset.limit or records.value)
        kept = dataset.held_out if share else 1 - dataset.held_out
        return _Source(Amount(round(count * kept), records.exact and not dataset.held_out), self._length(dataset))

    def _length(self, dataset: Dataset) -> float | None:
        if not isinstance(dataset, DigitsDataset) or dataset.render == "image":
            return None
        return _digit_tokens(dataset) if isinstance(self._study.model.tokenizer, CharacterTokenizer) else None


def _digit_tokens(dataset: DigitsDataset) -> int:
    """Of a scan as text: pixels, line ends, `=`, the answer, the stop token."""
    width = 6 if dataset.trim else 8
    lines = 8 if dataset.rotate in (0, 180) else width
    return 8 * width + lines + 3


def _epoch(stage: TrainStage, sources: Sequence[_Source]) -> _Epoch:
    if not all(source.samples.value for source in sources):
        return _Epoch()
    share = stage.order.take[1] - stage.order.take[0] if isinstance(stage.order, Curriculum) else 1.0
    drawn = samples_per_epoch([max(1, round(source.samples.value * share)) for source in sources], stage.data)
    lengths = [source.tokens_per_sample for source in sources]
    known = [length for length in lengths if length is not None]
    mean = None
    if len(known) == len(lengths):
        mean = sum(count * length for count, length in zip(drawn, known, strict=True)) / max(1, sum(drawn))
    samples = Amount(sum(drawn), share == 1.0 and all(source.samples.exact for source in sources))
    if not stage.packing:
        return _Epoch(samples, mean)
    packs = None if mean is None else Amount(math.ceil(samples.value * mean / stage.max_length))
    return _Epoch(packs, float(stage.max_length))


def _steps(stage: TrainStage, epoch: _Epoch) -> Amount | None:
    """As `data.order.Schedule.total_steps` counts them: the last step of an epoch may be short."""
    if stage.max_steps is not None:
        return Amount(stage.max_steps, exact=True)
    if epoch.rows is None:
        return None
    in_epoch = -(-epoch.rows.value // (stage.effective_batch_size or 1))
    whole, part = int(stage.num_train_epochs), stage.num_train_epochs % 1
    return Amount(whole * in_epoch + math.ceil(part * in_epoch - 1e-9), epoch.rows.exact)


def _count(dataset: Dataset, folder: Path) -> Amount | None:
    """Records of a data set; not exact, because bad and overlong ones are rejected later."""
    if isinstance(dataset, DigitsDataset):
        return Amount(DIGITS, exact=True)
    if isinstance(dataset, SynthDataset):
        return Amount(dataset.count)
    if isinstance(dataset, DatacompDataset):
        bounds = [dataset.num_samples, dataset.drawn.count if dataset.drawn is not None else None]
        known = [bound for bound in bounds if bound is not None]
        return Amount(min(known)) if known else None
    if not isinstance(dataset, FileDataset):
        return None
    path = located(folder, dataset.path)
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    counts = [_records_in(file) for file in files]
    return None if None in counts else Amount(sum(count for count in counts if count))


def _records_in(path: Path) -> int | None:
    if path.stat().st_size > COUNTED_UP_TO_BYTES:
        return None
    try:
        if path.suffix == ".jsonl":
            with open(path, "rb") as file:
                return sum(1 for line in file if line.strip())
        if path.suffix == ".csv":
            with open(path, encoding="utf-8-sig", newline="") as file:
                return max(0, sum(1 for row in csv.reader(file) if row) - 1)
        if path.suffix == ".json":
            records = json.loads(path.read_text(encoding="utf-8-sig"))
            return len(records) if isinstance(records, list) else None
    except (ValueError, csv.Error):
        return None  # not what its name says; reading it for training will tell in full
    return None


def _checkpoints(stage: TrainStage, steps: Amount | None, epoch: _Epoch) -> int | None:
    """Distinct steps at which a lite or full checkpoint is written; the published result is not among them.

    By inclusion and exclusion: whoever slips and writes 10¹² steps is not to wait for them to be listed.
    """
    cadences = [cadence for cadence in (stage.save_steps, stage.full_save_steps) if cadence]
    if steps is None or (stage.save_on_epoch_end and epoch.rows is None):
        return None
    if stage.save_on_epoch_end and epoch.rows is not None:
        cadences.append(-(-epoch.rows.value // (stage.effective_batch_size or 1)))
    together = (some for size in range(1, len(cadences) + 1) for some in itertools.combinations(cadences, size))
    return sum((steps.value // math.lcm(*some)) * (1 if len(some) % 2 else -1) for some in together)
