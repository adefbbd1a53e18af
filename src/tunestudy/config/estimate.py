"""What the author of a study knows, or believes, of its cost before anything has run. None of it changes a result."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from tunestudy.config.base import Config, neutral
from tunestudy.config.resources import LONGEST_S, seconds_of

_BETWEEN = re.compile(r"\s*(?:-|–|\bto\b|\.\.)\s*")
_UNIT = re.compile(r"[a-z]+$")


def _range_of(value: object, amount_of: Any) -> object:
    """(low, high) of `3`, `[3, 5]`, `48-60h`, `5 to 10 min`; anything else is left for the check to refuse."""
    if isinstance(value, list | tuple):
        ends = [amount_of(part) for part in value]
    elif isinstance(value, str):
        parts = [part for part in _BETWEEN.split(value.strip().lstrip("~≈").strip()) if part]
        unit = _UNIT.search(parts[-1]) if parts else None
        ends = [amount_of(part + unit[0] if unit and not _UNIT.search(part) else part) for part in parts]
    else:
        ends = [amount_of(value)]
    return (ends[0], ends[-1]) if len(ends) in (1, 2) else value


def _seconds(value: object) -> object:
    return _range_of(value, lambda part: float(part) if _is_number(part) else seconds_of(part))


def _numbers(value: object) -> object:
    return _range_of(value, lambda part: float(part) if _is_number(part) else part)


def _is_number(part: object) -> bool:
    if isinstance(part, bool) or not isinstance(part, int | float | str):
        return False
    try:
        float(part)
    except ValueError:
        return False
    return True


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not (low >= 0 and 0 <= high <= LONGEST_S):  # nan is neither
        wrong = high if low >= 0 else low
        raise ValueError(f"must be from 0 to {LONGEST_S:g}, got {wrong:g}")
    if low > high:
        raise ValueError(f"a range goes from low to high, got {low:g} to {high:g}")
    return value


_WRITTEN: dict[str, Any] = {
    "anyOf": [{"type": "number"}, {"type": "string"}, {"type": "array", "minItems": 1, "maxItems": 2}]
}
"""How a range may be written, for editors."""
Seconds = Annotated[tuple[float, float], BeforeValidator(_seconds), AfterValidator(_in_order), WithJsonSchema(_WRITTEN)]
"""`3`, `5-10 min`, `[2h, 3h]`: from, to."""
Numbers = Annotated[tuple[float, float], BeforeValidator(_numbers), AfterValidator(_in_order), WithJsonSchema(_WRITTEN)]
"""`153`, `1-2`, `[1, 2]`: from, to."""


class Prior(Config):
    """What is known of a stage that has not been timed here."""

    step_s: Seconds | None = neutral(None)
    """An optimiser step."""
    training_s: Seconds | None = neutral(None)
    """All steps of one job, without evaluation and checkpoints: for who knows that and not a step. It goes before
    `step_s`."""
    evaluation_s: Seconds | None = neutral(None)
    """One evaluation during training."""
    save_s: Seconds | None = neutral(None)
    """What training waits for one checkpoint."""
    upload_s: Seconds | None = neutral(None)
    """One upload of a checkpoint. Uploads have a queue of their own, and are not part of a job's time."""
    checkpoint_mb: Numbers | None = neutral(None)
    """Bytes of one checkpoint, 1e6 each; default: what learns, in float32."""
    start_s: Seconds | None = neutral(None)
    """Until the first step: imports, loading, preparing data."""
    benchmarks_s: Seconds | None = neutral(None)
    """All benchmarks of one job."""


class Claim(Config):
    """What the author believes of one job of a stage; the plan holds it against its own arithmetic."""

    training: Seconds | None = neutral(None)
    """All steps, without evaluation and checkpoints."""
    total: Seconds | None = neutral(None)
    """The whole job: steps, evaluation, checkpoints, start and benchmarks."""
    uploads_gb: Numbers | None = neutral(None)
    """Sum of all uploads."""
    disk_gb: Numbers | None = neutral(None)
    """Checkpoints and result."""
    memory_gb: Numbers | None = neutral(None)
    """Peak of one GPU."""


class EstimateSettings(Prior):
    """With `plan --estimate`: numbers for what cannot be timed here. Those of a stage go before those of the study."""

    stages: dict[str, Prior] = neutral({})
    """By stage; `variant.stage` for a stage as one variant has it."""
    claims: dict[str, Claim] = neutral({})
    """By stage, or by `variant.stage`."""
    study_total: Seconds | None = neutral(None)
    """What the author believes the whole study takes."""
    gpu_memory_gb: float | None = neutral(None, gt=0)
    """Of the card that jobs will run on, 1e9 bytes each; default: the one of this machine."""
    bandwidth_mb_s: float | None = neutral(None, gt=0)
    """Of the network to the hub, 1e6 bytes per second: how long downloads take."""

    def prior(self, stage: str, variants: tuple[str, ...]) -> Prior:
        """What is stated of a stage, the nearest statement first."""
        named = [self.stages.get(f"{variant}.{stage}") for variant in variants]
        found: dict[str, Any] = {}
        for one in (self, self.stages.get(stage), *named):
            if one is not None:
                stated = {key: getattr(one, key) for key in Prior.model_fields}
                found |= {key: value for key, value in stated.items() if value is not None}
        return Prior(**found)

    def claims_of(self, stage: str, variants: tuple[str, ...]) -> tuple[Claim, ...]:
        """What is believed of a job of the stage, once for each variant that shares it and says so.

        What is said of a variant goes before what is said of the stage, number by number.
        """
        general = _stated(self.claims.get(stage))
        named = [self.claims[key] for variant in variants if (key := f"{variant}.{stage}") in self.claims]
        return tuple(Claim(**{**general, **_stated(one)}) for one in named) or (Claim(**general),)


def _stated(one: Prior | Claim | None) -> dict[str, Any]:
    """The numbers that a statement holds."""
    return {} if one is None else {key: value for key, value in one if value is not None}
