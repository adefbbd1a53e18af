"""The small form of a study: same stages, variants and seeds, other weights and data.

    tiny:
      model: {architecture: …, config: {…}, tokenizer: {…}}
      datasets: {corpus: {type: digits}}
      defaults: {max_steps: 40}

`--tiny` lays this part of the file over the rest. `model` and the entries of `datasets` and `benchmarks` are replaced,
since parts of two would contradict each other; stages, `defaults`, `resources` and variants' `overrides` are laid over
key by key. Nothing else can differ, so that the small study has the jobs of the large one, and runs the same code.
`alerts` may differ as well: they change no job. `resources.gpus` and `wall_clock` are meant for the large one: the
small one has them only where `tiny:` says so.
"""

from pathlib import Path
from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.records.layout import StudyDir
from tunestudy.records.listing import entries
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.plain import shown
from tunestudy.study.source import KeyPath, Source

REPLACED = ("model", "datasets", "benchmarks")
LAID_OVER = ("defaults", "stages", "resources", "alerts", "env", "variants")
SIZES_OF_MERGES = ("threads", "max_shard_size", "result_rank")
FOR_THE_LARGE = ("gpus", "wall_clock")
SUFFIX = "-tiny"
"""Added to the study's name, so that results of the two never meet."""


def take_tiny(source: Source, *, wanted: bool) -> bool:
    """Remove `tiny:` from the values, and lay it over them when it is `wanted`; returns whether there is one.

    Raises StudyError for a part that has no small form, a name that the study lacks, or a file without `tiny:`.
    """
    small = source.values.pop("tiny", None)
    if small is None:
        if wanted:
            raise StudyError(source.place(()), "has no `tiny:` section, which says what the small study is made of")
        return False
    _check(source, small)
    if not wanted:
        return True
    source.values.pop("estimate", None)  # numbers of the large one
    source.values["study"] = f"{source.values.get('study', '')}{SUFFIX}"
    if isinstance(resources := source.values.get("resources"), dict):
        source.values["resources"] = {key: value for key, value in resources.items() if key not in FOR_THE_LARGE}
    for section, content in small.items():
        if section == "model":
            _replace(source, ("tiny", "model"), ("model",), content)
        elif section in REPLACED:
            for name, entry in content.items():
                _replace(source, ("tiny", section, name), (section, name), entry)
        else:
            _lay_over(source, ("tiny", section), (section,), content)
    return True


def _check(source: Source, small: Any) -> None:
    """That the small form changes sizes only, never what is compared with what."""
    if not isinstance(small, dict):
        raise StudyError(source.place(("tiny",)), "must be a mapping: model, datasets, benchmarks, defaults, stages, …")
    for section, content in small.items():
        here: KeyPath = ("tiny", section)
        if section not in (*REPLACED, *LAID_OVER):
            hint = did_you_mean(str(section), (*REPLACED, *LAID_OVER))
            raise StudyError(source.place(here), f"the small study cannot have its own `{section}`; {hint}")
        if not isinstance(content, dict):
            raise StudyError(source.place(here), "must be a mapping of keys")
        known = source.values.get(section) or {}
        if not isinstance(known, dict):
            raise StudyError(source.place((section,)), f"must be a mapping of keys, got {shown(known)}")
        if section in ("model", "defaults", "resources", "alerts", "env"):
            continue
        for name, entry in content.items():
            if name not in known:
                raise StudyError(
                    source.place((*here, name)),
                    f"the study has no `{section}.{name}`; {did_you_mean(str(name), known)}",
                )
            if section == "stages":
                _check_merge(source, (*here, name), known[name], entry)
            if section == "variants" and (not isinstance(entry, dict) or set(entry) - {"overrides"}):
                raise StudyError(source.place((*here, name)), "only `overrides:` of a variant can differ")


def _check_merge(source: Source, path: KeyPath, stage: Any, small: Any) -> None:
    """Of a merge the small form changes sizes, and folders that hold other weights: never how what is merged."""
    if not isinstance(stage, dict) or stage.get("type") != "merge" or not isinstance(small, dict):
        return
    for key, value in small.items():
        entries = value.items() if key == "models" and isinstance(value, dict) else ((key, value),)
        of_folders = key in ("models", "base") and all(
            isinstance(one, dict) and set(one) <= {"path"} for _, one in entries
        )
        if key not in SIZES_OF_MERGES and not of_folders:
            may = f"{', '.join(SIZES_OF_MERGES)}, and `path` of base and models"
            raise StudyError(source.place((*path, key)), f"of a merge the small study may change {may}")


def _replace(source: Source, old: KeyPath, new: KeyPath, content: Any) -> None:
    *outer, last = new
    target: Any = source.values
    for part in outer:
        target = target[part]
    for path in [path for path in source.lines if path[: len(new)] == new]:
        del source.lines[path]
    target[last] = content
    _carry_lines(source, old, new, content)


def _lay_over(source: Source, old: KeyPath, new: KeyPath, content: dict[str, Any]) -> None:
    target: Any = source.values
    for part in new:
        if target.get(part) is None:
            target[part] = {}
        target = target[part]
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict | None):
            _lay_over(source, (*old, key), (*new, key), value)
        else:
            _replace(source, (*old, key), (*new, key), value)


def _carry_lines(source: Source, old: KeyPath, new: KeyPath, content: Any) -> None:
    source.lines[new] = source.line_of(old)
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        _carry_lines(source, (*old, key), (*new, key), value)


def other_form(name: str, results: Path, *, small: bool) -> str | None:
    """What to tell where nothing of the study `name` has begun in `results`, but something of its other form has.

    `small`: whether `name` is that of the small form.
    """
    other = name.removesuffix(SUFFIX) if small else name + SUFFIX
    if not _has_begun(StudyDir(results / other)) or _has_begun(StudyDir(results / name)):
        return None  # the other one first: mostly there is none, and no job of this one need be looked at
    had, cure = ("whole", "leave --tiny out") if small else ("small", "add --tiny")
    return f"note: nothing of {name} has run in {results}, but its {had} form has: {cure} to see that"


def _has_begun(study: StudyDir) -> bool:
    return any(study.job(folder.name).progress_json.is_file() for folder in entries(study.jobs))
