"""How every variant's settings differ from the baseline's, key by key."""

from dataclasses import dataclass
from typing import Any

from tunestudy.config.stage import TrainStage
from tunestudy.report.facts import Settings, StudyFacts

ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting of one stage; `ABSENT` where a side does not have it."""

    stage: str
    key: str
    baseline: Any
    variant: Any


@dataclass(frozen=True, kw_only=True)
class VariantDifferences:
    variant: str
    added: list[str]
    """Stages that the baseline does not have."""
    dropped: list[str]
    changes: list[Difference]
    """In shared stages all differences; in added ones what is not the default."""


def differences(facts: StudyFacts) -> list[VariantDifferences]:
    """One entry per variant other than the baseline."""
    if facts.baseline is None:
        return []
    base = facts.variants[facts.baseline].stages
    return [_against(base, name, variant.stages) for name, variant in facts.variants.items() if name != facts.baseline]


def _against(base: dict[str, Settings], name: str, stages: dict[str, Settings]) -> VariantDifferences:
    defaults = default_settings()
    changes = []
    for stage, settings in stages.items():
        theirs = flat(base[stage]) if stage in base else defaults
        ours = flat(settings)
        for key in dict.fromkeys([*ours, *theirs]):
            ours_value, base_value = ours.get(key, ABSENT), theirs.get(key, ABSENT)
            if ours_value != base_value and not (ours_value is ABSENT and _under(key, ours)):
                shown = base_value if stage in base else ABSENT
                changes.append(Difference(stage=stage, key=key, baseline=shown, variant=ours_value))
    return VariantDifferences(
        variant=name,
        added=[stage for stage in stages if stage not in base],
        dropped=[stage for stage in base if stage not in stages],
        changes=[change for change in changes if change.variant is not ABSENT or change.stage in base],
    )


def _under(key: str, settings: Settings) -> bool:
    """Whether a parent of `key` is set to nothing here, which says the same in one line."""
    parts = key.split(".")
    return any(settings.get(".".join(parts[:depth]), ABSENT) is None for depth in range(1, len(parts)))


def flat(settings: Settings, prefix: str = "") -> Settings:
    """Nested mappings as dotted keys; lists stay whole."""
    out: Settings = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def default_settings() -> Settings:
    """The settings of a stage in which only what must be given is given."""
    fields = TrainStage.model_fields.items()
    return {name: value.get_default(call_default_factory=True) for name, value in fields if not value.is_required()}


def not_default(settings: Settings) -> Settings:
    """A stage's settings that someone chose, flattened: defaults and empty values left out."""
    defaults = default_settings()
    empty: tuple[Any, ...] = (None, {}, [], ())
    chosen = {
        key: value
        for key, value in settings.items()
        if key not in defaults or (value != defaults[key] and not (value in empty and defaults[key] in empty))
    }
    return flat(chosen)
