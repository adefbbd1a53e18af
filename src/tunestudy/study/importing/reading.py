"""A configuration of another program as keys, values and lines: from YAML, JSON, a shell script or bare arguments.

Nothing is executed. Tokens are blotted out before anything else looks at the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunestudy.config.errors import StudyError, at
from tunestudy.records.redact import find_tokens, is_secret_name
from tunestudy.study.importing.shell import Command, commands_of
from tunestudy.study.source import Composer, read_text, resolve_scalar

BLOT = "blotted-out-secret"
"""Stands where a token stood."""
LARGEST_BYTES = 500_000
"""A hundred times a long configuration; what is larger is not read, as a file of data would take minutes."""


@dataclass(frozen=True)
class Given:
    """What a file says."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int] = field(repr=False)
    env: dict[str, str] = field(default_factory=dict)
    command: str = ""
    """The command that a script starts, such as `swift sft`; empty for a file of keys."""
    gpus: int | None = None
    """Processes that a launcher in the script starts."""

    def line_of(self, key: str) -> int:
        return self.lines.get(key, 1)


def read_given(path: Path, arguments: list[str]) -> Given:
    """The keys of a file, and of arguments that lay over them. Raises StudyError for what is no configuration."""
    text = _blotted(_text_of(path))
    given = _script(path, text) if _is_script(path, text) else Given(path, *_mapping(path, text))
    if arguments:
        _refuse_output(path, arguments[0])
        over = _from_command(path, Command(words=tuple((one, 0) for one in arguments)))
        given = replace(given, values={**given.values, **over.values}, lines={**given.lines, **over.lines})
    return given


def _refuse_output(path: Path, first: str) -> None:
    """Raises StudyError for `import-config theirs.yaml mine.yaml`, which means the second to be written."""
    bare = first.endswith((".yaml", ".yml")) and not first.startswith("-") and "=" not in first
    if bare and not Path(first).exists() and not (path.parent / first).exists():
        told = f"there is no `{first}` to read; the file to write is named with --output {first}"
        raise StudyError("command line", told)


def _text_of(path: Path) -> str:
    if path.is_file() and path.stat().st_size > LARGEST_BYTES:
        told = (
            f"holds {path.stat().st_size / 1e6:,.1f} MB; a configuration takes less than {LARGEST_BYTES / 1e6:.1f} MB"
        )
        raise StudyError(at("", file=str(path)), f"{told}: is this the data?")
    text = read_text(path, "configuration", endings=(".yaml", ".yml", ".json", ".sh"))
    if not text.strip():
        raise StudyError(at("", file=str(path)), "the file is empty")
    return text


_LONG_SECRET = re.compile(r"""^([\s-]*(?:export\s+)?"?([\w.-]+)"?\s*[:= ]\s*["']?)([0-9a-fA-F]{40})\b""", re.MULTILINE)


def _blotted(text: str) -> str:
    """The text without tokens, comments included."""
    for token in find_tokens(text):
        text = text.replace(token, BLOT)
    return _LONG_SECRET.sub(lambda found: found[1] + BLOT if is_secret_name(found[2]) else found[0], text)


def _is_script(path: Path, text: str) -> bool:
    if path.suffix in (".yaml", ".yml", ".json"):
        return _is_bare(text)
    return path.suffix in (".sh", ".bash", ".args", ".txt") or text.startswith("#!") or _is_bare(text)


def _is_bare(text: str) -> bool:
    """Whether a file holds arguments without a command."""
    return re.match(r"\s*--[A-Za-z]", text) is not None


