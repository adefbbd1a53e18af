"""What the columns of a public benchmark's record say: found under any of their names, cleaned and checked.

Whatever stands in the file is a `StudyError` that names the benchmark, the record and the column, because leaving
records out would make another benchmark.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from string import ascii_uppercase
from typing import Any, NoReturn

from jinja2 import Environment, StrictUndefined, Template, UndefinedError, meta

from tunestudy.config.definition import Definition
from tunestudy.config.errors import Exit, Place, StudyError, at
from tunestudy.data.sources import Raw

GIVEN = {"options", "num_images"}
"""What a prompt's template is given beside the record's columns."""
NOTHING = ("", "nan")
"""Text that says that an optional column, or an option, is not there: tables of plain text write NaN so."""

Record = dict[str, Any]
_TEMPLATES = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


@dataclass(frozen=True)
class Options:
    """The options of a question in the order in which they are shown, and which of them is right."""

    texts: tuple[str, ...] = ()
    right: int | None = None

    @property
    def letter(self) -> str:
        return "" if self.right is None else ascii_uppercase[self.right]

    @property
    def lettered(self) -> list[tuple[str, str]]:
        """(letter, text) of each."""
        return list(zip(ascii_uppercase, self.texts, strict=False))

    def rotated(self, by: int) -> "Options":
        """The options moved `by` places towards the front, the first ones to the end; the right one moves along."""
        assert self.right is not None
        return Options(self.texts[by:] + self.texts[:by], (self.right - by) % len(self.texts))


class Fields:
    """Reads the records of one benchmark's data set."""

    def __init__(self, name: str, definition: Definition, dataset: str, renamed: Mapping[str, str]) -> None:
        """name: the benchmark's key in the study. dataset: its data set's. renamed: that one's `columns:`."""
        self._name, self._definition, self._dataset, self._renamed = name, definition, dataset, renamed
        self._template: Template = _TEMPLATES.from_string(definition.prompt)
        in_prompt = meta.find_undeclared_variables(_TEMPLATES.parse(definition.prompt)) - GIVEN
        self._absent = {*definition.optional, *definition.instead_of_images, *definition.images}
        self._required = self._columns_needed(in_prompt - self._absent)

    def _columns_needed(self, in_prompt: set[str]) -> tuple[str, ...]:
        """In the order in which a person would look for them; a reader says itself what it needs of the rest."""
        wanted = self._definition
        names = [wanted.id] if wanted.id else []
        names += wanted.images[: not (wanted.images_optional or wanted.instead_of_images)]
        if wanted.reader is None:
            heads = [column.partition(".")[0] for column in (*wanted.facts, *wanted.categories)]
            options = wanted.choices if len(wanted.choices) == 1 else ()
            others = [*sorted(in_prompt), wanted.answer, *options, *heads]
            names += [name for name in others if name not in self._absent]
        return tuple(dict.fromkeys(names))

    def refuse(self, message: str, where: Place | None = None) -> NoReturn:
        """Raise what is wrong with the data."""
        raise StudyError(where or at(f"benchmarks.{self._name}.dataset"), message, exit_code=Exit.PREFLIGHT_REFUSED)

    def named(self, raw: Raw, more: Sequence[str] = ()) -> Record:
        """The record under the definition's names. Raises StudyError for a missing column. more: others it needs."""
        there = raw.columns
        record = dict(there)
        for wanted, column in self._renamed.items():
            if column not in there:
                where = at(f"datasets.{self._dataset}.columns.{wanted}")
                self.refuse(f"there is no column {column!r}{_nearest(column, there)}", where)
            record[wanted] = there[column]
        for wanted, others in self._definition.aliases.items():
            found = next((name for name in others if name in record), None)
            if wanted not in record and found is not None:
                record[wanted] = record[found]
        for wanted in (*self._required, *more):
            if wanted not in record:
                self._missing(raw, wanted)
        if len(self._definition.choices) > 1 and not any(name in record for name in self._definition.choices):
            self._missing(raw, self._definition.choices[0])
        cleaned = {name: None if _is_nan(value) else value for name, value in record.items()}
        for name in (*self._absent, *self._definition.choices):
            cleaned[name] = _or_nothing(cleaned.get(name))
        return cleaned

    def _missing(self, raw: Raw, column: str) -> NoReturn:
        cure = f"if it has another name there: `datasets.{self._dataset}.columns: {{{column}: its name}}`"
        told = f"{self._definition.title} needs a column `{column}`, which {self._dataset} does not have"
        self.refuse(f"{raw.place}: {told}{_nearest(column, raw.columns)}; {cure}")

    def options(self, record: Record, place: str) -> Options:
        """The options, without those that are not there; the right one by the answer column."""
        columns = self._definition.choices
        if len(columns) == 1:
            values = _as_list(record.get(columns[0])) or []
        else:
            values = [record.get(column) for column in columns]
        numbered = [(number, str(value)) for number, value in enumerate(values) if value is not None]
        if not numbered:
            return Options()
        texts = tuple(text for _, text in numbered)
        if len(texts) > len(ascii_uppercase):
            self.refuse(f"{place}: {len(texts)} options in `{columns[0]}`; there are only 26 letters")
        return Options(texts, self._right(record, place, {number: i for i, (number, _) in enumerate(numbered)}, texts))

    def _right(self, record: Record, place: str, shown: Mapping[int, int], texts: tuple[str, ...]) -> int | None:
        """shown: place of an option's column, or in its list → its place among those that are there."""
        column, how = self._definition.answer, self._definition.answer_is
        answer = self._answer(record, place)
        if how in ("text", "list"):
            if answer in texts:
                return texts.index(str(answer))
            if self._definition.asks_for == "text":
                return None  # an open question may list what is in the picture without being of multiple choice
        elif how == "letter":
            letter = str(answer).strip().strip("()").strip().upper()
            number = ascii_uppercase.find(letter) if len(letter) == 1 else -1
        else:
            digits = str(answer).strip().removesuffix(".0")  # tables with gaps hold whole numbers as decimals
            number = int(digits) if digits.isdecimal() else -1
        if how in ("text", "list") or number not in shown:
            named = ", ".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))
            self.refuse(f"{place}: the answer {answer!r} in `{column}` is none of its options ({named})")
        return shown[number]

    def prompt(self, record: Record, place: str, options: Options, num_images: int) -> str:
        """What is asked, with `<image>` where the template puts an image."""
        try:
            return self._template.render(record | {"options": options.lettered, "num_images": num_images}).strip()
        except (UndefinedError, TypeError, ValueError) as error:
            self.refuse(f"{place}: the prompt cannot be written: {error}")

    def answers(self, record: Record, place: str) -> tuple[str, ...]:
        """Every right answer in words, as often as it is given."""
        value = self._answer(record, place)
        values = (_as_list(value) or [value]) if self._definition.answer_is == "list" else [value]
        words = self._definition.answer_words
        values = [_whole(one) for one in values] if words else values
        if words and str(values[0]) not in words:
            known = ", ".join(words)
            self.refuse(f"{place}: the answer {values[0]!r} in `{self._definition.answer}` is none of {known}")
        return tuple(words.get(str(one), str(one)) for one in values if one is not None)

    def _answer(self, record: Record, place: str) -> Any:
        value = record.get(self._definition.answer)
        if value in (None, "") or (isinstance(value, list | tuple) and all(one is None for one in value)):
            cure = "test splits often come without: use the split that has answers"
            self.refuse(f"{place}: there is no answer in `{self._definition.answer}` ({cure})")
        return value


def value_at(record: Mapping[str, Any], column: str) -> Any:
    """A column's value; `metadata.task` is that of a key within one."""
    value: Any = record
    for key in column.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def in_words(value: Any) -> str:
    """A category as one piece of text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _nearest(column: str, there: Mapping[str, Any]) -> str:
    near = get_close_matches(column, list(there), 1)
    asked = f"; did you mean `{near[0]}`?" if near else ""
    return f"{asked} Columns there: {', '.join(there)}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _or_nothing(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in NOTHING else value


def _whole(value: Any) -> Any:
    """`1` for the 1.0, "1.0" or true that tables make of it."""
    try:
        return int(float(value)) if float(value).is_integer() else value
    except (TypeError, ValueError):
        return value


def _as_list(value: Any) -> list[Any] | None:
    """A list, or the text of one as tables have it: `['a', 'b']`."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        words = isinstance(found, list) and all(isinstance(item, str) for item in found)
        return found if words else None  # `[2009, 2010]` may be one answer
    return None
