"""One phase of training: what is trainable, on which data, with which optimiser.

Spellings are those of Hugging Face `TrainingArguments` wherever one exists. A field made with `neutral`
cannot change a result and stays out of the job's fingerprint.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from tunestudy.config.adapter import AnyAdapter, MoleAdapter
from tunestudy.config.base import Config, neutral
from tunestudy.config.components import AnyComponents
from tunestudy.config.data import DataSettings, MixturePart
from tunestudy.config.merge import MergeStage, Weights
from tunestudy.config.model import DType, Role
from tunestudy.config.sharing import CheckpointSharing
from tunestudy.config.trackers import Tracker, tracker_names
from tunestudy.config.world import WORLD_ALONE, WorldSettings


class Quantization(Config):
    """The base's linear layers in 4 or 8 bits through bitsandbytes (extra `quant`); an adapter learns on top.

    Spellings are those of transformers' `BitsAndBytesConfig`. Source of NF4: Dettmers et al. 2023, arXiv:2305.14314.
    """

    load_in_4bit: bool = False
    """4 bits a weight."""
    load_in_8bit: bool = False
    """8 bits a weight."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """The sixteen values that 4 bits stand for."""
    bnb_4bit_use_double_quant: bool = True
    """Also keep the scales of blocks in 8 bits."""
    bnb_4bit_compute_dtype: DType = "float32"
    """What weights are unpacked to for a product."""
    bnb_4bit_quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] = neutral("uint8")
    """The type under which packed weights are stored."""

    @model_validator(mode="after")
    def _one_width(self) -> "Quantization":
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError("give exactly one of load_in_4bit and load_in_8bit")
        return self


class TrainableSettings(Config):
    """Which weights move and how a stage starts."""

    after: str | None = neutral(None)  # what it left is in the fingerprint, not how it is called
    """The earlier stage of the variant that this one starts from; default: the one before it."""
    init: Literal["continue", "merge_then_new", "stack", "base"] | None = None
    """From the stage before: `continue` its weights, merge its adapter and start a new one (`merge_then_new`),
    put a new adapter on top of the frozen old one (`stack`), or start from the study's model (`base`)."""
    train: tuple[Role, ...] | Literal["all", "none"] | None = None
    """Roles trained in full. Default: everything without an adapter, nothing beside one."""
    adapter: AnyAdapter | None = None
    """Small weights that learn in place of the model's; null trains in full."""
    quantization: Quantization | None = None
    """Load the base in few bits (QLoRA). Needs an adapter."""
    components: AnyComponents = None
    """Added to the model's vision pipeline at the start of this stage; the stages after it keep them."""
    world: WorldSettings | None = None
    """Give the model a world part at the start of this stage (extra `world`); stages after it keep it. Its projection
    learns, or nothing (`train: none`), and it is published by itself."""
    learning_rates: dict[Role, float] = {}
    """Learning rate per role; roles that are not named use `learning_rate`."""


class OptimiserSettings(Config):
    """Optimiser, schedule and regularisation."""

    optim: Literal[
        "adamw_torch_fused",
        "adamw_torch",
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "sgd",
        "adafactor",
    ] = "adamw_torch_fused"
    """`…_8bit` keeps AdamW's moments in 8 bits, `paged_…` lets them move to the host's memory when a GPU runs short;
    both through bitsandbytes (extra `quant`)."""
    learning_rate: float = Field(gt=0)
    """Peak rate, of everything that `learning_rates` or an adapter's own key does not name."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Of `sgd`."""
    weight_decay: float = Field(0.0, ge=0)
    """Not applied to biases, norms and other vectors."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Global norm; null switches clipping off."""
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_min_lr",
        "constant",
        "constant_with_warmup",
        "polynomial",
        "inverse_sqrt",
        "warmup_stable_decay",
    ] = "linear"
    """Course of the rate after the warmup, under transformers' names."""
    warmup_steps: float = Field(0.0, ge=0)
    """Steps, or a share of all steps when below 1."""
    min_lr_rate: float = Field(0.0, ge=0, le=1)
    """Floor of `cosine_with_min_lr`, `warmup_stable_decay` and `polynomial`, as a share of the peak."""
    decay_steps: float = Field(0.1, ge=0)
    """Of `warmup_stable_decay`: the final decay, in steps or as a share."""
    label_smoothing_factor: float = Field(0.0, ge=0, lt=1)
    """Share of a target's probability that is spread over all tokens."""
    layer_lr_decay: float | None = Field(None, gt=0, le=1)
    """Each layer's rate is that of the layer above times this: the last layer learns at `learning_rate`, the embeddings
    slowest of all."""
    neftune_noise_alpha: float | None = Field(None, gt=0)
    """Uniform noise on input embeddings. Source: arXiv:2310.05914."""


