"""From a study file to a validated `Study`, with every mistake told at once, at its line.

loaded = load_study(Path("study.yaml"), ["stages.adapt.learning_rate=1e-4"])
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunestudy.config.errors import Place, StudyError
from tunestudy.config.merge import MergeStage
from tunestudy.config.stage import AnyStage, TrainStage
from tunestudy.config.study import Study, Variant
from tunestudy.study.adapter_options import DEFAULT_KIND, KINDS, option_of_another
from tunestudy.study.aliases import translate
from tunestudy.study.batch import BatchError, solve_batch
from tunestudy.study.benchmarks import supply_data, translate_types, unknown_types, write_out_short_form
from tunestudy.study.deepspeed import read_deepspeed_files
from tunestudy.study.hosts import spread_over_hosts
from tunestudy.study.keys import shape_mistakes, unknown_keys, unknown_stage_types
from tunestudy.study.locked import Locking, locking_of, pinned
from tunestudy.study.matrix import expand_matrices
from tunestudy.study.overrides import apply_overrides, expand_dotted
from tunestudy.study.plain import mistakes
from tunestudy.study.problems import raise_all
from tunestudy.study.references import reference_mistakes
from tunestudy.study.source import KeyPath, Source, read_source
from tunestudy.study.start import Start, resolve_starts
from tunestudy.study.surface import STAGE_TYPES
from tunestudy.study.tiny import take_tiny
from tunestudy.study.variants import RawVariant, Resolver, Settings, with_defaults


@dataclass(frozen=True)
class LoadedStudy:
    """A validated study and the way back from its keys to the file."""

    study: Study
    path: Path
    source: Source = field(repr=False)
    raw_variants: Mapping[str, RawVariant] = field(repr=False)
    translations: list[str]
    """Foreign spellings that were understood, one printable line each."""
    warnings: list[str]
    tiny: bool = False
    """Whether this is the small form."""
    has_tiny: bool = False
    """Whether the file has one."""
    asked: Study | None = field(default=None, repr=False)
    """The study with the revisions that its file asks for."""
    locking: Locking | None = None
    """The lock beside the file; its commits stand in `study` as revisions already."""
    overrides: tuple[str, ...] = ()
    """Settings that the command line changed, `key.path=value` each."""

    @property
    def typed(self) -> str:
        """The study as it is typed after a command, for a shell."""
        return shlex.join([str(self.path), *(["--tiny"] if self.tiny else []), *self.overrides])

    def locate(self, key: str) -> Place:
        """File and line of a key such as `variants.full.stages.adapt.learning_rate` or `stages.adapt.data`."""
        return locate(self.source, self.raw_variants, tuple(key.split(".")))


def load_study(path: Path, overrides: Sequence[str] = (), *, tiny: bool = False) -> LoadedStudy:
    """Read, expand and validate a study file; `overrides` are `key.path=value` from the command line.

    `tiny`: the small form of it, which the file's `tiny:` describes.

    Every variant's stages come out complete: defaults, overrides, `from:` and `matrix:` applied, `init`, `train` and
    the three batch numbers explicit.

    Raises StudyError (CombinedError for several) at file:line.
    """
    source = read_source(path)
    expand_dotted(source)
    write_out_short_form(source)
    small = source.values.get("tiny")
    has_tiny = take_tiny(source, wanted=tiny)
    apply_overrides(source, overrides)
    expand_dotted(source)
    write_out_short_form(source)
    raise_all(list(shape_mistakes(source)))
    translations = [*translate(source), *translate_types(source)]
    without_data = supply_data(source, tiny=tiny, small=small or {})
    errors = [*spread_over_hosts(source), *read_deepspeed_files(source), *unknown_keys(source)]
    errors += [*unknown_stage_types(source), *unknown_types(source), *without_data]
    resolver = Resolver(source, expand_matrices(source))
    raw_variants = resolver.resolve_all()
    errors += resolver.errors
    reader = _Reader(source, raw_variants)
    study = reader.study()
    errors += [error for error in reader.errors if not _told(error, errors)]
    raise_all(errors)
    assert study is not None, "no study and no mistake"
    raise_all(list(reference_mistakes(study, lambda key: locate(source, raw_variants, key), path.parent)))
    loaded = LoadedStudy(study, path, source, raw_variants, translations, reader.warnings, tiny, has_tiny)
    return at_locked_commits(replace(loaded, overrides=tuple(overrides), asked=study))


def at_locked_commits(loaded: LoadedStudy) -> LoadedStudy:
    """The study at the commits that the lock beside its file holds now."""
    asked = loaded.asked or loaded.study
    locking = locking_of(asked, loaded.path)
    study = asked if locking.lock is None else pinned(asked, locking.lock, loaded.path.parent)
    return replace(loaded, study=study, locking=locking)


def locate(source: Source, raw_variants: Mapping[str, RawVariant], path: KeyPath) -> Place:
    """The place of a key of the validated form; a stage setting may stand in an override, the stage or defaults."""
    variant = raw_variants.get(str(path[1])) if len(path) > 1 and path[0] == "variants" else None
    if variant is None:
        return source.place(path)
    if len(path) < 4 or path[2] != "stages" or path[3] not in variant.uses:
        return source.place(("variants", variant.written, *path[2:]))
    stage, rest = path[3], path[4:]
    written = variant.uses[str(stage)].written
    candidates: list[KeyPath] = [
        ("variants", written, "overrides", stage, *rest),
        ("stages", stage, *rest),
        ("defaults", *rest),
    ]
    while rest:
        for candidate in candidates:
            if candidate in source.lines or candidate in source.given:
                return source.place(candidate)
        rest, candidates = rest[:-1], [candidate[:-1] for candidate in candidates]
    return source.place(("stages", stage))


def _told(error: StudyError, unknown: Sequence[StudyError]) -> bool:
    """A misspelt key is told once, with its cure; validation finds it too, and misses the one that was meant."""
    same_place = any(str(error.place) == str(other.place) for other in unknown)
    return same_place or (bool(unknown) and error.message.endswith("is missing"))


class _Reader:
    """Validates section by section and collects what is wrong."""

    def __init__(self, source: Source, raw_variants: dict[str, RawVariant]) -> None:
        self.errors: list[StudyError] = []
        self.warnings: list[str] = []
        self._source = source
        self._raw = raw_variants
        self._stages: dict[str, AnyStage | None] = {}
        self._complete: dict[tuple[int, str, int], TrainStage] = {}

    def study(self) -> Study | None:
        """The study, or None when there are errors."""
        values = {key: value for key, value in self._source.values.items() if key not in ("defaults", "stages")}
        ranks = self._ranks()
        variants = {name: self._variant(name, raw, ranks) for name, raw in self._raw.items()}
        self._unused_stages()
        complete = {name: variant for name, variant in variants.items() if variant is not None}
        try:
            return Study.model_validate(frozen({**values, "variants": complete}), strict=True)
        except ValidationError as error:
            for path, message in mistakes(error, values):
                if path != ("variants",):
                    self._wrong(path, message)
            return None

    def _variant(self, name: str, raw: RawVariant, ranks: int) -> Variant | None:
        path: KeyPath = ("variants", name)
        stages = {stage: self._stage((*path, "stages", stage), use.settings) for stage, use in raw.uses.items()}
        complete = {stage: settings for stage, settings in stages.items() if settings is not None}
        if len(complete) == len(stages):
            for stage, start in resolve_starts(complete).items():
                if start.mistake:
                    self._wrong((*path, "stages", stage, start.key), start.mistake)
                settings = complete[stage]
                assert isinstance(settings, TrainStage)
                complete[stage] = self._completed((*path, "stages", stage), settings, start, ranks)
        try:
            return Variant.model_validate(frozen({**raw.rest, "stages": complete}), strict=True)
        except ValidationError as error:
            for inner, message in mistakes(error, raw.rest):
                self._wrong((*path, *inner), message)
            return None

    def _stage(self, path: KeyPath, settings: Settings) -> AnyStage | None:
        """Validated settings; equal ones are validated once."""
        content = json.dumps(settings, default=str)
        if content not in self._stages:
            self._stages[content] = self._validated_stage(path, settings)
        return self._stages[content]

    def _validated_stage(self, path: KeyPath, settings: Settings) -> AnyStage | None:
        if settings.get("type", "train") not in STAGE_TYPES:
            return None  # told with the nearest that there is
        try:
            kind = MergeStage if settings.get("type") == "merge" else TrainStage
            return kind.model_validate(frozen(settings), strict=True)
        except ValidationError as error:
            for inner, message in mistakes(error, settings):
                of_adapter = _about_an_adapter(inner, settings)
                inner, message = (inner, message) if inner else _pointed(message, settings)
                self._wrong((*path, *inner), of_adapter or message)
            return None

    def _completed(self, path: KeyPath, stage: TrainStage, start: Start, ranks: int) -> TrainStage:
        """With `init`, `train` and the batch numbers explicit; variants that share a stage share the object."""
        known = (id(stage), start.init, id(start.world))
        if known not in self._complete:
            whole = ("world_projector",) if start.world else "all"
            train = stage.train if stage.train is not None else ("none" if stage.adapter else whole)
            explicit = stage.model_copy(update={"init": start.init, "train": train, "world": start.world})
            self._complete[known] = self._with_batch(path, explicit, ranks)
        return self._complete[known]

    def _with_batch(self, path: KeyPath, stage: TrainStage, ranks: int) -> TrainStage:
        try:
            batch = solve_batch(
                effective=stage.effective_batch_size,
                per_device=stage.per_device_train_batch_size,
                accumulation=stage.gradient_accumulation_steps,
                ranks=ranks,
            )
        except BatchError as error:
            self._wrong((*path, error.key), str(error))
            return stage
        return stage.model_copy(
            update={
                "effective_batch_size": batch.effective,
                "per_device_train_batch_size": batch.per_device,
                "gradient_accumulation_steps": batch.accumulation,
            }
        )

    def _ranks(self) -> int:
        ranks = (self._source.values.get("resources") or {}).get("ranks", 1)
        return ranks if isinstance(ranks, int) and ranks > 0 else 1

    def _unused_stages(self) -> None:
        """A stage that no variant uses is checked all the same, and told."""
        used = {stage for raw in self._raw.values() for stage in raw.uses}
        defaults = self._source.values.get("defaults") or {}
        for stage, settings in (self._source.values.get("stages") or {}).items():
            if stage not in used:
                self._stage(("stages", stage), with_defaults(defaults, settings or {}))
                self.warnings.append(f"{self._source.place(('stages', stage))}: no variant uses this stage")

    def _wrong(self, path: KeyPath, message: str) -> None:
        self.errors.append(StudyError(locate(self._source, self._raw, path), message))


def _pointed(message: str, settings: Settings) -> tuple[KeyPath, str]:
    """A merging stage's own mistake begins with the key that it is about: the path of that, and the rest."""
    key, colon, rest = message.partition(": ")
    known = settings.get("type") == "merge" and key.partition(".")[0] in MergeStage.model_fields
    return (tuple(key.split(".")), rest) if colon and known else ((), message)


def _about_an_adapter(path: KeyPath, settings: Settings) -> str | None:
    """What to say of an option that another kind of adapter has; None where that is not the mistake."""
    if len(path) != 2 or path[0] != "adapter":
        return None
    kind = str(settings["adapter"].get("type", DEFAULT_KIND))
    known = kind in KINDS and path[1] in KINDS[kind].model_fields
    return None if known else option_of_another(kind, str(path[1]))


def frozen(value: Any) -> Any:
    """Lists as tuples, all the way down: strict validation does not turn one into the other."""
    if isinstance(value, dict):
        return {key: frozen(inner) for key, inner in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value
