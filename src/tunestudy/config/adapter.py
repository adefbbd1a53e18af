"""Adapters: one option model per kind, chosen by `type`. Spellings are PEFT's wherever PEFT has the option."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from tunestudy.config.base import Config, neutral
from tunestudy.config.merge import Weights
from tunestudy.config.model import Role


class TargetOptions(Config):
    """Which modules an adapter sits on, and its rank."""

    lora_r: int = Field(16, ge=1)
    """Rank: rows of A, columns of B."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are dropped while training."""
    target_modules: Literal["all-linear"] | tuple[str, ...] | str = "all-linear"
    """`all-linear`, a list of module name endings, or one regular expression."""
    target: tuple[Role, ...] | Role | None = None
    """Only modules of these roles: `language_model` never reaches into the vision tower."""


class LowRankOptions(TargetOptions):
    """What every low-rank adapter has: W x + s·B A x with A (r, inputs), B (outputs, r), s = alpha/r."""

    lora_alpha: float = Field(32, gt=0)
    """The product B A counts alpha/r times."""
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

    def strength_at(self, step: int, total_steps: int) -> float:
        """`sparse_lambda` of a step; a schedule's strengths share the run in equal parts."""
        schedule = self.sparse_lambda_schedule
        if schedule:
            return schedule[min(len(schedule) - 1, step * len(schedule) // total_steps)]
        return self.sparse_lambda or 0.0


class SoraAdapter(GateOptions):
    """Sparse low-rank adaptation: LoRA with gates. Source: Ding et al., EMNLP 2023."""

    type: Literal["sora"] = "sora"


class SdoraAdapter(GateOptions, DoraOptions):
    """SoRA's gates inside DoRA's direction, the magnitude not gated. Ours; see docs/decisions."""

    type: Literal["sdora"] = "sdora"


RESERVED = frozenset({"epoch", "step", "module", "entropy", "balance"})
"""Columns of mole_log.csv, each of whose others is named after an expert."""


class MoleExpert(Weights):
    """Where an expert comes from."""

    use: Literal["difference", "factors"] = "difference"
    """`difference`: its weights minus those that the stage starts from, as factors of rank `lora_r`. `factors`: those
    of an adapter as they are, put beside whatever weights the stage starts from."""


class MoleAdapter(TargetOptions):
    """A mixture of LoRA experts: W x + Σ_e p_e(x)·B_e A_e x with learnt gates p = softmax(G h / τ).

    Source: Wu et al. 2024, arXiv:2404.13628. Our choices are in docs/decisions.
    """

    type: Literal["mole"] = "mole"
    experts: dict[str, MoleExpert | None] = Field(min_length=2)
    """Name → an earlier stage's result or a folder; null: an expert that adds nothing."""
    min_energy: float = Field(0.5, ge=0, le=1)
    """Share of a difference's squared norm that its factors must hold; less, and the stage is refused."""
    gate: Literal["token", "sequence", "layer"] = "token"
    """What a gate sees: each token's hidden state, the mean over a sample's prompt, or nothing (one mixture per layer,
    folded into a plain LoRA when published)."""
    top_k: int | None = Field(None, ge=1)
    """Experts that take part; default: all."""
    temperature: float = Field(1.0, gt=0)
    """τ: gates are softer above 1 and sharper below it."""
    learn_temperature: bool = False
    """τ learns, and begins at `temperature`."""
    balance: Literal["switch", "mole", "none"] = "switch"
    """Loss against gates that always choose the same: the Switch Transformer's, or the MoLE paper's."""
    balance_coefficient: float = Field(0.01, ge=0)
    """Weight of that loss."""
    gate_noise: float = Field(0.0, ge=0)
    """Standard deviation of normal noise on the gates' logits while training."""
    train_experts: bool = True
    """False: only the gates learn."""
    gate_learning_rate: float | None = Field(None, gt=0)
    """Default: the stage's."""

    @field_validator("experts", mode="before")
    @classmethod
    def _experts_by_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: {"stage": one} if isinstance(one, str) else one for name, one in value.items()}

    @property
    def inputs(self) -> dict[str, Weights]:
        """All that is read beside the start, by name."""
        return {name: one for name, one in self.experts.items() if one is not None}

    @model_validator(mode="after")
    def _enough_experts(self) -> "MoleAdapter":
        if self.top_k is not None and self.top_k > len(self.experts):
            raise ValueError(f"top_k: there are {len(self.experts)} experts")
        if not self.inputs:
            raise ValueError("experts: all of them add nothing; name a stage or a folder for one at least")
        return self


def _tag(value: Any) -> str:
    """An adapter that does not name its type is a LoRA."""
    return str(value.get("type", "lora") if isinstance(value, dict) else getattr(value, "type", "lora"))


AnyAdapter = Annotated[
    Annotated[LoraAdapter, Tag("lora")]
    | Annotated[DoraAdapter, Tag("dora")]
    | Annotated[SoraAdapter, Tag("sora")]
    | Annotated[SdoraAdapter, Tag("sdora")]
    | Annotated[MoleAdapter, Tag("mole")],
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
    "experts",
    "gate",
    "top_k",
    "learn_temperature",
)
"""What decides which matrices an adapter has and how their product is scaled. Dropout and what shuts gates may change:
they belong to the training, not to the weights."""


def changed_shape(old: AnyAdapter, new: AnyAdapter) -> list[str]:
    """What keeps the weights of `old` from being those of `new`, as `key before → after`."""
    return [
        f"{key} {_in_words(getattr(old, key))} → {_in_words(getattr(new, key))}"
        for key in _SHAPE
        if hasattr(old, key) and hasattr(new, key) and getattr(old, key) != getattr(new, key)
    ]


def _in_words(value: object) -> str:
    """Experts as a study file has them: `{en: english, ko: ./folder, same: null}`."""
    if not isinstance(value, dict) or not any(isinstance(one, MoleExpert) for one in value.values()):
        return str(value)
    origins = {name: "null" if one is None else f"{one.stage or one.path}" for name, one in value.items()}
    uses = {name: f" ({one.use})" for name, one in value.items() if one is not None and one.use != "difference"}
    return "{" + ", ".join(f"{name}: {origin}{uses.get(name, '')}" for name, origin in origins.items()) + "}"
