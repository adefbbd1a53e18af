"""The study file reference, written from what `tunestudy schema` says and what the settings classes add to it.

The book shows it as a page; `python tools/reference.py` prints it. Nothing in it is written by hand: descriptions are
the docstrings below fields, types and bounds those of the schema, other trainers' spellings those of the table that
translates them.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from tunestudy.config.base import Config
from tunestudy.config.merge import MergeStage
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import ReportSettings, Study, Variant
from tunestudy.study.aliases import ALIASES
from tunestudy.study.schema import study_schema
from tunestudy.study.surface import HOME

Schema = dict[str, Any]

HEAD = """# Study file reference

Every section and key of a study file, made from the schema that `tunestudy schema` prints as JSON for editors. A key
that is not here is an error with file, line and the nearest key.

**Result**: whether the key can change one. `yes`: it is part of a job's (or score's) fingerprint, so that another value
makes another job; `once set`: only where it is given; `no`: it may be changed at any time, and nothing is done again.

"""
COLUMNS = "| Key | Type | Default | Result | |\n|---|---|---|---|---|\n"
WRITTEN = {"StageSettings": TrainStage, "MergeSettings": MergeStage}
"""Definitions of the schema that differ from their class in what a file may leave out."""
LONGEST_TITLE = 60
OUTSIDE = {Study: "", Variant: "", ReportSettings: "the report"}
"""Classes whose fields are in no fingerprint themselves, unless they are neutral: what to say instead."""


def reference() -> str:
    """The page as markdown."""
    return HEAD + "\n".join(Pages().sections()) + "\n" + _spellings()


class Pages:
    """Sections in the order of the file, each class once, what several share by itself."""

    def __init__(self) -> None:
        self._schema = study_schema()
        self._defs: Schema = self._schema["$defs"]
        self._classes = {one.__name__: one for one in _family(Config)}
        self._heirs: dict[type[Config], set[str]] = {}
        for name in self._defs:
            for owner in self._owners(name):
                self._heirs.setdefault(owner, set()).add(name)
        self._seen: set[str] = set()

    def sections(self) -> Iterator[str]:
        properties = _stages_first(self._schema["properties"])
        yield "## The file { #file }\n"
        yield COLUMNS + "".join(self._row("file", Study, key, one, self._schema) for key, one in properties.items())
        for key, one in properties.items():
            if key in ("defaults", "tiny") or not (found := list(_refs(one, ""))):
                continue
            yield f"## `{key}` {{ #{key} }}\n"
            yield f"{one.get('description', '')}\n"
            for name, below in found:
                yield from self._section(name, f"{key}{below}")

    def _section(self, name: str, place: str) -> Iterator[str]:
        if name in self._seen or name.endswith("Override"):
            return
        self._seen.add(name)
        schema = self._defs[name]
        config = self._class(name)
        told = [key for key in ("type", "by") if _const(schema, key)]
        kind = "".join(f" · {key}: {schema['properties'][key]['const']}" for key in told)
        if kind or "." in place:
            yield f"### `{place}`{kind} {{ #{_anchor(name)} }}\n"
        else:  # its heading is that of the key
            yield f'<span id="{_anchor(name)}"></span>\n' if _anchor(name) != place else ""
        yield _paragraph(config) if config else f"{schema.get('description', '')}\n"
        groups = self._groups(name)
        shared = [owner for owner in groups if owner is not None and self._stands_alone(owner, name)]
        for owner, keys in groups.items():
            if owner in shared:
                continue
            if owner is not None and owner is not config:
                yield f"#### {_title(owner)} {{ #{_anchor(owner.__name__)} }}\n"
                yield _paragraph(owner, below_title=True)
            rows = (self._row(_anchor(name), config, key, schema["properties"][key], schema) for key in keys)
            yield COLUMNS + "".join(rows)
        if shared:
            links = ", ".join(f"[{_title(owner)}](#{_anchor(owner.__name__)})" for owner in shared)
            yield f"And: {links}.\n"
        for owner in shared:
            yield from self._shared(owner, name)
        for key, one in schema["properties"].items():
            for inner, below in _refs(one, ""):
                yield from self._section(inner, f"{place}.{key}{below}")

    def _shared(self, owner: type[Config], heir: str) -> Iterator[str]:
        """A table that several sections refer to, where the first of them ends."""
        if owner.__name__ in self._seen:
            return
        self._seen.add(owner.__name__)
        properties = self._defs[heir]["properties"]
        yield f"### {_title(owner)} {{ #{_anchor(owner.__name__)} }}\n"
        yield _paragraph(owner, below_title=True)
        keys = [key for key in self._groups(heir)[owner] if key in properties]
        yield COLUMNS + "".join(
            self._row(_anchor(owner.__name__), owner, key, properties[key], self._defs[heir]) for key in keys
        )

    def _groups(self, name: str) -> dict[type[Config] | None, list[str]]:
        """A definition's keys by the class that says them, its own first; None for those of the written form alone."""
        config = self._class(name)
        found: dict[type[Config] | None, list[str]] = {owner: [] for owner in self._owners(name)}
        for key in self._defs[name]["properties"]:
            found.setdefault(_owner(config, key), []).append(key)
        return {owner: keys for owner, keys in found.items() if keys}

    def _owners(self, name: str) -> list[type[Config]]:
        config, keys = self._class(name), self._defs[name].get("properties", ())
        family = [one for one in config.__mro__ if issubclass(one, Config) and one is not Config] if config else []
        return [one for one in family if any(key in inspect.get_annotations(one) for key in keys)]

    def _stands_alone(self, owner: type[Config], name: str) -> bool:
        """Whether sections of several definitions have its keys; the one it is itself a section of is not another."""
        heirs = {heir for heir in self._heirs[owner] if not heir.endswith("Override")}
        return owner is not self._class(name) and len(heirs) > 1

    def _class(self, name: str) -> type[Config] | None:
        return WRITTEN.get(name) or self._classes.get(name)

    def _row(self, prefix: str, config: type[Config] | None, key: str, one: Schema, whole: Schema) -> str:
        anchor = key if prefix == "file" else f"{prefix}.{key}"
        field = config.model_fields.get(key) if config else None
        required = key in whole.get("required", ()) or (field is not None and field.is_required())
        default = "**required**" if required else _value(one.get("default", field.default if field else ""))
        text = _in_cell(one.get("description", ""))
        cells = (_type(one), default, _matters(config, key, one), text)
        place = f'<span id="{prefix}-{key}"></span>' if prefix == "file" else f'<span id="{anchor}"></span>'
        return f"| {place}`{key}` | " + " | ".join(cells) + " |\n"


