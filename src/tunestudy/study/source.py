"""A study file as plain values, with the line of every key.

YAML 1.2 (core schema): `1e-3` is a number; `on` and `yes` are text. Events come from libyaml where PyYAML
brings it (thirty times faster), else from ruamel.yaml, which also has the last word on what libyaml refuses.
"""

import codecs
import gc
import glob
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Place, StudyError, at
from tunestudy.records.redact import find_tokens
from tunestudy.study.nearest import did_you_mean, nearest

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 60
MAX_NODES = 5_000_000
_NO_BREAK = re.compile(r"""[ \t]*(- +)*-?\u00a0|([^"'#\u00a0]|"[^"]*"|'[^']*')*:\u00a0""")
"""A no-break space, which comes with what is copied from web pages, where it makes other YAML of a line: in the
indentation, or right behind a `-` or `:`. Within text it is innocent."""


@dataclass(frozen=True)
class Source:
    """Values of a YAML file and where each stands."""

    path: Path
    text: str
    values: dict[str, Any]
    lines: dict[KeyPath, int] = field(repr=False)

    given: set[KeyPath] = field(default_factory=set, repr=False)
    """Keys that the command line set."""

    def line_of(self, path: KeyPath) -> int:
        """Line (from 1) of a key or item; of the nearest enclosing one when the path is not written out."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def place(self, path: KeyPath) -> Place:
        """File and line of a key, or the command line if that set it."""
        of_it = path not in self.lines and any(key[: len(path)] == path for key in self.given)
        if of_it or any(path[:end] in self.given for end in range(1, len(path) + 1)):
            return at(dotted(path), file="command line")
        return at(dotted(path), file=str(self.path), line=self.line_of(path))

    def moved(self, old: KeyPath, new: KeyPath) -> None:
        """Remember that what is now at `new` was written at `old`."""
        if old in self.given:
            self.given.add(new)
        self.lines.setdefault(new, self.line_of(old))


def dotted(path: KeyPath) -> str:
    """`("data", 0, "weight")` → `data.0.weight`."""
    return ".".join(str(part) for part in path)


def read_source(path: Path) -> Source:
    """Read and parse `path`.

    Raises StudyError for a file that is missing, unreadable, no text, no YAML, no mapping, has a key twice,
    or holds a token.
    """
    text = read_text(path, "study file", endings=(".yaml", ".yml"))
    _refuse_tokens(path, text)
    composer = Composer(path)
    with _without_gc():
        values = composer.document(text)
    if values is None:
        raise StudyError(at("", file=str(path)), "the file is empty; `tunestudy init` writes one to start from")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else "a single value"
        raise StudyError(
            at("", file=str(path), line=1), f"a study is a mapping of keys (study:, model:, …), this is {kind}"
        )
    return Source(path=path, text=text, values=values, lines=composer.lines)


@contextmanager
def _without_gc() -> Iterator[None]:
    """A large file makes a million small objects of which none is garbage; looking for some takes half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def parse_value(text: str, where: Place | str) -> Any:
    """A YAML value given on the command line: `3`, `1e-3`, `[1, 2]`, `{a: b}`, text."""
    try:
        return Composer(Path("command line")).document(text)
    except StudyError as error:
        raise StudyError(where, f"`{text}` is not a YAML value: {error.message}") from error


def _near(path: Path, endings: Collection[str]) -> str:
    """Where a file of that name lies one folder below, or which ones lie beside it."""
    below = sorted(path.parent.glob(f"[!.]*/{glob.escape(path.name)}"))
    if below:
        return f"; did you mean `{below[0]}`?"
    siblings = sorted(entry.name for entry in path.parent.glob("[!.]*") if entry.suffix in endings)
    if close := nearest(path.name, siblings):
        return f"; did you mean `{path.parent / close}`?"
    return f"; {did_you_mean(path.name, siblings)}" if siblings else ""