class BatchSettings(Config):
    """How long to train and how a step is cut up.

    `effective_batch_size = per_device_train_batch_size × gradient_accumulation_steps × ranks`; give any
    that are known, the rest is solved for the hardware, and contradictions are errors.
    """

    effective_batch_size: int | None = Field(None, ge=1)
    """Samples (packs when packing) per optimiser step over all ranks."""
    per_device_train_batch_size: int | None = neutral(None, ge=1)
    """Samples of a forward pass on one rank."""
    gradient_accumulation_steps: int | None = neutral(None, ge=1)
    """Forward passes of a rank per optimiser step."""
    num_train_epochs: float = Field(1.0, gt=0)
    """Times that the stage walks through its data; may be a fraction."""
    max_steps: int | None = Field(None, ge=1)
    """Overrides `num_train_epochs`."""
    bf16: bool = False
    """Compute in bfloat16; trainable weights stay in float32."""
    fp16: bool = False
    """Half precision with a loss scaler whose state is part of a full checkpoint."""
    activation_checkpointing: bool = neutral(False)
    """Compute activations again in the backward pass: less memory, more time."""
    dataloader_num_workers: int = neutral(2, ge=0)
    """Threads of a rank that decode and resize images ahead of their batches; 0: none, each when it is needed."""
    padding: Literal["auto", "free", "right"] = neutral("auto")
    """Unpacked batches: `free` lays samples end to end without padding, `right` pads; `auto` is free where the
    model's attention can keep samples apart."""


class EvaluationSettings(Config):
    """Loss and perplexity during training, on a fixed subset."""

    eval_data: tuple[MixturePart, ...] = ()
    """Default: the held-out rows of the stage's own data sets."""
    eval_steps: int | None = Field(None, ge=1)
    """Steps between evaluations, beside those at epochs' ends."""
    eval_on_epoch_end: bool = True
    """Evaluate after each epoch."""
    eval_on_start: bool = False
    """Evaluate before the first step, too."""
    eval_subset_size: int | None = Field(512, ge=1)
    """Rows, chosen by hash of id and `eval_subset_seed`; null means all."""
    eval_subset_seed: int = 0
    """Another one takes other rows."""
    per_device_eval_batch_size: int | None = neutral(None, ge=1)
    """Rows of a forward pass; default: the micro-batch of training."""
    eval_sample_losses: bool = neutral(False)
    """Also write the loss of every evaluated row to eval_samples.csv."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """End the stage after this many evaluations without a better `eval_loss`."""
    early_stopping_threshold: float = Field(0.0, ge=0)
    """By how much `eval_loss` must fall to count as better."""


class CheckpointSettings(CheckpointSharing):
    """What is written while training, and what is kept."""

    save_steps: int | None = neutral(500, ge=1)
    """Cadence of lite checkpoints: trainable weights only."""
    full_save_steps: int | None = neutral(500, ge=1)
    """Cadence of full checkpoints: the same plus all that an exact resume needs."""
    save_on_epoch_end: bool = neutral(True)
    """Also write a checkpoint after each epoch."""
    checkpoint_mode: Literal["lite", "full"] = neutral("lite")
    """What an epoch-end checkpoint holds."""
    save_total_limit: int = neutral(2, ge=1)
    """Last checkpoints kept."""
    save_best_k: int = neutral(1, ge=0)
    """Best checkpoints kept, by `metric_for_best_model`."""
    metric_for_best_model: Literal["eval_loss", "train_loss"] = neutral("eval_loss")
    """The lower, the better."""
    load_best_model_at_end: bool = False
    """Publish the best checkpoint's weights in place of the last step's."""
    checkpoint_names: Literal["step", "epoch_step"] = neutral("step")
    """`epoch_step`: beside `checkpoint-500` a link `checkpoint-epoch1-step500`, or `checkpoint-epoch1` at its end."""
    save_merged: bool = neutral(False)
    """Also publish the adapter folded into its base as `merged/`, a plain model in safetensors."""
    drop_intermediate: bool = neutral(True)
    """After the stage, keep only the last and the best checkpoints."""

    @property
    def writes_full(self) -> bool:
        """Whether any checkpoint is a full one."""
        return self.full_save_steps is not None or (self.save_on_epoch_end and self.checkpoint_mode == "full")


class LoggingSettings(Config):
    """What is logged and where to."""

    logging_steps: int = neutral(10, ge=1)
    """Steps between rows of loss_log.csv."""
    log_gradients: bool = neutral(False)
    """Also write gradient statistics per role to gradient_log.csv."""
    report_to: tuple[Tracker, ...] = neutral(())
    """Trackers that show its figures elsewhere: `tensorboard`, `wandb`, `trackio`, or `all`; `none` by default."""
    gpu_sample_s: float = neutral(5.0, gt=0)
    """Seconds between samples of GPUs (gpu.csv) and, with several ranks, of hosts' networks (logs/network-*.csv)."""


SLICING = ("fsdp2", "deepspeed")
"""Engines under which a rank may hold a slice of what learns."""