def _matters(config: type[Config] | None, key: str, one: Schema) -> str:
    field = config.model_fields.get(key) if config else None
    extra = field.json_schema_extra if field else None
    said = extra.get("fingerprint") if isinstance(extra, dict) else None
    if said is False:
        return "no"
    if config is None or field is None or (config is Study and any(_refs(one, ""))):
        return "by what it holds" if any(_refs(one, "")) else ""
    if config in OUTSIDE and key != "seeds":
        return OUTSIDE[config]
    return "once set" if said else "yes"


def _type(one: Schema) -> str:
    """A schema in words: `whole number ≥ 1`, `one of a, b`, `list of …`, links to sections."""
    if ref := one.get("$ref"):
        name = ref.rpartition("/")[2]
        return f"[{_plain(name)}](#{_anchor(name)})"
    if parts := one.get("anyOf") or one.get("oneOf"):
        words = dict.fromkeys(_type(part) for part in parts if part.get("type") != "null")
        nothing = [] if len(words) == len(parts) or all(part.get("type") != "null" for part in parts) else ["null"]
        return " or ".join([*words, *nothing])
    if "const" in one:
        return f"`{one['const']}`" if one["const"] else "left out"
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"])
    return _plain_type(one)


def _plain_type(one: Schema) -> str:
    kind = one.get("type")
    if kind == "array":
        items = one.get("prefixItems")
        many = _type(one.get("items", {}))
        for word in ("whole number", "number"):
            many = f"{word}s{many.removeprefix(word)}" if many.startswith(word) else many
        return f"{len(items)} × {_type(items[0])}" if items else f"list of {many}"
    if kind == "object":
        inner = one.get("additionalProperties")
        return f"name → {_type(inner)}" if isinstance(inner, dict) else "mapping"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    told = ", ".join(f"{sign} {one[bound]:g}" for bound, sign in bounds.items() if bound in one)
    word = words.get(str(kind), "any value") if isinstance(kind, str) else "any value"
    return f"{word} {told}".strip()


