"""adjusted.json: smaller batches than the study's, for a job that ran out of memory. Written between attempts."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import JobDir


@dataclass(frozen=True, kw_only=True)
class Adjusted:
    """What a job may hold in memory at most. The effective batch size stays: accumulation makes up for it."""

    per_device_train_batch_size: int | None = None
    """None: as the study says."""
    per_device_eval_batch_size: int | None = None
    benchmark_divisor: int = 1
    """Batches of benchmarks are cut by it."""
    attempt: int | None = None
    """The attempt that ran out of memory."""
    why: str = ""


def read_adjusted(folder: JobDir) -> Adjusted:
    """What holds for the job; an unreadable file counts as none, since each of its values can be found again."""
    try:
        told: Any = read_json(folder.adjusted_json)
    except (OSError, ValueError):
        told = None
    known = {field.name for field in fields(Adjusted)}
    return Adjusted(**{key: told[key] for key in known & told.keys()}) if isinstance(told, dict) else Adjusted()


def write_adjusted(folder: JobDir, adjusted: Adjusted) -> None:
    """Let the next attempt and all later ones go by it. Whoever wants the study's values back deletes the file."""
    write_json(folder.adjusted_json, asdict(adjusted))
