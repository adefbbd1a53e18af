"""From a record's columns to one canonical example, whatever the format; a bad record is rejected with a reason."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from tunestudy.config.data import Dataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data.example import Example, Message
from tunestudy.data.images import IMAGE_MARK
from tunestudy.data.pictured import COLUMNS, OTHER_MEDIA, record_images, with_images
from tunestudy.data.rejected import Rejected
from tunestudy.data.sources import Folders

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Spellings of roles in messages and ShareGPT → the canonical ones."""


@dataclass(frozen=True)
class Format:
    """One format: the fields it needs, those it may have, and how they become an example."""

    required: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Example]
    optional: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other usual names of a field's column."""
    plain: Mapping[str, str] = field(default_factory=dict)
    """Everyday names, which are taken where no format fits by those above."""


class RecordReader:
    """Turns the columns of one data set's records into examples; made from its first record."""

    def __init__(self, name: str, dataset: Dataset, first: Mapping[str, Any], folders: Folders) -> None:
        self._name, self._system, self._dataset, self._folders = name, dataset.system, dataset, folders
        self.format_name = dataset.format if dataset.format != "auto" else detect(name, first, dataset.columns)
        self._format = FORMATS[self.format_name]
        self._columns = _columns(name, self.format_name, dataset.columns, first)
        self._first = tuple(first)
        self._awaited = {field: column for field, column in dataset.columns.items() if column not in first}

    def id_of(self, record: Mapping[str, Any]) -> Any:
        """The record's own id, None where it has none."""
        return record.get(self._columns["id"])

    def example(self, record: Mapping[str, Any]) -> Example:
        """The canonical example of a record. Raises Rejected."""
        if self._awaited:
            self._awaited = {field: column for field, column in self._awaited.items() if column not in record}
        if any(record.get(column) for column in OTHER_MEDIA):
            raise Rejected("video or audio", "no stage can train on it")
        fields = {name: record[column] for name, column in self._columns.items() if record.get(column) is not None}
        for name in self._format.required:
            if name not in fields:
                raise Rejected("missing field", self._columns.get(name, name))
        example = self._with_rationale(self._format.convert(fields), fields)
        if self.format_name == "caption" and self._dataset.question:
            example = replace(example, prompt=self._dataset.question)
        example = with_images(example, record_images(record, self._columns, self._folders))
        if self._system and not example.messages:
            raise StudyError(
                at(f"datasets.{self._name}.system"), f"{self.format_name} records have no place for a system prompt"
            )
        if self._system and example.messages and all(m["role"] != "system" for m in example.messages):
            messages = ({"role": "system", "content": self._system}, *example.messages)
            num_context = example.num_context and example.num_context + 1
            example = replace(example, messages=messages, num_context=num_context)
        return example

    def check_columns(self) -> None:
        """After the last record. Raises StudyError for a column that `columns:` names and none of them has."""
        for wanted, column in self._awaited.items():
            raise _no_column(self._name, wanted, column, self._first)

    def _with_rationale(self, example: Example, fields: Mapping[str, Any]) -> Example:
        if self._dataset.chain_of_thought == "none":
            return example
        if example.text is not None:
            where = at(f"datasets.{self._name}.chain_of_thought")
            raise StudyError(where, "running text has no answer for a rationale to stand before")
        if not _text(fields, "rationale").strip():
            raise Rejected("missing field", self._columns["rationale"])
        return replace(example, rationale=f"{fields['rationale']}{self._dataset.rationale_separator}")


