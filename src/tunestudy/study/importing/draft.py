"""The study file that is being made: settings by path, each with where it came from, and its text with comments."""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.data import FileDataset
from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import Quantization, TrainStage
from tunestudy.study.importing.rules import Entry
from tunestudy.study.source import resolve_scalar

STAGE = "tune"
"""Name of the one stage."""

_DEFAULTS = {
    "stage": TrainStage,
    "adapter": LoraAdapter,
    "quantization": Quantization,
    "model": ModelConfig,
    "dataset": FileDataset,
}


class ConflictError(Exception):
    """Two keys of the other program want different things; holds the key that was first."""


@dataclass
class Setting:
    """A value and the keys that it came from, as a comment has them."""

    value: Any
    origins: list[str]


@dataclass
class Draft:
    """What the study will say."""

    name: str
    header: list[str]
    settings: dict[str, Setting] = field(default_factory=dict)
    data: list[tuple[Entry, str]] = field(default_factory=list)
    """Trained on, each with its origin."""
    eval_data: list[tuple[Entry, str]] = field(default_factory=list)

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set a path. Raises ConflictError where another key has set it to something else."""
        there = self.settings.get(path)
        if there is None:
            self.settings[path] = Setting(value, [origin])
        elif there.value != value:
            raise ConflictError(f"{there.origins[0]} sets {shown_path(path)} to {shown(there.value)}")
        elif origin not in there.origins:
            there.origins.append(origin)

    def take(self, key: str) -> list[str] | None:
        """Remove what stands at a key of the finished file, or around it; its origins, None where nothing does."""
        path = self._path_at(key)
        return None if path is None else self.settings.pop(path).origins

    def origin_of(self, key: str) -> str:
        """The first origin of what stands at a key of the finished file, or around it; empty where nothing does."""
        path = self._path_at(key)
        return "" if path is None else next(iter(self.settings[path].origins), "")

    def _path_at(self, key: str) -> str | None:
        if key.startswith("datasets."):
            key = f"datasets.*.{key.split('.', 2)[2]}" if key.count(".") > 1 else key
        at_key = (path for path in self.settings if f"{key}.".startswith(f"{shown_path(path)}."))
        return max(at_key, key=len, default=None)

    @property
    def variant(self) -> str:
        """The row's name: the kind of adapter, `q…` on a base in few bits, or `full`."""
        kind = self.settings.get("adapter.type")
        if kind is None:
            return "full"
        return f"{'q' if self._section('quantization') else ''}{kind.value}"

    def text(self) -> str:
        """The file."""
        lines = [f"# {line}".rstrip() for line in self.header]
        lines += ["", *self._lines("study", {"study": Setting(self.name, [])}, ""), *self._lines("study", {}, "")]
        lines += ["", "model:", *self._lines("model", {}, "  "), "", "datasets:"]
        for entry, origin in [*self.data, *self.eval_data]:
            lines += [f"  {entry.name}:" + _comment([origin]), *self._of_entry(entry)]
        lines += ["", "stages:", f"  {STAGE}:", *self._of_data("data", self.data)]
        lines += self._of_data("eval_data", self.eval_data) + self._lines("stage", {}, "    ")
        for section in ("adapter", "quantization"):
            if self._section(section):
                lines += [f"    {section}:", *self._lines(section, {}, "      ")]
        lines += ["", "variants:               # rows of the final table; add others beside it", f"  {self.variant}:"]
        lines += [f"    stages: [{STAGE}]"]
        for section in ("resources", "env"):
            if self._section(section):
                lines += ["", f"{section}:", *self._lines(section, {}, "  ")]
        return _aligned(lines)

    def _section(self, section: str) -> dict[str, Setting]:
        start = f"{section}."
        found = {path.removeprefix(start): one for path, one in self.settings.items() if path.startswith(start)}
        return found if section == "env" else _nested(found)

    def _lines(self, section: str, first: dict[str, Setting], indent: str) -> list[str]:
        rows = first or self._section(section)
        return [f"{indent}{key}: {shown(one.value)}{_comment(one.origins)}" for key, one in rows.items()]

    def _of_entry(self, entry: Entry) -> list[str]:
        """A data set's own settings, then those that the configuration gives to all."""
        trained = any(entry is one for one, _ in self.data)
        common = {key: one for key, one in self._section("dataset").items() if trained or key != "held_out"}
        rows = {key: Setting(value, []) for key, value in entry.values.items()}
        rows |= {key: one for key, one in common.items() if key not in rows}
        return self._lines("", rows, "    ")

    def _of_data(self, key: str, entries: list[tuple[Entry, str]]) -> list[str]:
        if not entries:
            return []
        if any(entry.weight is not None for entry, _ in entries):
            parts = [{"dataset": entry.name, "weight": entry.weight} for entry, _ in entries]
            return [f"    {key}: {shown([{k: v for k, v in part.items() if v is not None} for part in parts])}"]
        return [f"    {key}: {shown([entry.name for entry, _ in entries])}"]


def is_default(path: str, value: Any) -> bool:
    """Whether a study that does not say it means the same."""
    if path == "adapter.type":
        return False  # it says that there is an adapter
    section, _, key = path.partition(".")
    fields = getattr(_DEFAULTS.get(section), "model_fields", {})
    return key in fields and not fields[key].is_required() and bool(fields[key].get_default() == value)


def shown_path(path: str) -> str:
    """A path as a key of the study file."""
    section, _, rest = path.partition(".")
    start = {"study": "", "stage": f"stages.{STAGE}.", "dataset": "datasets.*."}
    return (
        start.get(section, f"stages.{STAGE}.{section}." if section in ("adapter", "quantization") else f"{section}.")
        + rest
    )


def shown(value: Any) -> str:
    """A value as YAML reads it back."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{shown(str(key))}: {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, str):
        is_plain = re.fullmatch(r"[A-Za-z_./][\w./@+-]*", value) and resolve_scalar(value) == value
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value).replace("inf", ".inf").replace("nan", ".nan")  # `nan` would be read back as text
    return repr(value)


def _nested(flat: dict[str, Setting]) -> dict[str, Setting]:
    """`{a.b: 1, a.c: 2}` → `{a: {b: 1, c: 2}}`."""
    made: dict[str, Setting] = {}
    for path, one in flat.items():
        outer, _, inner = path.partition(".")
        if not inner:
            made[outer] = one
            continue
        there = made.setdefault(outer, Setting({}, []))
        there.value = {**there.value, inner: one.value}
        there.origins = [*there.origins, *(origin for origin in one.origins if origin not in there.origins)]
    return made


def _comment(origins: list[str]) -> str:
    return f"  # {'; '.join(origins)}" if origins and origins != [""] else ""


_COLUMN = 44


def _aligned(lines: list[str]) -> str:
    """Comments at one column where lines are short enough."""
    made = []
    for line in lines:
        body, mark, comment = line.partition("  # ")
        made.append(f"{body.ljust(_COLUMN)}  # {comment}" if mark and body.strip() else line)
    return "\n".join(made) + "\n"
