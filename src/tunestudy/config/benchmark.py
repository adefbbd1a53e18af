"""Benchmarks: how a trained model is scored on rows it never saw."""

from typing import Annotated, Literal

from pydantic import Field

from tunestudy.config.base import Config, neutral


class Benchmark(Config):
    """What every benchmark has."""

    dataset: str
    """A key of `datasets`; `name@held_out` scores its held-out rows (the usual case)."""
    limit: int | None = Field(None, gt=0)
    """At most this many rows, chosen by hash of id: the same rows for every variant and seed."""
    batch_size: int = neutral(32, ge=1)


class ExactMatch(Benchmark):
    """Greedy generation compared with the reference answer after stripping white space and case."""

    type: Literal["exact_match"] = "exact_match"
    max_new_tokens: int = Field(16, ge=1)
    answer_after: str | None = Field(None, min_length=1)
    """Only what follows the last of these in the generated text is compared: an answer behind its rationale."""


class MultipleChoice(Benchmark):
    """The choice with the highest summed log-probability after the prompt."""

    type: Literal["multiple_choice"] = "multiple_choice"
    choices: tuple[str, ...] | None = None
    """The same choices for every row; default: the row's own `choices` column."""
    normalise: Literal["none", "tokens"] = "none"
    """`tokens` divides a choice's log-probability by its length."""


AnyBenchmark = Annotated[ExactMatch | MultipleChoice, Field(discriminator="type")]
