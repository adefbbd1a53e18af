"""`tunestudy synth`: check what is asked for, then let the worker plane draw it into a folder."""

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.synth import OUTPUT_SHAPES, TASKS, SynthKind, SynthSettings
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.plain import mistakes
from tunestudy.study.source import parse_value

WORKER = "tunestudy.data.synth.run"
FORMATS = ("jsonl", "parquet")
COMMAND_LINE = "command line"


def make_synth(
    out: Path, *, kinds: Sequence[str], count: int, shape: str, file_format: str, workers: int, options: Sequence[str]
) -> Exit:
    """Write `count` records to the folder `out`, of the kinds in turn; `options` are `key=value` of SynthSettings.

    No kinds: all that the shape takes. Raises StudyError for what cannot be drawn or does not fit the shape.
    """
    if count < 1 or workers < 1:
        raise StudyError(COMMAND_LINE, "--count and --workers must be at least 1")
    _one_of("--shape", shape, tuple(OUTPUT_SHAPES))
    _one_of("--format", file_format, FORMATS)
    for kind in kinds:
        _one_of("--kind", kind, get_args(SynthKind))
    given = _given(options)
    chosen = tuple(cast(SynthKind, kind) for kind in kinds) or OUTPUT_SHAPES[shape].kinds
    settings = [settings_for(shape, kind, {**given, "count": count}) for kind in chosen]
    if importlib.util.find_spec("PIL") is None:
        cure = "pip install 'tunestudy[train]'"
        raise StudyError("synth", f"drawing needs Pillow: {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
    request = {
        "out": str(out),
        "settings": [one.model_dump(mode="json") for one in settings],
        "count": count,
        "shape": shape,
        "format": file_format,
        "num_workers": workers,
    }
    code = _carry_out(json.dumps(request))
    return Exit(code) if code in list(Exit) else Exit.JOBS_FAILED


def _carry_out(request: str) -> int:
    """Run the worker to its end. Ctrl-C reaches it through the terminal: it tidies up, and its word is waited for."""
    worker = subprocess.Popen([sys.executable, "-m", WORKER], stdin=subprocess.PIPE, text=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker.communicate(request)
    finally:
        signal.signal(signal.SIGINT, before)
    return worker.returncode


def settings_for(shape: str, kind: SynthKind, given: dict[str, Any]) -> SynthSettings:
    """The settings of one kind, held to what the shape's columns can say."""
    wanted = OUTPUT_SHAPES[shape]
    if kind not in wanted.kinds:
        raise StudyError(at("--kind", file=COMMAND_LINE), f"{shape} is made of {', '.join(wanted.kinds)}, not {kind}")
    values: dict[str, Any] = {**given, "kind": kind}
    if wanted.answer_form is not None:
        _agree(shape, values, "answer_form", wanted.answer_form)
    if wanted.num_choices is not None:
        _agree(shape, values, "num_choices", wanted.num_choices)
    settings = _validated(values)
    if not wanted.tasks:
        return settings
    if wrong := [task for task in settings.tasks if task not in wanted.tasks]:
        raise StudyError(
            at("tasks", file=COMMAND_LINE), f"{shape} has no place for {wrong[0]}; it has {', '.join(wanted.tasks)}"
        )
    drawable = [task for task in wanted.tasks if TASKS[kind][task] <= settings.image_size]
    return _validated({**values, "tasks": list(settings.tasks) or drawable or list(wanted.tasks)})


def _validated(values: dict[str, Any]) -> SynthSettings:
    try:
        return SynthSettings.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        path, message = mistakes(error, values)[0]
        key = ".".join(map(str, path))
        if key and key not in SynthSettings.model_fields:
            message = f"there is no such option; {did_you_mean(key, SynthSettings.model_fields)}"
        raise StudyError(at(key, file=COMMAND_LINE), message) from None


def _agree(shape: str, values: dict[str, Any], key: str, needed: Any) -> None:
    if values.setdefault(key, needed) != needed:
        raise StudyError(at(key, file=COMMAND_LINE), f"{shape} needs {needed}")


def _given(options: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs, values read as YAML."""
    given: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        where = at(key, file=COMMAND_LINE)
        if not equals:
            raise StudyError(where, f"an option is written key=value, e.g. image_size=224; got `{option}`")
        if key in ("kind", "count", "num_workers"):
            raise StudyError(where, "this is said by --kind, --count and --workers")
        given[key] = parse_value(text, where)
    return given


def _one_of(option: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise StudyError(option, f"there is no `{word}`; {did_you_mean(word, known)}")
