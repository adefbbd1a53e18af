"""A stage that merges models: no data, no optimiser, weights in and weights out.

stages:
  merged:
    type: merge
    method: dare_ties
    base: vision                      # an earlier stage of the variant, `model`, or {path: …}
    models:
      en: {stage: english, weight: 0.6, density: 0.1}
      ko: {stage: korean, weight: 0.4, density: 0.1}
"""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tunestudy.config.base import Config, neutral, newer
from tunestudy.config.model import DType, Role
from tunestudy.config.sharing import SharingSettings

STUDY_MODEL = "model"
"""In place of a stage's name: the study's own model."""
BASE = "base"
"""The base's name among a job's inputs."""

MethodName = Literal["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "slerp"]
TASK_VECTORS: tuple[MethodName, ...] = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
"""Methods that work on differences to a base."""
SPARSE: tuple[MethodName, ...] = ("ties", "dare_linear", "dare_ties")
"""Methods that keep a share of each difference, its density."""


class Weights(Config):
    """Weights that exist: the result of a stage, or a folder."""

    stage: str | None = neutral(None)  # what it holds is in the fingerprint, not how it is called
    """An earlier stage of the same variant, or `model`: the study's own."""
    path: str | None = neutral(None)
    """A model's or an adapter's folder, relative to the study file."""
    base_revision: str | None = newer()
    """Branch, tag or commit of the hub's model that the adapter in `path` names as its base; default: the one of its
    adapter_config.json. A lock fills in the commit."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.stage is None) == (self.path is None):
            raise ValueError("give either stage (an earlier one of the variant, or `model`) or path (a folder)")
        if self.base_revision is not None and self.path is None:
            raise ValueError("base_revision is that of an adapter in `path`; a stage's result knows its own base")
        return self


class MergeInput(Weights):
    """One of the models that are merged."""

    weight: float = 1.0
    """What it counts in the sum."""
    weights: dict[Role, float] = {}
    """By role; roles that are not named have `weight`."""
    density: float | None = Field(None, gt=0, le=1)
    """Share of its difference to the base that is kept: the largest (TIES), or chosen at random (DARE, whose papers'
    drop rate is 1 − density)."""
    densities: dict[Role, float] = {}
    """By role; roles that are not named have `density`."""

    def weight_of(self, role: Role) -> float:
        return self.weights.get(role, self.weight)

    def density_of(self, role: Role) -> float:
        """1 of a method that drops nothing."""
        return self.densities.get(role, self.density or 1.0)

    @field_validator("densities")
    @classmethod
    def _shares(cls, value: dict[Role, float]) -> dict[Role, float]:
        if wrong := [role for role, density in value.items() if not 0 < density <= 1]:
            raise ValueError(f"a density is a share above 0 and at most 1; not so for {', '.join(wrong)}")
        return value


class MergeStage(SharingSettings):
    """Several models, or adapters of one base, as one."""

    type: Literal["merge"] = "merge"
    method: MethodName
    """How models are put together; docs/merging.md has the definitions."""
    models: dict[str, MergeInput] = Field(min_length=1)
    """By names of your own; their order is that of the sum."""
    base: Weights | None = None
    """What differences are taken to. `linear` and `slerp` need none."""
    compat: Literal["paper", "mergekit", "peft"] = "paper"
    """Whose definition where they differ: the methods' papers, mergekit 0.1.5, or PEFT's merge functions."""
    scale: float = 1.0
    """What the merged difference is multiplied with (mergekit's `lambda`)."""
    normalize: bool | None = None
    """Divide by the sum of the weights that took part; default: what the method's definition does."""
    t: float = Field(0.5, ge=0, le=1)
    """Of `slerp`: 0 is the first model, 1 the second."""
    absent: str = "error"
    """Tensors that the base lacks, such as a new projector: refuse, take the weighted mean of the models, take the base
    as zeros, or take them from one model (`take:en`)."""
    vocabulary: Literal["base", "union"] = "base"
    """Of models whose tokenizers differ: the base's tokens (of the first model without a base), or all tokens of all.
    Rows of embeddings and heads are matched by token."""
    allow_descendants: bool = neutral(False)
    """Merge differences although one model was trained from another, whose difference it therefore holds as well."""
    into: Literal["model", "adapter"] = "model"
    """`adapter`: adapters of one base become one adapter, exactly where their method allows it."""
    result_rank: int | None = Field(None, ge=1)
    """Of `into: adapter`: the rank that the merged difference is cut to; default: the sum of the adapters' ranks."""
    dtype: DType | None = None
    """Of the result; default: each tensor's own in the base, in the first model without one."""
    max_shard_size: str = neutral("5GB")
    """Of a safetensors file of the result."""
    threads: int | None = neutral(None, ge=1)
    """Default: one per core. They do not change a byte of the result, but for `compat: mergekit`, which has one."""

    @field_validator("absent")
    @classmethod
    def _a_policy(cls, value: str) -> str:
        if not re.fullmatch("error|average|zero_base|take:.+", value):
            raise ValueError(f"must be error, average, zero_base, or take: with a model's name; got `{value}`")
        return value

    @field_validator("max_shard_size")
    @classmethod
    def _a_size(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9][0-9]*[KMG]?B", value):
            raise ValueError(f"must be a whole number with B, KB, MB or GB after it, such as 500MB; got `{value}`")
        return value

    @field_validator("base", mode="before")
    @classmethod
    def _base_by_name(cls, value: object) -> object:
        return {"stage": value} if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _models_by_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: {"stage": one} if isinstance(one, str) else one for name, one in value.items()}

    @property
    def trains_nothing(self) -> bool:
        return True

    @property
    def inputs(self) -> dict[str, Weights]:
        """All that is read, by name, the base first."""
        return {**({} if self.base is None else {BASE: self.base}), **self.models}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if BASE in self.models:
            raise ValueError(f"models: `{BASE}` is the name of what differences are taken to; call the model otherwise")
        if self.method in TASK_VECTORS and self.base is None:
            raise ValueError(
                f"base: {self.method} adds up differences to a base, and there is none: name the stage that all models "
                "were trained from, or `model`"
            )
        if self.method == "slerp" and len(self.models) != 2:
            raise ValueError(f"models: slerp goes from one model to another, and here are {len(self.models)}")
        if self.method != "slerp" and self.t != MergeStage.model_fields["t"].default:
            raise ValueError("t: is of slerp; others have each model's weight")
        for name, one in self.models.items():
            has_density = one.density is not None or bool(one.densities)
            if self.method in SPARSE and not has_density:
                raise ValueError(f"models.{name}.density: {self.method} keeps a share of each difference; say which")
            if self.method not in SPARSE and has_density:
                raise ValueError(f"models.{name}.density: {self.method} keeps all of it; leave density out")
        if self.absent.startswith("take:") and self.absent.removeprefix("take:") not in self.models:
            raise ValueError(f"absent: there is no model `{self.absent.removeprefix('take:')}`")
        if self.absent == "zero_base" and self.base is None:
            raise ValueError("absent: zero_base is of a merge with a base")
        if self.into == "adapter" and self.vocabulary == "union":
            raise ValueError("vocabulary: an adapter has none of its own; union is of into: model")
        if self.result_rank is not None and self.into == "model":
            raise ValueError("result_rank: is of into: adapter")
        return self
