"""One job, looked at: its state, error, settings, where it ran, its logs and some of its answers."""

import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

from tunestudy.records.atomic import read_object
from tunestudy.records.follow import last_lines
from tunestudy.records.layout import JobDir, part_name
from tunestudy.records.redact import redact, redact_tree
from tunestudy.report.differences import not_default
from tunestudy.report.format import setting
from tunestudy.report.values import mapping, texts
from tunestudy.web.board import Board, Seen
from tunestudy.web.journal import Span
from tunestudy.web.slots import ended

LOG_BYTES = 64 * 1024
MOST_ROWS = 12
_ROW_BYTES, _TEXT = 256 * 1024, 400
_FIELDS = ("id", "prompt", "question", "prediction", "reference", "correct", "score")


def job_details(board: Board, job_id: str) -> dict[str, Any] | None:
    """What the page shows of one job; None when the plan has no such job."""
    folder = board.folder_of(job_id)
    if folder is None:
        return None
    seen = board.by_id[job_id]
    job = read_object(folder.job_json)
    details = {
        "id": seen.id,
        "stage": seen.stage,
        "seed": seen.seed,
        "variants": list(seen.variants),
        "needs": list(seen.needs),
        "failure": read_object(folder.failure_json) if seen.status == "failed" else {},
        "progress": read_object(folder.progress_json) if seen.status != "done" else {},
        "spans": [_told(board, span) for span in board.journal.spans.get(job_id, [])],
        "expected_s": board.expected.get(job_id),
        "settings": _settings(job),
        "provenance": _provenance(folder, job),
        "logs": _log_names(folder),
        "predictions": {name: _predictions(folder, name) for name in mapping(job.get("evaluations"))},
        "scores": _scores(folder, job),
    }
    return {"state": _state_of(seen), **mapping(redact_tree(details))}


def _told(board: Board, span: Span) -> list[Any]:
    """Of an attempt: number, slot, start, end, how it ended. No end while it runs, and where nothing tells it."""
    end, how = ended(board, span, time.time())
    known = span.end is not None or how in ("done", "failed")
    return [span.attempt, span.slot, span.start, end if known else None, how]


def log_piece(board: Board, job_id: str, name: str, start: int | None) -> dict[str, Any] | None:
    """`{"text", "next"}`: whole lines of one log from byte `start`, its end without it. None: there is no such log."""
    folder = board.folder_of(job_id)
    if folder is None or name not in _log_names(folder):
        return None
    try:
        text, following = last_lines(folder.logs / name, LOG_BYTES, start=start)
    except OSError:
        return None  # `clean` was faster
    return {"text": redact(text), "next": following}


def _state_of(seen: Seen) -> str:
    return str(seen.told.get("s") or seen.status)


def _settings(job: dict[str, Any]) -> dict[str, str]:
    chosen = not_default(mapping(job.get("settings"))) if job.get("settings") else {}
    return {key: setting(value) for key, value in chosen.items()}


def _provenance(folder: JobDir, job: dict[str, Any]) -> dict[str, str]:
    """Where the numbers come from: code, versions, data, benchmarks."""
    told, data = read_object(folder.env_json), read_object(folder.data_report)
    git = mapping(told.get("git"))
    commit = str(git.get("commit") or "")[:12] + (", uncommitted changes" if git.get("dirty") else "")
    benchmarks = mapping(job.get("evaluations"))
    found = {
        "host": str(told.get("host") or ""),
        "code": commit,
        "packages": ", ".join(f"{name} {version}" for name, version in mapping(told.get("packages")).items()),
        "data": ", ".join(
            f"{name}: {mapping(of).get('samples', '?')} samples" for name, of in mapping(data.get("sources")).items()
        ),
        "evaluation rows": str(mapping(data.get("eval")).get("ids_sha256") or "")[:12],
        "benchmarks": ", ".join(
            f"{name} ({str(mapping(of).get('fingerprint'))[:12]})" for name, of in benchmarks.items()
        ),
        "fingerprint": str(job.get("fingerprint") or "")[:12],
    }
    return {name: value for name, value in found.items() if value}


def _log_names(folder: JobDir) -> list[str]:
    """Logs of the job that really lie there: a link that leads out of it is none."""
    try:
        logs = sorted(folder.logs.glob("*.log"))
    except OSError:
        return []
    inside = folder.logs.resolve()
    names = [log.name for log in logs if log.resolve().parent == inside and log.is_file()]
    return sorted(names, key=lambda name: (name != "rank-0.log", name))


def _scores(folder: JobDir, job: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name in mapping(job.get("evaluations")):
        told = read_object(folder.eval_json(name))
        primary = str(told.get("primary") or "")
        if primary in mapping(told.get("metrics")):
            found[name] = f"{setting(told['metrics'][primary])} {primary}"
    return found


def _predictions(folder: JobDir, benchmark: str) -> list[dict[str, str]]:
    """The first answers, or those that have come so far."""
    for path in (folder.predictions(benchmark), folder.eval / part_name(benchmark, 0)):
        rows = list(islice(_rows(path, folder), MOST_ROWS))
        if rows:
            return rows
    return []


def _rows(path: Path, folder: JobDir) -> Any:
    if not path.resolve().is_relative_to(folder.root.resolve()):
        return
    try:
        with open(path, "rb") as file:
            data = file.read(_ROW_BYTES)
    except OSError:
        return
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # torn
        shown = {name: _text(row[name]) for name in _FIELDS if isinstance(row, dict) and row.get(name) is not None}
        if shown:
            yield shown


def _text(value: object) -> str:
    words = value if isinstance(value, str) else " | ".join(texts(value)) or json.dumps(value, ensure_ascii=False)
    return words if len(words) <= _TEXT else f"{words[:_TEXT]} …"