def detect(name: str, first: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """The format whose fields all stand in the first record, under their own or their mapped name."""
    for format_name, known in FORMATS.items():
        names = {field: columns.get(field, known.aliases.get(field, field)) for field in known.required}
        if all(names[field] in first or (field not in columns and field in first) for field in known.required):
            return format_name
    for format_name, known in FORMATS.items():
        if known.plain and all(columns.get(one, known.plain[one]) in first for one in known.required):
            return format_name
    needs = "; ".join(f"{format_name}: {', '.join(known.required)}" for format_name, known in FORMATS.items())
    raise StudyError(
        at(f"datasets.{name}.format"),
        f"cannot be told from the columns {', '.join(map(repr, first)) or '(none)'}. Each format needs: {needs}. "
        f"Name other columns with `columns: {{field: column}}`{_such_as(first)}",
        exit_code=Exit.PREFLIGHT_REFUSED,
    )


def _such_as(first: Mapping[str, Any]) -> str:
    """An example in the file's own names, where there are two to take."""
    names = [column for column in first if column]
    if len(names) < 2:
        return ""
    return f", such as `columns: {{instruction: {names[0]}, output: {names[1]}}}` for questions and answers"


def _columns(name: str, format_name: str, mapping: Mapping[str, str], first: Mapping[str, Any]) -> dict[str, str]:
    """Field → column, after checking that every mapped field exists, and the column of every one that must be there:
    others may be missing in some records, and so in the first."""
    known = FORMATS[format_name]
    fields = (*known.required, *known.optional, "id", "choices", "rationale", *COLUMNS)
    for wanted, column in mapping.items():
        key = f"datasets.{name}.columns.{wanted}"
        if wanted not in fields:
            raise StudyError(at(key), f"{format_name} has no such field; it has: {', '.join(fields)}")
        if column not in first and wanted in known.required:
            raise _no_column(name, wanted, column, first)
    usual = {wanted: known.aliases.get(wanted, known.plain.get(wanted, wanted)) for wanted in fields}
    return {**{f: (c if c in first else f) for f, c in usual.items()}, **mapping}


def _no_column(name: str, wanted: str, column: str, first: Iterable[str]) -> StudyError:
    near = get_close_matches(column, list(first), 1) or list(first)
    key = f"datasets.{name}.columns.{wanted}"
    return StudyError(at(key), f"there is no column {column!r}; the first record has: {', '.join(near)}")


def _messages(fields: Mapping[str, Any]) -> Example:
    return _conversation(_turns(fields["messages"]), fields)


def _sharegpt(fields: Mapping[str, Any]) -> Example:
    turns = _turns(fields["conversations"])
    return _conversation([*_system_turn(fields.get("system")), *turns], fields)


def _alpaca(fields: Mapping[str, Any]) -> Example:
    asked = _text(fields, "instruction")
    given = _text(fields, "input") if fields.get("input") else ""
    if not f"{asked}{given}".strip() and not any(fields.get(column) for column in COLUMNS):
        raise Rejected("empty question")
    turns = _system_turn(fields.get("system"))
    history = fields.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise Rejected("wrong type", "history is not a list of [question, answer]")
    for pair in history:
        turns += [{"role": "user", "content": str(pair[0])}, {"role": "assistant", "content": str(pair[1])}]
    turns.append({"role": "user", "content": f"{asked}\n\n{given}" if given else asked})
    turns.append({"role": "assistant", "content": _answer(fields, "output")})
    return _conversation(turns, fields)


def _prompt_completion(fields: Mapping[str, Any]) -> Example:
    if isinstance(fields["prompt"], list) and isinstance(fields["completion"], list):
        context = _turns(fields["prompt"])
        turns = [*context, *_turns(fields["completion"])]
        return _conversation(turns, fields, num_context=len(context))
    prompt, completion = _text(fields, "prompt"), _text(fields, "completion")
    if not completion.strip():
        raise Rejected("empty answer")
    return Example(prompt=prompt, completion=completion, choices=_choices(fields))


def _caption(fields: Mapping[str, Any]) -> Example:
    caption = _text(fields, "caption")
    if not caption.strip():
        raise Rejected("empty answer")
    return Example(prompt="", completion=caption)


def _plain_text(fields: Mapping[str, Any]) -> Example:
    text = _text(fields, "text")
    if not text.strip():
        raise Rejected("empty text")
    return Example(text=text)


FORMATS = {
    "messages": Format(("messages",), _messages),
    "sharegpt": Format(("conversations",), _sharegpt, ("system",), {"conversations": "conversation"}),
    "alpaca": Format(
        ("instruction", "output"),
        _alpaca,
        ("input", "system", "history"),
        plain={"instruction": "question", "output": "answer"},
    ),
    "prompt_completion": Format(("prompt", "completion"), _prompt_completion),
    "caption": Format(("caption",), _caption, aliases={"caption": "txt"}),
    "text": Format(("text",), _plain_text),
}
"""In the order in which `auto` tries them."""


def _conversation(turns: Iterable[Message], fields: Mapping[str, Any], *, num_context: int = 0) -> Example:
    messages = tuple(turns)
    answers = [message for message in messages[num_context:] if message["role"] == "assistant"]
    if not answers:
        raise Rejected("no assistant turn")
    if not all(answer["content"].strip() for answer in answers):
        raise Rejected("empty answer")
    return Example(messages=messages, num_context=num_context, choices=_choices(fields))


def _turns(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise Rejected("wrong type", f"a conversation must be a list, not {type(value).__name__}")
    return [_turn(turn) for turn in value]


def _turn(turn: Any) -> Message:
    """A turn with `role` and `content`, or with ShareGPT's `from` and `value`; files of both kinds are met under
    either column name."""
    if not isinstance(turn, Mapping):
        raise Rejected("wrong type", f"a turn must be an object, not {type(turn).__name__}")
    role_key, content_key = ("from", "value") if turn.get("from") is not None else ("role", "content")
    for key in (role_key, content_key):
        if turn.get(key) is None:
            raise Rejected("missing field", f"{key} of a turn")
    role = ROLES.get(turn[role_key]) if isinstance(turn[role_key], str) else None
    if role is None:
        raise Rejected("unknown role", str(turn[role_key])[:40])
    message = {"role": role, "content": _joined(turn[content_key])}
    if isinstance(turn.get("reasoning_content"), str):
        message["reasoning_content"] = turn["reasoning_content"]
    return message


def _joined(content: Any) -> str:
    """A turn's text; parts of text are joined, with marks where images stand; other kinds reject the record."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Rejected("wrong type", f"content must be text, not {type(content).__name__}")
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") not in ("text", "image", "image_url"):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise Rejected("unknown content", f"a part of type {kind}; text and image can be used")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise Rejected("missing field", "text of a content part")
    return "".join(part["text"] if part["type"] == "text" else IMAGE_MARK for part in parts)


def _system_turn(system: Any) -> list[Message]:
    return [{"role": "system", "content": system}] if isinstance(system, str) and system else []


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise Rejected("wrong type", f"{name} must be text, not {type(value).__name__}")
    return value


def _answer(fields: Mapping[str, Any], name: str) -> str:
    """An answer; of several people's, as sets of visual questions list them, the most frequent, of equals the first."""
    value = fields.get(name)
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        counts = Counter(str(one) for one in value)
        return max(counts, key=counts.__getitem__)
    return _text(fields, name)


def _choices(fields: Mapping[str, Any]) -> tuple[str, ...]:
    value = fields.get("choices")
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
