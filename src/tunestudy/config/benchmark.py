"""Benchmarks: how a trained model is scored on rows it never saw."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from tunestudy.config.base import Config, neutral
from tunestudy.config.definition import Definition, definition, names

Compat = Literal["official", "lmms-eval", "strict"]


class Benchmark(Config):
    """What every benchmark has."""

    task: ClassVar[str]  # the module of `bench/tasks/` that scores it
    dataset: str
    """A key of `datasets`; `name@held_out` scores its held-out rows (the usual case)."""
    limit: int | None = Field(None, gt=0)
    """At most this many rows, chosen by hash of id: the same rows for every variant and seed."""
    batch_size: int | None = neutral(None, ge=1)
    """At most this many questions at once; default: as many as `batch_tokens` holds."""
    batch_tokens: int = neutral(16_384, ge=1)
    """Tokens of a batch, padding and images counted; questions of like length are asked together."""
    image_cache_bytes: int = neutral(1 << 30, ge=0)
    """Memory for features of images that have been seen, on the model's device."""
    overlap: bool = neutral(True)
    """Look for its rows in all that a job was trained on, by text and by image."""
    checkpoints: bool | tuple[int, ...] = neutral(False)
    """Also score the checkpoints that the stage keeps (`true` or `all`), or those of these steps: the score's curve
    over training. One that retention has removed is left out."""

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _all_of_them(cls, value: Any) -> Any:
        return {"all": True, "none": False}.get(value, value) if isinstance(value, str) else value

    @field_validator("checkpoints")
    @classmethod
    def _steps(cls, value: bool | tuple[int, ...]) -> bool | tuple[int, ...]:
        if not isinstance(value, bool) and (not value or min(value) < 1):
            raise ValueError("must be true, false, all, or a list of steps from 1")
        return value

    def wants_checkpoint(self, step: int) -> bool:
        """Whether the checkpoint of this step is scored, too."""
        return self.checkpoints if isinstance(self.checkpoints, bool) else step in self.checkpoints


class ExactMatch(Benchmark):
    """Greedy generation compared with the reference answer after stripping white space and case."""

    task = "exact_match"
    type: Literal["exact_match"] = "exact_match"
    max_new_tokens: int = Field(16, ge=1)
    answer_after: str | None = Field(None, min_length=1)
    """Only what follows the last of these in the generated text is compared: an answer behind its rationale."""


class MultipleChoice(Benchmark):
    """The choice with the highest summed log-probability after the prompt."""

    task = "multiple_choice"
    type: Literal["multiple_choice"] = "multiple_choice"
    choices: tuple[str, ...] | None = None
    """The same choices for every row; default: the row's own `choices` column."""
    normalise: Literal["none", "tokens"] = "none"
    """`tokens` divides a choice's log-probability by its length."""


class PublicBenchmark(Benchmark):
    """A public benchmark, asked and scored as its definition says, on records in its own columns."""

    task = "public"
    type: str
    """The name of a file in `config/definitions/`, e.g. `chartqa`."""
    compat: Compat = "official"
    """How the reported score is computed; where the other ways differ, their values are shown beside it."""
    answer_by: Literal["letter", "generation"] | None = None
    """Multiple choice by the most probable letter or by what the model writes; default: as defined."""
    circular: bool | None = None
    """Default: as defined."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Default: as defined."""
    definition: Definition = None  # type: ignore[assignment]  # filled in by `_defined`

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (known := names()):
            raise ValueError(f"there is no type `{value}`; known are exact_match, multiple_choice, {', '.join(known)}")
        return value

    @field_validator("answer_by", "circular")
    @classmethod
    def _has_options(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("type")
        if kind is not None and value in (True, "letter") and not has_options(definition(kind)):
            raise ValueError(f"{kind} has no options to {'rotate' if value is True else 'choose from'}; leave it out")
        return value

    @model_validator(mode="before")
    @classmethod
    def _defined(cls, values: Any) -> Any:
        if isinstance(values, dict) and "definition" not in values and values.get("type") in names():
            return {**values, "definition": definition(values["type"])}
        return values


def has_options(of: Definition) -> bool:
    """Whether a benchmark is multiple choice."""
    return bool(of.choices) or of.asks_for == "letter"


OWN = ("exact_match", "multiple_choice")


def _kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind is None or kind in OWN else "public"


AnyBenchmark = Annotated[
    Annotated[ExactMatch, Tag("exact_match")]
    | Annotated[MultipleChoice, Tag("multiple_choice")]
    | Annotated[PublicBenchmark, Tag("public")],
    Discriminator(_kind),
]
