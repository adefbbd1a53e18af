"""A frozen autoencoder's latents as tokens of a language model's prompt: what other rooms and notebooks import.

    from tunestudy.models.components.world import load_world, world_images, world_text

    model, tokenizer = load_world("results/theworld/trials/aligned/seed_1/align/model")
    with world_images(model, pixels):  # uint8 (N, 3, S, S), all images of the batch in order
        model.generate(**tokenizer(prompts, return_tensors="pt"))  # each prompt holds world_text(...) once per image

How the pieces work stands where they are: `world_encoder.py` (images → latents), `world_projector.py` (latents → tokens
→ their places), `world_install.py` (into a model), `world_files.py` (to disk and back).
"""

from tunestudy.config.world import WORLD_PIXELS, WorldSettings, num_world_tokens
from tunestudy.models.components.world_encoder import WorldEncoder
from tunestudy.models.components.world_files import load_world, put_world, save_world
from tunestudy.models.components.world_install import install_world
from tunestudy.models.components.world_projector import (
    TOKENS,
    WorldEmbedding,
    WorldProjector,
    world_images,
    world_latents,
    world_of,
    world_text,
)
from tunestudy.models.components.world_vision import WorldVision

__all__ = [
    "TOKENS",
    "WORLD_PIXELS",
    "WorldEmbedding",
    "WorldEncoder",
    "WorldProjector",
    "WorldSettings",
    "WorldVision",
    "install_world",
    "load_world",
    "num_world_tokens",
    "put_world",
    "save_world",
    "world_images",
    "world_latents",
    "world_of",
    "world_text",
]
