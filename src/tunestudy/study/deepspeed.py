"""Sections for DeepSpeed: files that hold them, and what contradicts the study."""

import json
from collections.abc import Iterator
from typing import Any

from tunestudy.config.deepspeed import mistakes
from tunestudy.config.errors import StudyError
from tunestudy.config.paths import located
from tunestudy.config.stage import TrainStage
from tunestudy.study.problems import Mistake
from tunestudy.study.source import KeyPath, Source

KEY = "deepspeed"


def read_deepspeed_files(source: Source) -> Iterator[StudyError]:
    """Put the content of every file that a `deepspeed:` names into its place; relative to the study file."""
    for path, settings in _settings_of_stages(source.values):
        written = settings.get(KEY)
        if not isinstance(written, str):
            continue
        settings[KEY] = {}
        try:
            content = json.loads(located(source.path.parent, written).read_text(encoding="utf-8"))
        except FileNotFoundError:
            yield StudyError(source.place((*path, KEY)), f"there is no file `{written}` beside the study file")
        except (OSError, ValueError) as error:
            yield StudyError(source.place((*path, KEY)), f"`{written}` cannot be read as JSON: {error}")
        else:
            if isinstance(content, dict):
                settings[KEY] = content
            else:
                yield StudyError(source.place((*path, KEY)), f"`{written}` must hold one mapping of keys")


def deepspeed_mistakes(stage: TrainStage) -> Iterator[Mistake]:
    """What is wrong with a complete stage's section, at its key."""
    if stage.engine == "deepspeed":
        for message in mistakes(stage.deepspeed, stage):
            yield Mistake((KEY,), message)


def _settings_of_stages(values: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Wherever settings of a stage stand."""
    yield ("defaults",), values.get("defaults") or {}
    for stage, settings in (values.get("stages") or {}).items():
        yield ("stages", stage), settings or {}
    for variant, entry in (values.get("variants") or {}).items():
        for stage, settings in (entry.get("overrides") or {}).items():
            yield ("variants", variant, "overrides", stage), settings
