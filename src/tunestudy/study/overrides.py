"""`key.path=value` of the command line, and dotted keys inside a variant's `overrides:`."""

from collections.abc import Sequence
from typing import Any

from tunestudy.config.errors import StudyError, at
from tunestudy.records.redact import find_tokens
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.source import KeyPath, Source, dotted, parse_value


def apply_overrides(source: Source, overrides: Sequence[str]) -> None:
    """Set each `key.path=value` in `source.values`; checks of the value come later, with all others.

    Raises StudyError for an override without `=`, with a token in it, or one that walks through something that is
    no mapping.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        where = at(key.strip(), file="command line")
        if find_tokens(text, key=key):
            raise StudyError(where, "this looks like an access token; give it through the environment, e.g. HF_TOKEN")
        if not equals or not key.strip():
            raise StudyError(where, f"an override is written key.path=value, e.g. seeds=[1,2]; got `{override}`")
        _assign(source, key.strip(), parse_value(text, where))


def expand_dotted(source: Source) -> None:
    """`overrides: {adapt.adapter.lora_r: 4}` → `overrides: {adapt: {adapter: {lora_r: 4}}}`, in place."""
    small = source.values.get("tiny")
    _expand(source, source.values.get("variants"), ("variants",))
    _expand(source, small.get("variants") if isinstance(small, dict) else None, ("tiny", "variants"))


def _expand(source: Source, variants: Any, path: KeyPath) -> None:
    for name, variant in variants.items() if isinstance(variants, dict) else ():
        overrides = variant.get("overrides") if isinstance(variant, dict) else None
        if isinstance(overrides, dict):
            variant["overrides"] = _nested(source, overrides, (*path, name, "overrides"), depth=2)


def _nested(source: Source, mapping: dict[str, Any], path: KeyPath, depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        written = (*path, key)
        target, here = result, path
        *outer, last = key.split(".") if isinstance(key, str) else [key]
        for part in outer:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                raise StudyError(source.place(written), f"`{dotted((*here, part))}` is set to a value above it")
            target, here = inner, (*here, part)
            source.moved(written, here)
        if isinstance(value, dict) and depth:
            value = _nested(source, value, written, depth - 1)
        if isinstance(value, dict) and isinstance(target.get(last), dict):
            target[last].update(value)
        elif last in target:
            raise StudyError(source.place(written), "set twice, once dotted and once nested; keep one of the two")
        else:
            target[last] = value
        _move_below(source, written, (*here, last), value)
    return result


def _move_below(source: Source, old: KeyPath, new: KeyPath, value: Any) -> None:
    if old == new:
        return
    source.moved(old, new)
    for key, inner in value.items() if isinstance(value, dict) else ():
        _move_below(source, (*old, key), (*new, key), inner)


def _assign(source: Source, key: str, value: Any) -> None:
    target: Any = source.values
    path: KeyPath = ()
    rest = key.split(".")
    while True:
        step, rest = _next_step(target, path, rest)
        if not rest:
            break
        if isinstance(target, dict) and target.get(step) is None:
            target[step] = {}
        target, path = target[step], (*path, step)
    path = (*path, step)
    target[step] = value
    source.given.add(path)


def _next_step(target: Any, path: KeyPath, rest: list[str]) -> tuple[Any, list[str]]:
    """The key or index that `rest` begins with; names with dots in them win over nested keys."""
    where = at(dotted((*path, *rest)), file="command line")
    if isinstance(target, list):
        if not rest[0].isdigit() or int(rest[0]) >= len(target):
            raise StudyError(
                where, f"`{dotted(path)}` is a list of {len(target)}; its items are 0 to {len(target) - 1}"
            )
        return int(rest[0]), rest[1:]
    if not isinstance(target, dict):
        raise StudyError(where, f"`{dotted(path)}` is {target!r}, which has no keys")
    for length in range(len(rest), 0, -1):
        if ".".join(rest[:length]) in target:
            return ".".join(rest[:length]), rest[length:]
    if path in NAMED and target:
        raise StudyError(where, f"`{dotted(path)}` has no `{rest[0]}`; {did_you_mean(rest[0], target)}")
    return rest[0], rest[1:]


NAMED: frozenset[KeyPath] = frozenset({("stages",), ("variants",), ("datasets",), ("benchmarks",)})
"""Mappings whose keys the user chose: an override addresses one that is there."""
