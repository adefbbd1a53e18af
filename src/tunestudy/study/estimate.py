"""What a stage will cost in steps, tokens and checkpoints, as far as that is known before it runs.

Nothing is invented: a number that cannot be derived is None. Counts from an earlier run's `data.json` are exact and
win over what is counted here.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.data import Dataset, DigitsDataset, FileDataset, MixturePart, samples_per_epoch
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import StudyDir

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


NOTHING = Estimate(Amount(0, exact=True), Amount(0, exact=True), 0)


class Estimator:
    """Estimates stages of one study; each data set is counted once."""

    def __init__(self, study: Study, folder: Path, results: StudyDir) -> None:
        self._datasets = study.datasets
        self._folder = folder
        self._counts: dict[str, Amount | None] = {}
        self._measured = _measured_sources(results)

    def of(self, stage: TrainStage) -> Estimate:
        """Steps, tokens and checkpoints of one job of this stage."""
        per_epoch = self._samples_per_epoch(stage)
        steps = self._steps(stage, per_epoch)
        return Estimate(steps, self._tokens(stage, steps), _checkpoints(stage, steps, per_epoch))

    def _steps(self, stage: TrainStage, per_epoch: Amount | None) -> Amount | None:
        """As `data.order.Schedule.total_steps` counts them: the last step of an epoch may be short."""
        assert stage.effective_batch_size is not None
        if stage.max_steps is not None:
            return Amount(stage.max_steps, exact=True)
        if stage.packing or per_epoch is None:
            return None
        in_epoch = -(-per_epoch.value // stage.effective_batch_size)
        whole, part = int(stage.num_train_epochs), stage.num_train_epochs % 1
        return Amount(whole * in_epoch + math.ceil(part * in_epoch - 1e-9), per_epoch.exact)

    def _tokens(self, stage: TrainStage, steps: Amount | None) -> Amount | None:
        """Packed rows are nearly full; unpacked ones are known by the mean length of an earlier run."""
        if steps is None or stage.effective_batch_size is None:
            return None
        samples = steps.value * stage.effective_batch_size
        if stage.packing:
            return Amount(samples * stage.max_length)
        lengths = [self._mean_length(part) for part in stage.data]
        if not lengths or any(length is None for length in lengths):
            return None
        counts = [self._available(part) for part in stage.data]
        if any(count is None for count in counts):
            return None
        shares = samples_per_epoch([count.value for count in counts if count], stage.data)
        total = sum(share * length for share, length in zip(shares, lengths, strict=True) if length)
        return Amount(round(samples * total / max(1, sum(shares))))

    def _mean_length(self, part: MixturePart) -> float | None:
        facts = self._measured.get(part.dataset, {})
        tokens, samples = facts.get("tokens"), facts.get("samples")
        return tokens / samples if isinstance(tokens, int) and isinstance(samples, int) and samples else None

    def _samples_per_epoch(self, stage: TrainStage) -> Amount | None:
        counts = [self._available(part) for part in stage.data]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) or not all(count.value for count in known):
            return None
        total = sum(samples_per_epoch([count.value for count in known], stage.data))
        return Amount(total, all(count.exact for count in known))

    def _available(self, part: MixturePart) -> Amount | None:
        """Samples that a part of a mixture can draw from."""
        measured = self._measured.get(part.dataset, {}).get("samples")
        if isinstance(measured, int):
            return Amount(measured, exact=True)
        name, _, held_out = part.dataset.partition("@")
        dataset = self._datasets[name]
        records = self._records(name, dataset)
        if records is None:
            return None
        kept = dataset.held_out if held_out else 1 - dataset.held_out
        return Amount(round(records.value * kept), records.exact and not dataset.held_out)

    def _records(self, name: str, dataset: Dataset) -> Amount | None:
        if name not in self._counts:
            count = _count(dataset, self._folder)
            limited = count and dataset.limit and Amount(min(count.value, dataset.limit), count.exact)
            self._counts[name] = limited or count
        return self._counts[name]


def _count(dataset: Dataset, folder: Path) -> Amount | None:
    """Records of a data set; not exact, because bad and overlong ones are rejected later."""
    if isinstance(dataset, DigitsDataset):
        return Amount(DIGITS, exact=True)
    if not isinstance(dataset, FileDataset):
        return None
    path = folder / dataset.path
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


def _checkpoints(stage: TrainStage, steps: Amount | None, per_epoch: Amount | None) -> int | None:
    """Distinct steps at which a lite or full checkpoint is written; the published result is not among them."""
    if steps is None:
        return None
    cadences = [cadence for cadence in (stage.save_steps, stage.full_save_steps) if cadence]
    if stage.save_on_epoch_end:
        if per_epoch is None or stage.packing:
            return None
        cadences.append(-(-per_epoch.value // (stage.effective_batch_size or 1)))
    saved = {step for cadence in cadences for step in range(cadence, steps.value + 1, cadence)}
    return len(saved | ({steps.value} if stage.save_on_epoch_end and not stage.max_steps else set()))


def _measured_sources(results: StudyDir) -> dict[str, dict[str, Any]]:
    """Counts per source of earlier runs, the newest winning."""
    reports = sorted(results.data_cache.glob("*/data.json"), key=lambda path: path.stat().st_mtime)
    sources: dict[str, dict[str, Any]] = {}
    for path in reports:
        report = read_json(path)
        found = report.get("sources") if isinstance(report, dict) else None
        for name, facts in found.items() if isinstance(found, dict) else ():
            sources[str(name)] = facts if isinstance(facts, dict) else {}
    return sources