def _value(value: Any) -> str:
    if repr(value) == "PydanticUndefined" or isinstance(value, Config):
        return ""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value in ("", (), [], {}) and not isinstance(value, int | float):
        return "none"
    if isinstance(value, dict):
        return "as there"
    return f"`{value!r}`" if value != str(value).strip() and isinstance(value, str) else f"`{_number(value)}`"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


def _refs(one: Any, below: str) -> Iterator[tuple[str, str]]:
    """Definitions that a schema names, and where under the key they stand: `.<name>`, `[]`."""
    if isinstance(one, dict):
        if ref := one.get("$ref"):
            yield ref.rpartition("/")[2], below
        for key, inner in one.items():
            step = {"additionalProperties": ".<name>", "items": "[]"}.get(key, "")
            if key not in ("properties", "default", "discriminator"):
                yield from _refs(inner, below + step)
    for inner in one if isinstance(one, list) else ():
        yield from _refs(inner, below)


def _spellings() -> str:
    """Other trainers' keys: what each stands for, or what to do instead."""
    rows, refused = [], []
    for level, table in ALIASES.items():
        for alias, convert in table.items():
            ours, why = _meaning(convert)
            if ours is None:
                refused.append(f"| `{alias}` | {HOME[level]} | {why} |\n")
            else:
                told = ", ".join(f"`{key}`" for key in ours) or "nothing: it is the only way"
                rows.append(f"| `{alias}` | {HOME[level]} | {told} |\n")
    return (
        "## Other trainers' spellings { #spellings }\n\n"
        "Keys of LLaMA-Factory, ms-swift, axolotl, mergekit and older Hugging Face releases that are understood, each "
        "with a printed line.\n\n| Theirs | Where | Ours |\n|---|---|---|\n" + "".join(rows) + "\n"
        "Known, and refused with what to do instead:\n\n| Theirs | Where | |\n|---|---|---|\n" + "".join(refused)
    )


PROBES = (True, False, 4, 0.1, [1.0], "epoch", "steps", "no", "all", "full", "lora", "bf16", "bnb", "union", "ties")
"""Values of which every conversion that takes any takes one."""


def _meaning(convert: Any) -> tuple[list[str] | None, str]:
    """The keys that a conversion gives, or None and why it takes no value."""
    found: dict[str, None] = {}
    refusals = []
    for probe in PROBES:
        try:
            found |= dict.fromkeys(convert(probe))
        except (ValueError, TypeError) as error:
            refusals.append(str(error))
    return (None, refusals[0]) if len(refusals) == len(PROBES) else (list(found), "")


def _stages_first(properties: Schema) -> Schema:
    """Top-level keys with stages before the variants that are made of them."""
    keys = [key for key in properties if key not in ("defaults", "stages")]
    keys[keys.index("variants") : keys.index("variants")] = ["defaults", "stages"]
    return {key: properties[key] for key in keys}


def _family(config: type[Config]) -> Iterator[type[Config]]:
    yield config
    for one in config.__subclasses__():
        yield from _family(one)


def _owner(config: type[Config] | None, key: str) -> type[Config] | None:
    """The class nearest to `config` that says the key."""
    family = config.__mro__ if config else ()
    return next((one for one in family if key in inspect.get_annotations(one)), None)


def _const(schema: Schema, key: str) -> bool:
    return "const" in schema.get("properties", {}).get(key, {})


def _title(config: type[Config]) -> str:
    """The head of a docstring's first sentence, short enough for a heading."""
    said = (config.__doc__ or _plain(config.__name__)).strip().partition("\n\n")[0].replace("\n", " ").rstrip(".")
    for mark in (": ", ", "):
        said = said.partition(mark)[0] if len(said) > LONGEST_TITLE else said
    return said


def _paragraph(config: type[Config], *, below_title: bool = False) -> str:
    text = inspect.cleandoc(config.__doc__ or "")
    said, _, rest = text.partition("\n\n")
    return (rest if below_title and said.rstrip(".") == _title(config) else text) + "\n"


def _plain(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def _anchor(name: str) -> str:
    return _plain(name).replace(" ", "-")


def _in_cell(text: str) -> str:
    """A description inside a table's cell."""
    return "<br>".join(" ".join(part.split()) for part in text.split("\n\n")).replace("|", "\\|")


if __name__ == "__main__":
    print(reference())