class Fsdp2Settings(Config):
    """How the engine `fsdp2` shares a model between ranks. None of it changes a result beyond rounding."""

    shard: Literal["all", "gradients"] = neutral("all")
    """`all`: every rank holds a slice of everything and gathers a block's weights when it needs them. `gradients`:
    frozen weights are whole on every rank; trainable ones, their gradients and the optimiser's state are sliced, and
    weights stay gathered between the forward and the backward pass."""
    within_node: bool = neutral(False)
    """Slice within a host and keep a copy per host (HSDP): between hosts only gradients travel."""
    cpu_offload: bool = neutral(False)
    """Keep slices in the host's memory and bring them to the GPU block by block."""
    prefetch: int = neutral(1, ge=0)
    """Blocks whose weights are gathered ahead of the one that computes."""


class EngineSettings(Config):
    """How ranks share the work."""

    engine: Literal["auto", "single", "ddp", "fsdp2", "deepspeed"] = neutral("auto")
    """`auto`: `single` for one rank, `ddp` (the whole model on every rank) for several."""
    fsdp2: Fsdp2Settings = neutral(Fsdp2Settings())
    """Of the engine `fsdp2`."""
    deepspeed: dict[str, Any] = neutral({})
    """Of the engine `deepspeed` (extra `deepspeed`): DeepSpeed's own keys, or the name of a JSON file that holds them.
    What each of them does is in docs/deepspeed.md. Default: ZeRO stage 2."""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str] | None = neutral(
        None
    )
    """One rank with its model spread over several GPUs (`resources.gpus_per_rank`): by size, or module → device, as
    transformers' `device_map`. Devices take turns: this is for what does not fit, not for speed."""
    torch_compile: bool = neutral(False)
    """Compile the model's blocks, for any length of input. Needs a C++ compiler."""


class TrainStage(
    TrainableSettings,
    DataSettings,
    OptimiserSettings,
    BatchSettings,
    EvaluationSettings,
    CheckpointSettings,
    LoggingSettings,
    EngineSettings,
):
    """A training stage, every default explicit."""

    type: Literal["train"] = neutral("train")

    @property
    def trains_nothing(self) -> bool:
        """Whether the stage only installs a part with its first, random weights: a baseline of the trained one."""
        return self.world is not None and self.train == "none"

    @field_validator("data", "eval_data", mode="before")
    @classmethod
    def _names_to_parts(cls, value: object) -> object:
        parts = [value] if isinstance(value, str | dict) else value
        if not isinstance(parts, list | tuple):
            return value
        return tuple({"dataset": part} if isinstance(part, str) else part for part in parts)

    @field_validator("report_to", mode="before")
    @classmethod
    def _named_trackers(cls, value: object) -> object:
        return tracker_names(value)

    @model_validator(mode="after")
    def _consistent(self) -> "TrainStage":
        if not self.data:
            raise ValueError("data: a training stage needs at least one data set")
        if self.quantization and self.adapter is None:
            raise ValueError("quantization: weights in few bits cannot be trained in full; add an adapter")
        if self.world is not None and (self.adapter is not None or self.quantization is not None):
            raise ValueError(f"world: {WORLD_ALONE}")
        if self.world is not None and self.components is not None:
            raise ValueError("world: its result cannot hold new components; add those in a stage before this one")
        if self.world is not None and self.train not in (None, "none", ("world_projector",)):
            raise ValueError(f"train: {WORLD_ALONE}")
        if self.early_stopping_patience and not self.eval_steps and not self.eval_on_epoch_end:
            raise ValueError("early_stopping_patience counts evaluations; set eval_steps or eval_on_epoch_end")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other")
        if self.engine in SLICING and self.fp16:
            raise ValueError(f"fp16: its loss scaler does not see other ranks' slices under {self.engine}; use bf16")
        if self.engine in SLICING and self.optim not in ("adamw_torch_fused", "adamw_torch", "sgd"):
            raise ValueError(f"optim: {self.optim} cannot work on slices; {self.engine} takes AdamW of torch, and sgd")
        if self.deepspeed and self.engine != "deepspeed":
            raise ValueError("deepspeed: these are keys of another engine; set engine: deepspeed, or leave them out")
        if self.order == "length_grouped" and self.packing:
            raise ValueError("order: length_grouped is for padded batches; packing already wastes no padding")
        return self


def _tag(value: Any) -> str:
    """A stage that does not name its type trains."""
    return str(value.get("type", "train") if isinstance(value, dict) else getattr(value, "type", "train"))


AnyStage = Annotated[Annotated[TrainStage, Tag("train")] | Annotated[MergeStage, Tag("merge")], Discriminator(_tag)]
"""One of the stages."""


def inputs_of(stage: TrainStage | MergeStage) -> dict[str, Weights]:
    """What a stage reads beside the weights that it starts from, by name: models to merge, experts."""
    if isinstance(stage, MergeStage):
        return stage.inputs
    return stage.adapter.inputs if isinstance(stage.adapter, MoleAdapter) else {}
