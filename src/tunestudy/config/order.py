"""In which order a stage walks through its samples: the plain orders, and curricula from easy to hard or back."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from tunestudy.config.base import Config
from tunestudy.config.model import ModelConfig


class Curriculum(Config):
    """What every curriculum has.

    Samples are sorted, equal ones by their id; every epoch walks through them again. With several data sets, the
    samples that an epoch draws of all of them are sorted together. With `packing`, windows of 1,024 neighbours in this
    order are packed and rows follow their earliest sample, so the order holds from window to window.
    """

    direction: Literal["ascending", "descending"] = "ascending"
    """`ascending`: smallest values first, which are the easiest of a score."""
    buckets: int | None = Field(None, ge=1)
    """Cut the sorted samples into this many equal parts and shuffle inside each; null keeps the strict order."""
    take: tuple[float, float] = (0.0, 1.0)
    """The share of the sorted samples that the stage trains on, from and to: stages with `[0, 0.5]` and `[0.5, 1]` see
    every sample between them once. 0 is where the order begins, so the hardest come first when descending."""

    @field_validator("take")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("two shares with 0 ≤ from < to ≤ 1, such as [0, 0.5]")
        return value


class ColumnOrder(Curriculum):
    """By a column of the records, numbers or text; in text, runs of digits count as numbers (`level 2` < `level 10`).

    A record without such a value is left out of the stage, with a reason, and counts for `max_rejected`.
    """

    by: Literal["column"]
    """Sorts by a column."""
    column: str = Field(min_length=1)
    """The column's name in the file."""


class ScoreOrder(Curriculum):
    """By how unlikely a frozen model finds a sample's targets: their mean negative log-likelihood in nats."""

    by: Literal["score"]
    """Sorts by a model's score."""
    scorer: Literal["start", "base"] | ModelConfig = "start"
    """`start`: the weights that this stage starts from, before its first step; `base`: the study's model, so that
    variants, stages and (of a pretrained model) seeds share one file of scores; or another model with its own
    tokenizer, which reads the same answers."""


PlainOrder = Literal["shuffle", "sequential", "length_grouped"]


def _kind(value: object) -> str | None:
    by = value.get("by") if isinstance(value, dict) else getattr(value, "by", None)
    is_curriculum = isinstance(value, dict | Curriculum)
    return {"column": "by column", "score": "by score"}.get(str(by)) if is_curriculum else "plain"


AnyOrder = Annotated[
    Annotated[PlainOrder, Tag("plain")]
    | Annotated[ColumnOrder, Tag("by column")]
    | Annotated[ScoreOrder, Tag("by score")],
    Discriminator(
        _kind,
        custom_error_type="curriculum",
        custom_error_message="a curriculum says what samples are sorted by: `by: column` or `by: score`",
    ),
]


def order_words(order: PlainOrder | Curriculum) -> str:
    """An order in a few words, for a warning or a table."""
    if not isinstance(order, Curriculum):
        return order
    by = f"column {order.column}" if isinstance(order, ColumnOrder) else f"score of {_scorer_words(order)}"
    words = [f"by {by}, {order.direction}"]
    if order.buckets:
        words.append(f"shuffled in {order.buckets} buckets" if order.buckets > 1 else "shuffled")
    words += [f"from {order.take[0]:g} to {order.take[1]:g} of it"] if order.take != (0.0, 1.0) else []
    return ", ".join(words)


def _scorer_words(order: Curriculum) -> str:
    scorer = getattr(order, "scorer", "start")
    return scorer if isinstance(scorer, str) else str(scorer.model_name_or_path or scorer.architecture)
