"""Where else a study's figures go: W&B, TensorBoard, trackio. None of it changes a result."""

import string
from typing import Literal

from pydantic import field_validator

from tunestudy.config.base import Config, neutral

Tracker = Literal["tensorboard", "wandb", "trackio"]
TRACKERS: tuple[Tracker, ...] = ("tensorboard", "wandb", "trackio")
INSTALL_TRACKERS = "pip install 'tunestudy[trackers]'"
NAME_FIELDS = ("study", "variant", "seed", "stage", "job")


def tracker_names(value: object) -> object:
    """`all`, `none` and single names, as Hugging Face spells `report_to`, as a list without repetitions."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value
    if list(names) in (["all"], ["none"]):
        return TRACKERS if names[0] == "all" else ()
    return tuple(dict.fromkeys(names))


class TrackerSettings(Config):
    """How runs are called by those trackers that stages name in `report_to`."""

    project: str | None = neutral(None, min_length=1, pattern=r"^[^/\\#?%:]+$", max_length=128)
    """Default: the variable WANDB_PROJECT or TRACKIO_PROJECT, else the study's name."""
    entity: str | None = neutral(None, min_length=1)
    """Of W&B: the team or user; default: the login's own."""
    run_name: str = neutral("{variant}/seed_{seed}/{stage}", min_length=1)
    """Of every job; `{study}`, `{variant}`, `{seed}`, `{stage}` and `{job}` are filled in. A job of several variants
    takes the name of the first and is tagged with all."""
    tags: tuple[str, ...] = neutral(())
    """Beside the variants, the stage and the seed."""
    notes: str = neutral("")
    """A text of every run, for trackers that show one."""
    patience_s: float = neutral(60.0, ge=0)
    """After the last job: how long a run waits for trackers to take what is left; `tunestudy sync` sends the rest."""

    @field_validator("run_name")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(value) if field is not None]
        except ValueError as error:
            raise ValueError(f"is no template: {error}; such as {{variant}}/seed_{{seed}}/{{stage}}") from error
        wrong = [field for field in fields if field not in NAME_FIELDS]
        if wrong:
            raise ValueError(f"has no {{{wrong[0]}}}; known are {', '.join(f'{{{name}}}' for name in NAME_FIELDS)}")
        return value
