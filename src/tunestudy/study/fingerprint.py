"""What names a job: a SHA-256 over everything that can change its result, and nothing else.

Covered: every setting not made with `config.base.neutral`, the seed, the identity of the data sets that the stage
names, the model's identity, the parents' fingerprints, and tunestudy's NUMERICS_EPOCH. Evaluations have fingerprints
of their own, so that changing a benchmark scores again but never trains again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tunestudy import NUMERICS_EPOCH
from tunestudy.config.base import Config
from tunestudy.config.benchmark import Benchmark
from tunestudy.config.stage import TrainStage

SHOWN_DIGITS = 12


canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False).encode
"""JSON with sorted keys and no white space; floats keep every digit."""

_PLAIN = (str, int, float, bool, type(None))


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON."""
    return _sha256(canonical(value))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def significant(value: Any) -> Any:
    """A settings object as plain values without its neutral fields, all the way down."""
    if type(value) in _PLAIN:  # most are, and a plan of ten thousand jobs asks half a million times
        return value
    if isinstance(value, Config):
        newer = _newer_fields(type(value))
        return {
            name: significant(found)
            for name in _significant_fields(type(value))
            if (found := getattr(value, name)) is not None or name not in newer
        }
    if isinstance(value, Mapping):
        return {str(key): significant(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [significant(inner) for inner in value]
    return value


def is_neutral(config: type[Config], field: str) -> bool:
    """Whether a field was made with `neutral`."""
    extra = config.model_fields[field].json_schema_extra
    return isinstance(extra, dict) and extra.get("fingerprint") is False


@cache
def _newer_fields(config: type[Config]) -> frozenset[str]:
    """Fields made with `newer`; the default of all of them is None."""
    fields = config.model_fields.items()
    extras = {name: field.json_schema_extra for name, field in fields if isinstance(field.json_schema_extra, dict)}
    found = frozenset(name for name, extra in extras.items() if extra.get("fingerprint") == "unless default")
    assert all(config.model_fields[name].default is None for name in found)
    return found


@cache
def _significant_fields(config: type[Config]) -> tuple[str, ...]:
    return tuple(name for name in config.model_fields if not is_neutral(config, name))


def job_fingerprint(
    *,
    settings: str | None,
    seed: int | None,
    data: Mapping[str, str],
    model: str,
    parents: Sequence[str],
    inputs: Mapping[str, str] | None = None,
) -> str:
    """Fingerprint of one training (or, without settings, of the model as it comes).

    `settings`: `digest(significant(stage))`; `seed`: None where nothing random happens; `data`: digest of each data
    set's identity by name; `model`: digest of the model's identity; `parents`: full fingerprints, nearest last;
    `inputs`: of what is read beside them, by name, a job's fingerprint or a folder's digest.

    The canonical JSON of all that, written out, as digests need no escapes: a long study has ten thousand.
    """
    kin = ",".join([f'"{parent}"' for parent in parents])
    beside = f'"inputs":{canonical(inputs)},' if inputs else ""
    return _sha256(
        f'{{"data":{_canonical_texts(tuple(data.items()))},{beside}"model":"{model}",'
        f'"numerics_epoch":{NUMERICS_EPOCH},"parents":[{kin}],"seed":{_number(seed)},"settings":{_text(settings)}}}'
    )


def benchmark_digest(benchmark: Benchmark, data: str) -> str:
    """What a benchmark is: its settings, its task's version and the digest of its data set's identity."""
    version = {} if benchmark.version == 1 else {"version": benchmark.version}
    return digest({"benchmark": significant(benchmark), "data": data, **version})


def evaluation_fingerprint(job: str, benchmark: str) -> str:
    """Fingerprint of a score, from the job's fingerprint and the benchmark's digest.

    The canonical JSON of three values in which nothing needs an escape, written out: a long study has ten thousand.
    """
    return _sha256(f'{{"benchmark":"{benchmark}","job":"{job}","numerics_epoch":{NUMERICS_EPOCH}}}')


@cache
def _canonical_texts(pairs: tuple[tuple[str, str], ...]) -> str:
    return canonical(dict(pairs))


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _text(value: str | None) -> str:
    return "null" if value is None else f'"{value}"'


def datasets_of(stage: TrainStage) -> tuple[str, ...]:
    """Names of the data sets that a stage reads, without `@held_out`."""
    return tuple(sorted({part.dataset.partition("@")[0] for part in (*stage.data, *stage.eval_data)}))
