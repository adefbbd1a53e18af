"""`matrix:` expansion: one written variant becomes one per combination of its values."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.study.source import KeyPath, Source

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


def expand_matrices(source: Source) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every variant by its final name → (the name it is written under, its mapping without `matrix`).

    `{r}` in the name, in keys and in texts is replaced; a text that is nothing but `{r}` becomes the value itself, with
    its type.

    Raises StudyError for a matrix that is no mapping of lists, a placeholder without a list, a list without a
    placeholder in the name, and two variants of one name.
    """
    expanded: dict[str, tuple[str, dict[str, Any]]] = {}
    for written, variant in source.values["variants"].items():
        for name, settings in _expand(source, written, variant):
            if name in expanded:
                other = expanded[name][0]
                raise StudyError(
                    source.place(("variants", written)),
                    f"gives a variant `{name}`, as line {source.line_of(('variants', other))} does",
                )
            expanded[name] = (written, settings)
    return expanded


def _expand(source: Source, written: str, variant: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    path: KeyPath = ("variants", written)
    settings = {key: value for key, value in variant.items() if key not in ("matrix", "exclude")}
    if "matrix" not in variant:
        if "exclude" in variant:
            raise StudyError(
                source.place((*path, "exclude")), "takes combinations out of a `matrix:`, and there is none"
            )
        _check_placeholders(source, path, settings, known=set(), name=written)
        yield written, settings
        return
    axes = _axes(source, path, variant["matrix"])
    _check_placeholders(source, path, settings, known=set(axes), name=written)
    excluded = _excluded(source, path, variant.get("exclude", []), axes)
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        if not any(all(chosen[key] == value for key, value in rule.items()) for rule in excluded):
            yield _text(written, chosen), substitute(settings, chosen)


def substitute(value: Any, chosen: dict[str, Any]) -> Any:
    """A copy of `value` with every placeholder replaced."""
    if isinstance(value, str):
        if "{" not in value:
            return value
        whole = _PLACEHOLDER.fullmatch(value)
        return chosen.get(whole[1], value) if whole else _text(value, chosen)
    if isinstance(value, dict):
        return {_text(key, chosen) if "{" in key else key: substitute(inner, chosen) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(item, chosen) for item in value]
    return value


def _text(template: str, chosen: dict[str, Any]) -> str:
    return _PLACEHOLDER.sub(lambda match: _written(chosen[match[1]]) if match[1] in chosen else match[0], template)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _axes(source: Source, path: KeyPath, matrix: Any) -> dict[str, list[Any]]:
    here = (*path, "matrix")
    if not isinstance(matrix, dict) or not matrix:
        raise StudyError(source.place(here), "must map names to lists of values, e.g. `matrix: {r: [4, 16]}`")
    for name, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise StudyError(source.place((*here, name)), f"must be a list of values, e.g. `{name}: [4, 16]`")
        if any(isinstance(value, dict | list) for value in values):
            raise StudyError(source.place((*here, name)), "its values must be single numbers, words or true/false")
        if f"{{{name}}}" not in str(path[-1]):
            raise StudyError(
                source.place((*here, name)), f"the variant's name needs `{{{name}}}`, else all would be called alike"
            )
    return matrix


def _excluded(source: Source, path: KeyPath, rules: Any, axes: dict[str, list[Any]]) -> list[dict[str, Any]]:
    here = (*path, "exclude")
    if not isinstance(rules, list) or not all(isinstance(rule, dict) and rule for rule in rules):
        raise StudyError(source.place(here), "must be a list of combinations, e.g. `exclude: [{r: 4, lr: 1e-3}]`")
    for index, rule in enumerate(rules):
        for name, value in rule.items():
            if name not in axes or value not in axes[name]:
                known = (
                    f"`{name}` takes {', '.join(map(_written, axes[name]))}"
                    if name in axes
                    else f"the matrix has {', '.join(axes)}"
                )
                raise StudyError(source.place((*here, index)), f"`{name}: {_written(value)}` excludes nothing; {known}")
    return rules


def _check_placeholders(source: Source, path: KeyPath, settings: Any, *, known: set[str], name: str) -> None:
    unknown = [word for word in _PLACEHOLDER.findall(name) if word not in known]
    if unknown:
        raise StudyError(source.place(path), f"`{{{unknown[0]}}}` in the name has no list under `matrix:`")
    for here, text in _texts(settings.get("overrides"), (*path, "overrides")):
        whole = _PLACEHOLDER.fullmatch(text)
        if whole and whole[1] not in known:
            raise StudyError(source.place(here), f"`{text}` has no list under `matrix:`")


def _texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))
