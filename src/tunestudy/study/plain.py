"""What pydantic found wrong, in the words of someone who has never heard of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tunestudy.study.nearest import did_you_mean
from tunestudy.study.source import KeyPath

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping of keys",
    "tuple": "a list",
    "list": "a list",
    "model": "a mapping of keys",
    "none": "null",
}
_LIMITS = {
    "greater_than": ("must be greater than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
}


def mistakes(error: ValidationError, given: Any) -> list[tuple[KeyPath, str]]:
    """Each mistake as (path inside `given`, message); the branches of a union are told as one."""
    wanted: dict[KeyPath, list[str]] = {}
    told: dict[KeyPath, str] = {}
    for detail in error.errors(include_url=False):
        path = _real_path(detail["loc"], given, missing=detail["type"] == "missing")
        kind = _wanted(detail)
        if kind:
            kinds = wanted.setdefault(path, [])
            kinds += [kind] if kind not in kinds else []
        elif detail["type"] != "too_short" or _is_short(detail, _value_at(given, path)):
            told.setdefault(path, _message(detail, path, given))
    for path, kinds in wanted.items():
        value = _value_at(given, path)
        quotes = ": put it in quotes" if kinds == ["text"] and isinstance(value, int | float) else ""
        told.setdefault(path, f"must be {' or '.join(kinds)}, got {shown(value)}{quotes}")
    return list(told.items())


def _is_short(detail: Any, value: Any) -> bool:
    """Not so for a list of enough entries that are wrong, which are told by themselves."""
    return not isinstance(value, list) or len(value) < detail["ctx"]["min_length"]


def shown(value: Any) -> str:
    """A value as the user wrote it, with its kind."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '…'}'"
    return "a mapping of keys" if isinstance(value, Mapping) else "a list"


def _wanted(detail: Any) -> str | None:
    """What the value should have been, where the mistake is its type or that it is none of some words."""
    kind: str = detail["type"]
    if kind == "literal_error":
        expected = detail["ctx"]["expected"].replace("'", "")
        words = [word.strip() for word in expected.replace(" or ", ", ").split(",")]
        if len(words) == 1:
            return f"`{words[0]}`"
        hint = f"; {did_you_mean(detail['input'], words)}" if isinstance(detail["input"], str) else ""
        return f"one of {', '.join(words)}" + (hint if "mean" in hint else "")
    if kind == "model_attributes_type":
        return _WANTED["dict"]
    if kind in ("int_from_float", "int_parsing"):
        return _WANTED["int"]
    stem = kind.removesuffix("_type").removesuffix("_parsing")
    return _WANTED.get(stem) if kind != stem else None


def _message(detail: Any, path: KeyPath, given: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return f"`{path[-1]}` is missing"
    value = shown(_value_at(given, path))
    if kind == "value_error":
        return str(context["error"])
    if kind in _LIMITS:
        text, key = _LIMITS[kind]
        return f"{text.format(f'{context[key]:g}')}, got {value}"
    if kind in ("too_short", "string_too_short"):
        least = context.get("min_length", 1)
        return "must not be empty" if least == 1 else f"needs {least} entries at least"
    if kind == "string_pattern_mismatch":
        return f"may hold letters, digits, `.`, `_` and `-`, and begins with a letter or digit; got {value}"
    if kind == "finite_number":
        return f"must be a finite number, got {value}"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"there is no type `{context['tag']}`; {did_you_mean(str(context['tag']), tags)}"
    if kind == "union_tag_not_found":
        return "needs a `type:`"
    if kind == "extra_forbidden":
        return "this key is not known here"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}; got {value}"


def _real_path(location: Sequence[Any], given: Any, *, missing: bool) -> KeyPath:
    """`location` without the names of union branches that pydantic puts in."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(given, Mapping) and (part in given or (last and missing)):
            given = given.get(part)
        elif isinstance(given, list | tuple) and isinstance(part, int) and part < len(given):
            given = given[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _value_at(given: Any, path: KeyPath) -> Any:
    for part in path:
        given = given[part]
    return given
