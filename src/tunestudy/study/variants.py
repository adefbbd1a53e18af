"""Each variant's stages in order: `from:` followed, and defaults, stage and overrides laid over each other."""

from dataclasses import dataclass
from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.study.adapter_options import laid_over_kind
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.source import KeyPath, Source

Settings = dict[str, Any]


@dataclass(frozen=True)
class StageUse:
    """A stage as one variant uses it, not yet validated."""

    settings: Settings
    written: str
    """The variant, as written in the file, whose overrides are in `settings`."""


@dataclass(frozen=True)
class RawVariant:
    """A variant after matrix expansion."""

    written: str
    uses: dict[str, StageUse]
    rest: Settings
    """Its keys other than those that make its stages."""


class Resolver:
    """Resolves `from:` chains, each variant once. Mistakes are collected in `errors`."""

    def __init__(self, source: Source, expanded: dict[str, tuple[str, Settings]]) -> None:
        self.errors: list[StudyError] = []
        self._source = source
        self._expanded = expanded
        self._stages: dict[str, Settings] = source.values.get("stages") or {}
        self._defaults: Settings = source.values.get("defaults") or {}
        self._done: dict[str, RawVariant] = {}

    def resolve_all(self) -> dict[str, RawVariant]:
        """Every variant that has no mistake, in the order of the file."""
        for name in self._expanded:
            try:
                self._resolve(name, ())
            except StudyError as error:
                self.errors.append(error)
        return {name: self._done[name] for name in self._expanded if name in self._done}

    def _resolve(self, name: str, chain: tuple[str, ...]) -> RawVariant:
        if name in self._done:
            return self._done[name]
        written, variant = self._expanded[name]
        path: KeyPath = ("variants", written)
        if name in chain:
            circle = " → ".join((*chain[chain.index(name) :], name))
            raise StudyError(self._source.place((*path, "from")), f"a cycle: {circle}")
        shared = self._prefix(variant, path, (*chain, name))
        uses = dict(shared)
        for stage in variant.get("stages") or ():
            self._add(uses, stage, variant, path)
        self._check_overrides(variant, path, shared)  # last: a slip in `stages` is the cause of what it finds
        rest = {key: value for key, value in variant.items() if key not in ("stages", "from", "overrides")}
        self._done[name] = RawVariant(written, uses, rest)
        return self._done[name]

    def _prefix(self, variant: Settings, path: KeyPath, chain: tuple[str, ...]) -> dict[str, StageUse]:
        """The stages that `from: other@stage` brings along, with that variant's overrides."""
        if variant.get("from") is None:
            return {}
        where = self._source.place((*path, "from"))
        if not isinstance(variant["from"], str):
            raise StudyError(where, "must be text, `variant` or `variant@stage`")
        other, _, until = variant["from"].partition("@")
        if other not in self._expanded:
            raise StudyError(where, f"there is no variant `{other}`; {did_you_mean(other, self._expanded)}")
        uses = self._resolve(other, chain).uses
        if not until:
            return dict(uses)
        if until not in uses:
            raise StudyError(where, f"`{other}` has no stage `{until}`; {did_you_mean(until, uses)}")
        return dict(list(uses.items())[: list(uses).index(until) + 1])

    def _check_overrides(self, variant: Settings, path: KeyPath, prefix: dict[str, StageUse]) -> None:
        own = variant.get("stages") or ()
        for stage in variant.get("overrides") or ():
            where = self._source.place((*path, "overrides", stage))
            if stage in prefix and stage not in own:
                raise StudyError(
                    where, f"`{stage}` comes from `{variant['from']}` and is shared with it; override it there"
                )
            if stage not in own:
                raise StudyError(where, f"this variant has no stage `{stage}`; {did_you_mean(stage, own)}")

    def _add(self, uses: dict[str, StageUse], stage: str, variant: Settings, path: KeyPath) -> None:
        where = self._source.place((*path, "stages"))
        if stage not in self._stages:
            raise StudyError(where, f"there is no stage `{stage}`; {did_you_mean(stage, self._stages)}")
        if stage in uses:
            raise StudyError(
                where, f"`{stage}` comes twice in this variant; give the second a name of its own in `stages:`"
            )
        settings = with_defaults(self._defaults, self._stages[stage] or {})
        override = (variant.get("overrides") or {}).get(stage)
        uses[stage] = StageUse(laid_over(settings, override) if override else settings, str(path[-1]))


def with_defaults(defaults: Settings, stage: Settings) -> Settings:
    """A stage's settings over `defaults:`, which are those of training stages."""
    return laid_over(defaults, stage) if stage.get("type", "train") == "train" else dict(stage)


def laid_over(below: Settings, above: Settings) -> Settings:
    """`above` over `below`; what `_MERGED` names is merged, everything else is replaced."""
    result = {**below, **above}
    for key, merged in _MERGED.items():
        old, new = below.get(key), above.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            result[key] = merged(old, new)
    return result


def _keys(below: Settings, above: Settings) -> Settings:
    return {**below, **above}


def _laid_over_components(below: Settings, above: Settings) -> Settings:
    """Component by component, and each by its keys; `true` leaves the options of one that is on as they are."""
    result = {**below, **above}
    for name, new in above.items():
        old = below.get(name)
        if isinstance(old, dict) and (new is True or isinstance(new, dict)):
            result[name] = old if new is True else {**old, **new}
    return result


def _laid_over_models(below: Settings, above: Settings) -> Settings:
    """Model by model, and each by its keys; a new origin (a stage's name alone, too) takes the place of the old."""
    result = {**below, **above}
    for name, new in above.items():
        old = {"stage": below[name]} if isinstance(below.get(name), str) else below.get(name)
        new = {"stage": new} if isinstance(new, str) else new
        if isinstance(old, dict) and isinstance(new, dict):
            moved = {"stage", "path"} & set(new)
            result[name] = {**{key: value for key, value in old.items() if not moved or key not in _ORIGIN}, **new}
    return result


_ORIGIN = ("stage", "path")

_MERGED = {
    "adapter": laid_over_kind,
    "learning_rates": _keys,
    "quantization": _keys,
    "components": _laid_over_components,
    "world": _keys,
    "models": _laid_over_models,
}
