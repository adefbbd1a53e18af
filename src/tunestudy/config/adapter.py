"""Adapters: one option model per kind, chosen by `type`. Spellings are PEFT's wherever PEFT has the option."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from tunestudy.config.base import Config, neutral
from tunestudy.config.model import Role


class LowRankOptions(Config):
    """What every low-rank adapter has: W x + s·B A x with A (r, inputs), B (outputs, r), s = alpha/r."""

    lora_r: int = Field(16, ge=1)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] | str = "all-linear"
    """`all-linear`, a list of module name endings, or one regular expression."""
    target: tuple[Role, ...] | Role | None = None
    """Only modules of these roles: `language_model` never reaches into the vision tower."""
    use_rslora: bool = False
    """Scale by alpha/√r in place of alpha/r. Source: arXiv:2312.03732."""
    rank_pattern: dict[str, int] = {}
    """Module name ending or regular expression → rank in place of `lora_r`."""
    alpha_pattern: dict[str, float] = {}
    """The same for `lora_alpha`."""


OWN_FACTORS = ("pissa", "olora")
"""Values of `init_lora_weights` that start from the base's weights, and are published at twice the rank."""


class LoraAdapter(LowRankOptions):
    """Low-rank adaptation. Source: Hu et al. 2021, arXiv:2106.09685."""

    type: Literal["lora"] = "lora"
    init_lora_weights: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = "default"
    """How A and B start. `default`: A uniform, B zero; `gaussian`: A normal with deviation 1/r, B zero; `orthogonal`:
    both from one orthogonal matrix such that B A = 0, as in PEFT; `pissa` and `olora`: from the weights' own singular
    vectors or QR factors, which are taken out of the base. The last two are published at twice the rank."""
    target_parameters: tuple[str, ...] = ()
    """Endings of raw parameters to adapt beside the modules: a MoE's fused experts (`mlp.experts.gate_up_proj`)."""


class DoraOptions(LowRankOptions):
    """What the adapters with a direction and a magnitude share."""

    dropout_on: Literal["input", "adapter"] = "input"
    """`input`: PEFT's meaning, dropped inputs go through the base weights too, at the price of a second product with
    them; `adapter`: only the adapter's branch sees dropped inputs, which is another regulariser and a cheaper one."""


class DoraAdapter(DoraOptions):
    """Weight-decomposed adaptation: m·(W + s·B A)/‖W + s·B A‖ by rows. Source: Liu et al. 2024, arXiv:2402.09353."""

    type: Literal["dora"] = "dora"


class GateOptions(LowRankOptions):
    """A gate per rank, W x + s·B diag(g) A x, driven to exact zeros by a proximal step after each optimiser step.

    Source: Ding et al., EMNLP 2023 (SoRA). `sparse_lambda` sets how far each step pulls gates to zero; with
    `target_sparsity` a controller sets it instead, so that the run ends with that share of gates at zero.
    """

    sparse_lambda: float | None = Field(None, ge=0)
    """Strength of the proximal step. A label only when `target_sparsity` is given."""
    sparse_lambda_schedule: tuple[float, ...] = ()
    """Strengths for equal parts of the run, in order, in place of one."""
    prox: Literal["lr_scaled", "absolute"] = "lr_scaled"
    """Threshold of a step: `sparse_lambda` times the learning rate, or `sparse_lambda` itself."""
    threshold: Literal["soft", "official"] = "soft"
    """`soft`: the textbook's soft threshold; `official`: the published code's, whose dead zone is twice as wide."""
    gate_init: Literal["normal", "ones"] = "normal"
    """N(0, 1) as in the published code, or ones."""
    gate_learning_rate: float | None = Field(None, gt=0)
    """Default: the stage's."""
    l1_lambda: float = Field(0.0, ge=0)
    """Coefficient of mean |g| in the loss, beside the proximal step."""
    gate_zero_tol: float = neutral(1e-6, ge=0)
    """A gate counts as shut below this; only what is logged depends on it."""
    target_sparsity: float | None = Field(None, ge=0, lt=1)
    """Share of gates that must be zero at the end."""

    @model_validator(mode="after")
    def _one_drive(self) -> Any:
        if self.sparse_lambda is None and not self.sparse_lambda_schedule and self.target_sparsity is None:
            raise ValueError("needs sparse_lambda, sparse_lambda_schedule or target_sparsity: what shuts the gates")
        if self.sparse_lambda_schedule and (self.sparse_lambda is not None or self.target_sparsity is not None):
            raise ValueError("sparse_lambda_schedule stands alone: drop sparse_lambda and target_sparsity")
        if any(strength < 0 for strength in self.sparse_lambda_schedule):
            raise ValueError("sparse_lambda_schedule: strengths must not be negative")
        return self


class SoraAdapter(GateOptions):
    """Sparse low-rank adaptation: LoRA with gates. Source: Ding et al., EMNLP 2023."""

    type: Literal["sora"] = "sora"


class SdoraAdapter(GateOptions, DoraOptions):
    """SoRA's gates inside DoRA's direction, the magnitude not gated. Ours; see docs/decisions."""

    type: Literal["sdora"] = "sdora"


def _tag(value: Any) -> str:
    """An adapter that does not name its type is a LoRA."""
    return str(value.get("type", "lora") if isinstance(value, dict) else getattr(value, "type", "lora"))


AnyAdapter = Annotated[
    Annotated[LoraAdapter, Tag("lora")]
    | Annotated[DoraAdapter, Tag("dora")]
    | Annotated[SoraAdapter, Tag("sora")]
    | Annotated[SdoraAdapter, Tag("sdora")],
    Discriminator(_tag),
]
"""One of the adapters."""

_SHAPE = (
    "type",
    "lora_r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "target",
    "target_parameters",
)
"""What decides which matrices an adapter has and how their product is scaled. Dropout and what shuts gates may change:
they belong to the training, not to the weights."""


def changed_shape(old: AnyAdapter, new: AnyAdapter) -> list[str]:
    """What keeps the weights of `old` from being those of `new`, as `key before → after`."""
    return [
        f"{key} {getattr(old, key)} → {getattr(new, key)}"
        for key in _SHAPE
        if hasattr(old, key) and hasattr(new, key) and getattr(old, key) != getattr(new, key)
    ]
