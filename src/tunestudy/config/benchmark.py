"""Benchmarks: how a trained model is scored on rows it never saw."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from tunestudy.config.base import Config, neutral, newer
from tunestudy.config.definition import Definition, definition, names
from tunestudy.config.judge import Judge, prompts_of

Compat = Literal["official", "lmms-eval", "strict"]


class Benchmark(Config):
    """What every benchmark has."""

    task: ClassVar[str]  # the module of `bench/tasks/` that scores it
    version: ClassVar[int] = 1  # raised when that module's scores change: part of the fingerprint
    dataset: str
    """A key of `datasets`; `name@held_out` scores its held-out rows (the usual case)."""
    limit: int | None = Field(None, gt=0)
    """At most this many rows, chosen by hash of id: the same rows for every variant and seed."""
    batch_size: int | None = neutral(None, ge=1)
    """At most this many questions at once; default: as many as `batch_tokens` holds."""
    batch_tokens: int | None = neutral(None, ge=1)
    """Tokens of a batch, padding and images counted; questions of like length are asked together. Default: 16,384, and
    2,048 on a CPU, whose cache they fit into."""
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
    """Where an answer is cut off."""
    answer_after: str | None = Field(None, min_length=1)
    """Only what follows the last of these in the generated text is compared: an answer behind its rationale."""
    backend: Literal["transformers", "vllm"] = "transformers"
    """What generates. `vllm` needs vLLM on the machine and a single rank; its rounding may change an answer, so its
    scores are others. Options' probabilities are always transformers'."""


class MultipleChoice(Benchmark):
    """The choice with the highest summed log-probability after the prompt."""

    task = "multiple_choice"
    type: Literal["multiple_choice"] = "multiple_choice"
    choices: tuple[str, ...] | None = None
    """The same choices for every row; default: the row's own `choices` column."""
    normalise: Literal["none", "tokens"] = "none"
    """`tokens` divides a choice's log-probability by its length."""


class Perplexity(Benchmark):
    """How probable running text, or the answers of rows, is to the model.

    A text longer than `window` is read in windows, in which every token is scored once.
    """

    task = "perplexity"
    type: Literal["perplexity"] = "perplexity"
    over: Literal["text", "answers"] = "text"
    """`text`: every token of running text; `answers`: the (last) answers of rows with their stop tokens."""
    window: int | None = Field(None, ge=2)
    """Tokens of a window; default: what the model's positions reach, at most 2048."""
    stride: int | None = Field(None, ge=1)
    """Tokens that each window after the first scores; a smaller one gives more context. Default: half a window."""

    @model_validator(mode="after")
    def _stride_leaves_context(self) -> Self:
        if self.window is not None and self.stride is not None and self.stride >= self.window:
            raise ValueError(f"stride ({self.stride}) must be below window ({self.window})")
        return self


class LmEval(Benchmark):
    """Tasks of lm-evaluation-harness, in process: its prompts, its metrics, its numbers."""

    task = "lm_eval"
    type: Literal["lm_eval"] = "lm_eval"
    tasks: str | tuple[str, ...]
    """Names such as `arc_easy` (also of groups), or paths of a task's YAML file or of a folder of them, relative to the
    study file. Paths inside such a file start at its folder."""
    dataset: Literal[""] = ""
    """Left out: a task names its own data."""
    num_fewshot: int | None = Field(None, ge=0)
    """Solved examples in front of each question; default: as the task says."""
    limit: int | None = Field(None, gt=0)
    """Only the first so many questions of each task."""
    apply_chat_template: bool = False
    """Ask as a conversation, with the model's own chat template."""
    revisions: dict[str, str] | None = newer()
    """Commits, branches or tags of the hub data sets that the tasks read, by their ids. `fetch` locks commits of them
    all."""

    @property
    def named(self) -> tuple[str, ...]:
        """The tasks, also of a single one."""
        return (self.tasks,) if isinstance(self.tasks, str) else self.tasks


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
    backend: Literal["transformers", "vllm"] = "transformers"
    """What generates. `vllm` needs vLLM on the machine and a single rank; its rounding may change an answer, so its
    scores are others. Options' probabilities are always transformers'."""
    judge: Judge | None = None
    """A language model that judges the answers; the score is `judge_accuracy` then, whatever the rules would say."""
    definition: Definition = None  # type: ignore[assignment]  # filled in by `_defined`

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (known := names()):
            raise ValueError(f"there is no type `{value}`; known are {', '.join((*OWN, *known))}")
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
        if not isinstance(values, dict) or values.get("type") not in names():
            return values
        values = {"definition": definition(values["type"]), **values}
        if isinstance(values.get("judge"), dict) and isinstance(values["definition"], Definition):
            values["judge"] = {"prompts": prompts_of(values["definition"].metric), **values["judge"]}
        return values

    @model_validator(mode="after")
    def _vllm_generates(self) -> Self:
        by_letter = self.answer_by == "letter" or (self.answer_by is None and self.definition.asks_for == "letter")
        if self.backend == "vllm" and by_letter:
            raise ValueError("backend: vllm generates; add answer_by: generation, or leave backend out")
        return self


def has_options(of: Definition) -> bool:
    """Whether a benchmark is multiple choice."""
    return bool(of.choices) or of.asks_for == "letter"


KINDS = (ExactMatch, MultipleChoice, Perplexity, LmEval, PublicBenchmark)

OWN = ("exact_match", "multiple_choice", "perplexity", "lm_eval")


def _kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind is None or kind in OWN else "public"


AnyBenchmark = Annotated[
    Annotated[ExactMatch, Tag("exact_match")]
    | Annotated[MultipleChoice, Tag("multiple_choice")]
    | Annotated[Perplexity, Tag("perplexity")]
    | Annotated[LmEval, Tag("lm_eval")]
    | Annotated[PublicBenchmark, Tag("public")],
    Discriminator(_kind),
]