def read_text(path: Path, what: str, *, endings: Collection[str]) -> str:
    """The text of a file that is to be `what`; StudyError names a near one of these `endings` where there is none."""
    where = at("", file=str(path))
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StudyError(where, f"there is no such file{_near(path, endings)}") from None
    except IsADirectoryError:
        raise StudyError(where, f"this is a folder; give the {what} in it") from None
    except OSError as error:
        raise StudyError(where, f"cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StudyError(where, f"{_NO_TEXT}, so it is no {what}; {_cure_of(data, line)}") from None
    if "\0" in text:
        raise StudyError(where, f"{_NO_TEXT}, so it is no {what}")
    return text


def _cure_of(data: bytes, line: int) -> str:
    """line: of the first byte that is no UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it is in UTF-16: save it as UTF-8"
    return f"its line {line} is the first that is not: save it as UTF-8"


def _refuse_tokens(path: Path, text: str) -> None:
    """Comments count too: the file is copied into the results."""
    if not find_tokens(text):
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if find_tokens(line):
            raise _token_error(at("", file=str(path), line=number))


def _token_error(where: Place) -> StudyError:
    return StudyError(
        where,
        "this looks like an access token; a study file is copied into results, so take it out (and revoke it), "
        "and give it through the environment, e.g. HF_TOKEN",
    )


class Composer:
    """Turns YAML events into dicts, lists and scalars, noting the line of every key and item."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {}
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._nodes = 0

    def document(self, text: str) -> Any:
        """The only document in `text`; None when there is none."""
        events = iter(_events(text, self.path))
        value: Any = None
        documents = 0
        for event in events:
            if type(event).__name__ == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise self._error(event, (), "one file holds one study; a second document starts here")
                value = self._node(next(events), events, ())
        return value

    def _node(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event, path)
        before = self._nodes
        self._count(event, path, 1)
        if kind == "ScalarEvent":
            value = self._scalar(event, path)
        elif kind == "MappingStartEvent":
            value = self._mapping(event, events, path)
        else:
            value = self._sequence(events, path)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._nodes - before)
        return value

    def _mapping(self, start: Any, events: Iterator[Any], path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            if type(event).__name__ != "ScalarEvent":
                raise self._error(event, path, "a key must be a plain word")
            key, line, here = event.value, event.start_mark.line + 1, (*path, event.value)
            if key in values:
                raise self._error(
                    event, here, f"`{key}` stands here a second time; the first is in line {self.lines[here]}"
                )
            self.lines[here] = line
            value = self._node(next(events), events, here)
            if key == "<<" and not event.style:
                merged += self._merged(start, value, path)
            else:
                values[key] = value
        for defaults in merged:
            values = {**defaults, **values}
        return values

    def _merged(self, event: Any, value: Any, path: KeyPath) -> list[dict[str, Any]]:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self._error(event, path, "`<<` merges mappings, e.g. `<<: *defaults`")
        return parts

    def _sequence(self, events: Iterator[Any], path: KeyPath) -> list[Any]:
        values: list[Any] = []
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            here = (*path, len(values))
            self.lines[here] = event.start_mark.line + 1
            values.append(self._node(event, events, here))
        return values

    def _alias(self, event: Any, path: KeyPath) -> Any:
        if event.anchor not in self._anchors:
            raise self._error(event, path, f"`*{event.anchor}` refers to nothing: there is no `&{event.anchor}` above")
        value, size = self._anchors[event.anchor]
        self._count(event, path, size)
        return value

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text: str = event.value
        if len(text.strip()) == 40 and path and find_tokens(text, key=str(path[-1])):
            raise _token_error(at(dotted(path), file=str(self.path), line=event.start_mark.line + 1))
        if event.tag and str(event.tag) not in ("!", "tag:yaml.org,2002:str"):
            raise self._error(event, path, f"the tag {event.tag} has no meaning here; leave it out")
        return text if event.style or event.tag else resolve_scalar(text)

    def _count(self, event: Any, path: KeyPath, nodes: int) -> None:
        self._nodes += nodes
        if len(path) > MAX_DEPTH or self._nodes > MAX_NODES:
            raise self._error(event, path[:4], "nested too deeply, or repeated too often through `*` references")

    def _error(self, event: Any, path: KeyPath, message: str) -> StudyError:
        return StudyError(at(dotted(path), file=str(self.path), line=event.start_mark.line + 1), message)


_NO_TEXT = "this is not a text file in UTF-8"
_NUMBER = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?")
_INTEGER = re.compile(r"[-+]?\d+")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def resolve_scalar(text: str) -> Any:
    """The value of a plain scalar. Source: YAML 1.2.2, chapter 10.3.2 (core schema)."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) < 1000 else text
    if _NUMBER.fullmatch(text):
        return float(text)
    if re.fullmatch(r"0o[0-7]+", text):
        return int(text, 8)
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return int(text, 16)
    return text


def _events(text: str, path: Path) -> list[Any]:
    return _libyaml_events(text) or _ruamel_events(text, path)


def _libyaml_events(text: str) -> list[Any] | None:
    """Events from C, or None where PyYAML is missing, was built without libyaml, or refuses the text."""
    try:
        import yaml
        from yaml import CSafeLoader
    except ImportError:
        return None
    events = []
    try:
        parser = CSafeLoader(text)
    except yaml.YAMLError:
        return None
    try:
        while parser.check_event():
            events.append(parser.get_event())
    except yaml.YAMLError:
        return None
    finally:
        parser.dispose()
    return events


def _ruamel_events(text: str, path: Path) -> list[Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return list(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        lines = enumerate(text.splitlines()[:line], 1)
        before = [number for number, held in lines if _NO_BREAK.match(held)]
        if before:
            told = "a no-break space (U+00A0), which YAML takes for a letter; type a plain space in its place"
            raise StudyError(at("", file=str(path), line=before[-1]), f"this is not YAML: {told}") from None
        raise StudyError(at("", file=str(path), line=line), f"this is not YAML: {_syntax(error)}") from None
    except YAMLError:
        raise StudyError(at("", file=str(path)), "this is not YAML: it holds characters that YAML forbids") from None


def _syntax(error: Any) -> str:
    problem = str(error.problem or error.context or "it cannot be parsed")
    if "'\\t'" in problem:
        return "a tab; indent with spaces"
    if "mapping values are not allowed" in problem:
        return "a second `:` in this line, or the line above is indented wrongly (put text with `: ` in quotes)"
    return problem
