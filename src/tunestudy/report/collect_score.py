"""Reads scores: of a job's result, and of the checkpoints on the way to it."""

import re
from pathlib import Path
from typing import Any

from tunestudy.records.layout import JobDir
from tunestudy.records.listing import entries
from tunestudy.report.facts import Curve, Score, Settings
from tunestudy.report.reader import Reader
from tunestudy.report.values import mapping, number, numbers, whole


def read_score(folder: JobDir, name: str, wanted: Settings, reader: Reader) -> Score | None:
    """A score, unless it is missing, broken, or of another definition of the benchmark."""
    found = _valid(folder.eval_json(name), wanted, reader)
    if found is None:
        return None
    metrics = numbers(found["metrics"])
    return Score(
        benchmark=name,
        kind=str(found.get("type") or mapping(wanted.get("benchmark")).get("type") or ""),
        dataset=str(found.get("dataset") or ""),
        version=str(found.get("version") or ""),
        rows=whole(found.get("n")),
        primary=_primary(found),
        metrics=metrics,
        rows_sha256=found.get("rows_sha256"),
        duration_s=number(found.get("duration_s")),
        predictions=folder.predictions(name),
        title=str(found.get("title") or ""),
        compat=str(found.get("compat") or ""),
        aggregate=str(found.get("aggregate") or "mean"),
        counts={str(k): n for k, v in mapping(found.get("counts")).items() if (n := whole(v))},
        categories=_categories(mapping(found.get("categories"))),
        overlap=_overlap(folder, name, found, reader),
        higher_is_better=_ways(mapping(mapping(found.get("lm_eval")).get("higher_is_better"))),
    )


def _overlap(folder: JobDir, name: str, score: Settings, reader: Reader) -> Settings:
    """Of the rows of this very score."""
    told = reader.json(folder.overlap(name))
    return told if told.get("fingerprint") == score.get("fingerprint") else {}


def _valid(path: Path, wanted: Settings, reader: Reader) -> dict[str, Any] | None:
    found = reader.json(path)
    stale = wanted.get("fingerprint") and found.get("fingerprint") != wanted["fingerprint"]
    metrics, primary = mapping(found.get("metrics")), str(found.get("primary"))
    if stale or not metrics:
        return None
    if not numbers(metrics) or (primary in metrics and number(metrics[primary]) is None):
        cure = "delete the file and run again: only that is scored anew"
        reader.refuse(path, f"its {primary} is not a finite number; {cure}")  # another metric must not stand in for it
        return None
    return found


def _primary(found: Settings) -> str:
    metrics, primary = numbers(found.get("metrics")), str(found.get("primary"))
    return primary if primary in metrics else next(iter(metrics))


def _ways(found: Settings) -> dict[str, bool | None]:
    return {str(metric): way if isinstance(way, bool) else None for metric, way in found.items()}


def _categories(found: Settings) -> dict[str, dict[str, tuple[int, float]]]:
    return {
        str(column): {
            str(value): (units, score)
            for value, entry in mapping(values).items()
            if (units := whole(mapping(entry).get("n"))) is not None
            and (score := number(mapping(entry).get("score"))) is not None
        }
        for column, values in found.items()
    }


def read_score_log(
    folder: JobDir, wanted: Settings, scores: dict[str, Score], steps: int | None, reader: Reader
) -> Curve:
    """Scores of `eval/checkpoint-<step>/`, by step, with the result's own as the last point; empty without any."""
    at: dict[int, dict[str, float]] = {}
    for path in entries(folder.eval):
        if match := re.fullmatch(r"checkpoint-(\d+)", path.name):
            read = {name: _valid(path / f"{name}.json", mapping(wanted[name]), reader) for name in wanted}
            at[int(match[1])] = {name: numbers(f["metrics"])[_primary(f)] for name, f in read.items() if f}
    told = [name for name in wanted if any(name in of for of in at.values())]
    if not told:
        return {}
    if steps is not None:
        at[steps] = at.get(steps, {}) | {name: score.metrics[score.primary] for name, score in scores.items()}
    nan = float("nan")
    return {
        "step": [float(step) for step in sorted(at)],
        **{name: [at[step].get(name, nan) for step in sorted(at)] for name in told},
    }
