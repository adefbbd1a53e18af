"""Spellings of mergekit, PEFT and papers' scripts for what a merging stage says, each accepted with a printed line.

What a value has to be known for by itself is in the tables; what concerns several models (one density for all of them,
`lambda_en`, a list of weights) is spread over their entries.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import MergeInput
from tunestudy.study.source import KeyPath, Source

Convert = Callable[[Any], dict[str, Any]]
"""A foreign value → our keys (dotted inside the stage) and values. ValueError says why it has no counterpart."""

_DROP_RATES = ("drop_rate", "dare_drop_rate", "drop")
_FOR_ALL = {"density": "density", "densities": "density", **dict.fromkeys(_DROP_RATES, "density"), "weights": "weight"}
"""Keys beside `models:` that say something of each model."""
_FOR_ONE = {"lambda_": "weight", "weight_": "weight", "density_": "density"}
"""Keys that begin thus end with a model's name."""


def for_each_model(source: Source, path: KeyPath, stage: dict[str, Any]) -> list[str]:
    """Give what stands beside `models:` to their entries, in place; one printable line for each key."""
    models = stage.get("models")
    if not isinstance(models, dict):
        return []
    told = []
    for key in list(stage):
        given = dict(_of_models(source, path, key, stage[key], list(map(str, models))))
        if not given:
            continue
        ours = next(iter(given.values()))[0]
        for name, (option, value) in given.items():
            _put(source, path, models, name, option, value, key)
        written = stage.pop(key)
        shown = ", ".join(f"{name}: {value:g}" for name, (_, value) in given.items())
        told.append(f"{source.place((*path, key))}: {written} → {ours} of {shown}")
    return told


def _of_models(
    source: Source, path: KeyPath, key: str, value: Any, names: list[str]
) -> Iterator[tuple[str, tuple[str, float]]]:
    """Model → option and value, as far as the key is one of these."""
    begin = next((one for one in _FOR_ONE if key.startswith(one) and key.removeprefix(one) in names), None)
    if begin is not None:
        yield key.removeprefix(begin), (_FOR_ONE[begin], _number(source, (*path, key), value))
        return
    if key not in _FOR_ALL:
        return
    if isinstance(value, list):
        if len(value) != len(names):
            message = f"are {len(value)} numbers for {len(names)} models; say it in each entry of `models:`"
            raise StudyError(source.place((*path, key)), message)
        value = dict(zip(names, value, strict=True))
    by_name = value if isinstance(value, dict) and key != "density" else dict.fromkeys(names, value)
    if unknown := [name for name in by_name if name not in names]:
        message = f"there is no model `{unknown[0]}` here; `models:` has {', '.join(names)}"
        raise StudyError(source.place((*path, key, unknown[0])), message)
    for name, one in by_name.items():
        number = _number(source, (*path, key), one)
        yield name, (_FOR_ALL[key], _kept(number) if key in _DROP_RATES else number)


def _put(
    source: Source, path: KeyPath, models: dict[str, Any], name: str, option: str, value: float, written: str
) -> None:
    entry = models[name]
    entry = models[name] = {"stage": entry} if isinstance(entry, str) else entry
    here = (*path, "models", name, option)
    if not isinstance(entry, dict):
        return  # told by validation
    if option in entry and entry[option] != value:
        line = source.line_of(here)
        message = f"means `{option}` of `{name}`, which line {line} sets to {entry[option]}; keep one of the two"
        raise StudyError(source.place((*path, written)), message)
    entry[option] = value
    source.moved((*path, written), here)


def _number(source: Source, path: KeyPath, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StudyError(source.place(path), f"must be a number, got {value}")
    return value


def _kept(rate: float) -> float:
    """The density that a drop rate leaves, as one would write it: 0.1 of 0.9."""
    return round(1 - rate, 12)


def _drop_rate(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"must be a share of at least 0 and below 1, got {value}")
    return {"density": _kept(value)}


def _combination(value: Any) -> dict[str, Any]:
    """PEFT's `combination_type`; it always makes an adapter of adapters."""
    known = ("linear", "ties", "dare_linear", "dare_ties")
    if value in known:
        return {"method": value, "into": "adapter", "compat": "peft"}
    if isinstance(value, str) and value.removesuffix("_svd") in known:
        raise ValueError(f"is `method: {value.removesuffix('_svd')}` with `into: adapter` here")
    if value == "cat":
        raise ValueError(
            "is `method: task_arithmetic` with `into: adapter` here: the sum of weighted adapters, exactly"
        )
    raise ValueError(f"is PEFT's {value}, which is not among the methods here: {', '.join(known)}")


def _tokens(value: Any) -> dict[str, Any]:
    if value not in ("base", "union"):
        raise ValueError(f"must be base or union, got {value}")
    return {"vocabulary": value}


def elsewhere(cure: str) -> Convert:
    """Of a key that is said another way here."""

    def convert(_value: Any) -> dict[str, Any]:
        raise ValueError(cure)

    return convert


def rename(key: str) -> Convert:
    """Of a key that is only called otherwise."""
    return lambda value: {key: value}


_PARAMETERS = elsewhere("its keys stand by themselves here: weight and density in each model, the others in the stage")

MERGE: dict[str, Convert] = {
    "merge_method": rename("method"),
    "combination_type": _combination,
    "lambda": rename("scale"),
    "out_dtype": rename("dtype"),
    "svd_rank": rename("result_rank"),
    "tokenizer_source": _tokens,
    "base_model": elsewhere("is `base:` here: an earlier stage's name, `model`, or {path: FOLDER}"),
    "parameters": _PARAMETERS,
    "slices": elsewhere("layers of several models one after the other are no merge; this one merges whole models"),
    "seed": elsewhere("is set for the whole study: `seeds: [1, 2, 3]` at the top of the file"),
    "output_dir": elsewhere("is not part of a study: results go to `--results DIR`"),
}
"""Of a merging stage."""

MERGE_INPUT: dict[str, Convert] = {
    **dict.fromkeys(("lambda", "coefficient", "scaling_coefficient"), rename("weight")),
    **dict.fromkeys(_DROP_RATES, _drop_rate),
    "model": rename("path"),
    "adapter": rename("path"),
    "parameters": _PARAMETERS,
}
"""Of one of its models."""

assert not MERGE_INPUT.keys() & MergeInput.model_fields.keys()
