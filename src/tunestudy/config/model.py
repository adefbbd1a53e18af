"""Which model a study starts from."""

from typing import Any, Literal

from pydantic import Field, model_validator

from tunestudy.config.base import Config, neutral, newer

Role = Literal["vision_tower", "projector", "language_model", "router", "lm_head", "world_projector", "world_encoder"]
"""A named part of a model. `models/roles.py` says which modules each is in an architecture."""

DType = Literal["float32", "bfloat16", "float16"]


class CharacterTokenizer(Config):
    """One token per character: for models trained from scratch on small generated text."""

    type: Literal["characters"] = "characters"
    alphabet: str = Field(min_length=1)
    """Every character that occurs in the data; one that does not stand here becomes the unknown token."""


class ModelConfig(Config):
    """Pretrained weights (`model_name_or_path`) or a fresh model of a real class (`architecture`)."""

    model_name_or_path: str | None = None
    """A local folder or a hub id."""
    revision: str | None = None
    """Commit, branch or tag of a hub id."""
    architecture: str | None = None
    """A `model_type` of transformers, such as `qwen3`: random weights of that class, seeded by the trial."""
    weights_seed: int | None = newer()
    """Draw them by this seed in place of the trial's: all seeds start at one model, as with pretrained weights."""
    config: dict[str, Any] = {}
    """Arguments of that class's configuration (`hidden_size`, `num_hidden_layers`, …)."""
    tokenizer: CharacterTokenizer | str | None = None
    """Default: the one of `model_name_or_path`."""
    tokenizer_revision: str | None = newer()
    """Commit, branch or tag of a `tokenizer` that is a hub id."""
    image_processor: dict[str, Any] = {}
    """Options of a vision-language model's image processor in place of its own (`max_patches`, `max_pixels`, …)."""
    chat_template: str | None = None
    """A jinja2 template, or a path to one, in place of the tokenizer's own."""
    weights: str | None = newer()
    """A folder of weights laid over the model to evaluate it: a PEFT adapter, or a checkpoint of tunestudy. No stage
    can train on it."""
    dtype: DType = "float32"
    """Storage of frozen weights; trainable weights are always held in float32."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = neutral("sdpa")
    """As transformers names it; the flash ones need their package and a GPU."""
    trust_remote_code: bool = False
    """Run the Python that a model's repository brings along."""

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelConfig":
        if (self.model_name_or_path is None) == (self.architecture is None):
            raise ValueError("give either model_name_or_path (pretrained) or architecture (random weights)")
        if self.architecture and self.tokenizer is None:
            raise ValueError("architecture needs a tokenizer: {type: characters, alphabet: …} or a path")
        if self.config and not self.architecture:
            raise ValueError("config belongs to architecture; a pretrained model brings its own")
        if self.weights_seed is not None and not self.architecture:
            raise ValueError("weights_seed belongs to architecture; a pretrained model's weights are not drawn")
        return self

    def drawn_by(self, seed: int) -> int:
        """The seed of random weights in a job of `seed`."""
        return seed if self.weights_seed is None else self.weights_seed
