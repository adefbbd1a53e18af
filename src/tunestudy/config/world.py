"""The world part of a model: a frozen video autoencoder whose latents become tokens of the prompt."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tunestudy.config.base import Config, neutral
from tunestudy.config.model import DType

INSTALL_WORLD = "pip install 'tunestudy[world]'"
"""What brings diffusers, whose autoencoders these are."""

WORLD_PIXELS = "world_pixels"
"""The name of the world part's input (N, 3, S, S) uint8 among a batch's pixels."""

WORLD_ALONE = (
    "a world part is published by itself, so nothing else can learn with it: train its projection "
    "(train: [world_projector]) or nothing (train: none), without an adapter"
)


class WorldEncoderSettings(Config):
    """A frozen autoencoder of diffusers: pretrained (`model_name_or_path`) or with random weights (`config`)."""

    type: Literal["wan", "cosmos"] = "wan"
    """`wan`: AutoencoderKLWan, which Wan and Cosmos-Predict2 share; `cosmos`: AutoencoderKLCosmos of Cosmos 1."""
    model_name_or_path: str | None = None
    """A local folder, relative to the study file, or a hub id."""
    revision: str | None = None
    """Commit, branch or tag of a hub id."""
    subfolder: str | None = "vae"
    """Where it lies inside a pipeline's repository; null for one that is an autoencoder by itself."""
    config: dict[str, Any] = {}
    """Arguments of the class, for random weights seeded by the trial: for tests and tiny studies."""
    dtype: DType = "float32"
    """What it is held and computed in, whatever the stage's precision."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.model_name_or_path is None) == (not self.config):
            raise ValueError("give either model_name_or_path (pretrained) or config (random weights)")
        return self


class WorldSettings(Config):
    """A frozen autoencoder, a projection into the language model, and the tokens that frame it.

    A prompt holds `<start_of_world>`, `tokens` × (1 + `num_world_steps`) times `<world>`, `<end_of_world>`. What learns
    is the projection, an embedding per latent frame and one for each of the two border tokens.
    """

    encoder: WorldEncoderSettings
    """Which autoencoder."""
    image_size: int = Field(512, ge=8)
    """Images are brought to this many pixels on both sides."""
    reduction: Literal["spatial", "channel"] = "spatial"
    """`spatial`: a token is a cell of the latent grid, with the channels as its features; `channel`: a token is a
    latent channel, with the grid's cells as its features."""
    tokens: int = Field(256, ge=1)
    """Per latent frame. `spatial`: k², the grid is averaged to k × k; `channel`: as many as the encoder's channels."""
    projection: Literal["mlp", "mlp_no_final_gelu", "linear"] = "mlp"
    """`mlp`: linear, GELU, linear, GELU."""
    num_world_steps: int = Field(0, ge=0)
    """Latent frames beyond the first. A still image is repeated in time to yield them."""
    max_world_steps: int = Field(16, ge=1)
    """Rows of the temporal embedding: latent frames that it can tell apart."""
    device: str | None = neutral(None)
    """The encoder's own device, such as `cuda:1`; default: where the images are."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if 1 + self.num_world_steps > self.max_world_steps:
            raise ValueError(
                f"num_world_steps: {self.num_world_steps} steps make {1 + self.num_world_steps} latent frames, and "
                f"max_world_steps has rows for {self.max_world_steps}"
            )
        side = round(self.tokens**0.5)
        if self.reduction == "spatial" and side * side != self.tokens:
            below, above = int(self.tokens**0.5) ** 2, (int(self.tokens**0.5) + 1) ** 2
            raise ValueError(f"tokens: {self.tokens} is no square, so no k × k grid; nearest: {below}, {above}")
        return self


def num_world_tokens(settings: WorldSettings) -> int:
    """`<world>` tokens of one image, without the two around them."""
    return settings.tokens * (1 + settings.num_world_steps)


def changed_world(old: WorldSettings, new: WorldSettings) -> list[str]:
    """What keeps the weights of `old` from being those of `new`, as keys. The device may change."""
    keys = [key for key in WorldSettings.model_fields if key != "device"]
    return [key for key in keys if getattr(old, key) != getattr(new, key)]
