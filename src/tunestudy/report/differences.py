"""How the variants' settings differ from the baseline's: a row per setting that is not the same everywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunestudy.config.merge import MergeStage
from tunestudy.config.stage import TrainStage
from tunestudy.report.facts import Settings, StudyFacts
from tunestudy.report.format import MISSING, setting

_EMPTY: tuple[Any, ...] = (None, {}, [], ())


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of one stage over all variants, as texts."""

    stage: str
    key: str
    baseline: str
    values: dict[str, str]
    """By variant, the baseline left out."""

    tells_apart: bool
    """False where all variants that have the stage agree, and others only lack it."""

    def differs(self, variant: str) -> bool:
        return self.values[variant] != self.baseline


def differences(facts: StudyFacts) -> list[Setting]:
    """Settings in which at least one variant differs from the baseline.

    Of stages that the baseline does not have, those that are not the default in some variant; of adapters, all that are
    not off.
    """
    baseline = facts.baseline
    if baseline is None or len(facts.variants) < 2:
        return []
    stages = list(dict.fromkeys(stage for variant in facts.variants.values() for stage in variant.stages))
    return [row for stage in stages for row in _of_stage(facts, baseline, stage)]


def _of_stage(facts: StudyFacts, baseline: str, stage: str) -> Iterator[Setting]:
    chosen = {
        name: not_default(variant.stages[stage]) for name, variant in facts.variants.items() if stage in variant.stages
    }
    for key in dict.fromkeys(key for settings in chosen.values() for key in settings):
        texts = {name: _text(facts, name, stage, key, chosen) for name in facts.variants}
        if len(set(texts.values())) > 1:
            alike = len({texts[name] for name in chosen}) == 1
            base = texts.pop(baseline)
            yield Setting(stage=stage, key=key, baseline=base, values=texts, tells_apart=not alike)


def _text(facts: StudyFacts, variant: str, stage: str, key: str, chosen: dict[str, Settings]) -> str:
    """The value, chosen or default; a dash where the variant has no such stage or the key says nothing there."""
    if variant not in chosen:
        return MISSING
    if key in chosen[variant]:
        return setting(chosen[variant][key])
    default = flat(facts.variants[variant].stages[stage]).get(key, MISSING)
    return MISSING if default in _EMPTY else setting(default)


def flat(settings: Settings, prefix: str = "") -> Settings:
    """Nested mappings as dotted keys; lists stay whole."""
    out: Settings = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def not_default(settings: Settings) -> Settings:
    """A stage's settings that someone chose, flattened: defaults and empty values left out."""
    if settings.get("type") == "merge":
        return flat(_chosen_of_merge(settings))
    defaults = _stage_defaults()
    chosen = {
        key: value
        for key, value in settings.items()
        if value not in _EMPTY and (key not in defaults or value != defaults[key])
    }
    if isinstance(adapter := chosen.get("adapter"), dict):  # its rank and alpha matter, whoever chose them
        chosen["adapter"] = {
            key: _experts(value) if key == "experts" else value for key, value in adapter.items() if value
        }
    return flat(chosen)


def _experts(experts: Any) -> Any:
    """Without what was not said; an expert of null adds nothing and stays."""
    if not isinstance(experts, dict):
        return experts
    return {name: without_empty(one) if isinstance(one, dict) else one for name, one in experts.items()}


def _chosen_of_merge(settings: Settings) -> Settings:
    """What a merge was told: its models with their weights, whoever chose them."""
    defaults = {name: field.get_default() for name, field in MergeStage.model_fields.items() if name != "type"}
    chosen = {key: value for key, value in settings.items() if value not in _EMPTY and value != defaults.get(key)}
    for key in ("base", "models"):
        if isinstance(named := chosen.get(key), dict):
            chosen[key] = without_empty(named)
    return chosen


def without_empty(settings: Settings) -> Settings:
    """Nested mappings without their empty values."""
    told = {key: without_empty(value) if isinstance(value, dict) else value for key, value in settings.items()}
    return {key: value for key, value in told.items() if value not in _EMPTY}


def _stage_defaults() -> Settings:
    """All settings of a stage that have a default, as JSON holds them."""
    required = {"data": "any", "learning_rate": 1.0}
    defaults = TrainStage.model_validate(required).model_dump(mode="json")
    return {key: value for key, value in defaults.items() if key not in required}