def _mapping(path: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    composer = Composer(path)
    values = composer.document(text)
    if not isinstance(values, dict):
        kind = "nothing" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise StudyError(
            at("", file=str(path), line=1),
            f"a configuration is a mapping of keys, this is {kind}; a script ends in .sh",
        )
    lines = {str(key[0]): line for key, line in composer.lines.items() if len(key) == 1}
    return values, lines


def _script(path: Path, text: str) -> Given:
    trainings = [command for command in commands_of(text) if command.words]
    known = [command for command in trainings if trains(command)]
    if not known and not _is_bare(text):
        seen = ", ".join(sorted({command.words[0][0] for command in trainings})[:5]) or "nothing"
        raise StudyError(
            at("", file=str(path)),
            "no command here trains: looked for `swift sft`, `llamafactory-cli train`, `axolotl train`, `trl sft`; "
            f"it starts {seen}",
        )
    if len(known) > 1:
        raise StudyError(
            at("", file=str(path), line=known[1].words[0][1]),
            f"a second training; the first is in line {known[0].words[0][1]}. Give each a file of its own",
        )
    return _from_command(path, (known or trainings)[0])


_TRAINERS = re.compile(
    r"\b(swift (?:sft|pt|rlhf)|megatron (?:sft|pt|rlhf)|(?:llamafactory-cli|lmf) train|axolotl train"
    r"|(?:-m )?axolotl\.cli\.train|trl \w+|\S*\b(?:sft|pt|rlhf|train|train_bash)\.py)\b"
)


def trains(command: Command) -> bool:
    return bool(_TRAINERS.search(_line(command)))


def _line(command: Command) -> str:
    return " ".join(word for word, _ in command.words)


def _from_command(path: Path, command: Command) -> Given:
    """Words of a command line: what is before the trainer's own arguments belongs to launchers."""
    found = _TRAINERS.search(_line(command))
    start = len(_line(command)[: found.end()].split()) if found else 0
    launcher = [word for word, _ in command.words[:start]]
    values, lines, files = _arguments(command.words[start:])
    config = values.pop("config", None) or next((one for one in files if one.endswith((".yaml", ".yml", ".json"))), "")
    if config:
        below = _file_of_command(path, str(config))
        values, lines = {**below[0], **values}, {**below[1], **lines}
    return Given(path, values, lines, command.env, found[1] if found else "", _processes(launcher))


def _file_of_command(path: Path, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The file of keys that a command names, looked for beside the script and above it."""
    for place in (path.parent, *list(path.resolve().parents)[:4], Path.cwd()):
        if (place / name).is_file():
            return _mapping(place / name, _blotted(_text_of(place / name)))
    raise StudyError(at("", file=str(path)), f"the command reads `{name}`, which is not there; give that file itself")


def _arguments(words: tuple[tuple[str, int], ...]) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """`--key value …`, `--key=value`, `--flag` and `key=value`; and the words that belong to none."""
    values: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    files: list[str] = []
    key = ""
    for word, line in words:
        if re.match(r"--?[A-Za-z]", word):
            name, has_value, value = word.lstrip("-").partition("=")
            key = name.replace("-", "_")
            values[key], lines[key] = [value] if has_value else [], line
            key = "" if has_value else key
        elif (pair := re.match(r"([A-Za-z_][\w.]*)=", word)) is not None and (not key or values[key]):
            key = ""
            values[pair[1]], lines[pair[1]] = [word[pair.end() :]], line
        elif key:
            values[key].append(word)
        else:
            files.append(word)
    return {key: _value(parts) for key, parts in values.items()}, lines, files


def _value(parts: list[str]) -> Any:
    """A flag alone is true; several words are a list; JSON and numbers are read."""
    if not parts:
        return True
    read = [_json(part) for part in parts]
    return read[0] if len(read) == 1 else read


def _json(part: str) -> Any:
    if part[:1] in "{[" and part[-1:] in "}]":
        try:
            return Composer(Path("command line")).document(part)
        except StudyError:
            return part
    return resolve_scalar(part)


_PER_NODE = ("--nproc_per_node", "--nproc-per-node", "--num_processes", "--num-processes", "--num_gpus")


def _processes(launcher: list[str]) -> int | None:
    """How many processes torchrun, accelerate or deepspeed would start."""
    flat = list(_split(launcher))
    counts = {word: flat[i + 1] for i, word in enumerate(flat[:-1]) if word.startswith("--")}
    per_node = next((counts[key] for key in _PER_NODE if key in counts), None)
    nodes = counts.get("--nnodes", "1")
    if per_node is None or not per_node.isdigit():
        return None
    times = int(nodes) if nodes.isdigit() and not any("num_processes" in key for key in counts) else 1
    return int(per_node) * times


def _split(words: list[str]) -> Iterator[str]:
    for word in words:
        yield from word.split("=", 1)
