"""What a public benchmark is: where its data are, which columns it has, what is asked, and how answers are scored.

Each is one YAML file in `config/definitions/`; a study names it by `type:`. All of it is part of a score's fingerprint,
so a changed prompt scores anew by itself.
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tunestudy.config.base import Config, neutral

HOME = Path(__file__).parent / "definitions"


class PublicData(Config):
    """A benchmark's own data on the hub."""

    name: str
    """`organisation/name`."""
    subset: str | None = None
    """Several are joined by `+`."""
    split: str


class Definition(Config):
    """A benchmark as its file describes it."""

    title: str = neutral("")
    source: str = neutral("")
    """Who made it: authors, year, where it stands."""
    version: int = Field(ge=1)
    """Raised when scores change for a reason that stands in no other field."""
    data: PublicData | None = neutral(None)
    """Where the public data are; what a study reads is in its `datasets:`."""
    reader: str | None = None
    """A module of `bench/readers/` for records whose questions no template can say."""
    id: str | None = None
    """The column of unique ids; without one, questions are numbered."""
    images: tuple[str, ...] = ()
    """Columns of images, in the order in which they are shown; an absent one is left out."""
    images_optional: bool = False
    """Some questions are asked without any image; otherwise one that has none is counted as wrong."""
    instead_of_images: tuple[str, ...] = ()
    """Columns that say in words what the images show, for records without images and models that take none."""
    optional: tuple[str, ...] = ()
    """Columns that a record need not have; empty text, `nan` and NaN in them mean that there is nothing."""
    aliases: dict[str, tuple[str, ...]] = {}
    """Other names that editions of the data give to a column."""
    prompt: str = "{{ question }}"
    """A jinja2 template over the record's columns and, of multiple choice, `options`: a list of (letter, text).
    `<image>` marks an image's place; without marks, images stand in front. `num_images` says how many are shown."""
    answer: str = "answer"
    """The column of the right answer, or of a list of right answers."""
    choices: tuple[str, ...] = ()
    """Columns of the options, absent ones left out; a single one may hold a list."""
    answer_is: Literal["text", "list", "letter", "index"] = "text"
    """What the answer column holds: the answer, a list of them (tables of plain text have it in brackets), or of
    multiple choice the letter or the place (from 0) of the right option."""
    answer_words: dict[str, str] = {}
    """Value of the answer column → the answer in words, e.g. `{"1": "true"}`."""
    asks_for: Literal["text", "letter"] = "text"
    """`letter`: the most probable letter is taken; nothing is generated unless `answer_by: generation`."""
    circular: bool = False
    """Ask with every rotation of the options; right only if all of them are."""
    metric: str
    """A module of `bench/metrics/`."""
    facts: tuple[str, ...] = ()
    """Columns that the metric needs beside the answer."""
    categories: tuple[str, ...] = ()
    """Columns by which the score is broken down."""
    max_new_tokens: int = Field(16, ge=1)
    stop: tuple[str, ...] = ("\n",)
    """Generation ends before the first of these."""
    tiny: dict[str, Any] = neutral({})
    """Options of `type: synth` that make a small set in the same columns."""

    @model_validator(mode="after")
    def _letters_have_options(self) -> Self:
        if self.asks_for == "letter" and not (self.choices or self.reader):
            raise ValueError("asks_for: letter needs `choices`, the columns of the options")
        return self


def names() -> list[str]:
    """Of every benchmark that ships with tunestudy."""
    return sorted(path.stem for path in HOME.glob("*.yaml"))


@cache
def definition(name: str) -> Definition:
    """The benchmark of that name, one of `names()`."""
    return read_definition(HOME / f"{name}.yaml")


def read_definition(path: Path) -> Definition:
    """A benchmark's file. Raises pydantic's ValidationError."""
    import yaml

    return Definition.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
