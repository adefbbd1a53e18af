"""Giving a model its world part, and its tokenizer the tokens of it."""

from pathlib import Path
from typing import Any

import torch

from tunestudy.config.errors import StudyError, at
from tunestudy.config.world import WorldSettings
from tunestudy.models.components.world_encoder import WorldEncoder, load_encoder
from tunestudy.models.components.world_projector import TOKENS, WorldEmbedding
from tunestudy.models.decoder import base_model_of


def install_world(
    model: Any, tokenizer: Any, settings: WorldSettings, *, seed: int, base_dir: Path | None = None
) -> None:
    """Give a model a world part and its tokenizer three tokens, both in place; weights depend on `seed` alone.

    What learns lies where the input embedding lies, in float32; the model's own matrices keep their shapes. Relative
    paths of an encoder start at `base_dir`. StudyError where settings and encoder, or model and tokenizer, do not fit.
    """
    base = base_model_of(model)
    old = base.get_input_embeddings()
    assert not isinstance(old, WorldEmbedding), "a model has one world part"
    encoder = load_encoder(settings.encoder, seed=seed, device=settings.device, base_dir=base_dir or Path.cwd())
    features, ids = token_features(settings, encoder), new_tokens(base, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part = WorldEmbedding(
            old, settings, encoder, features=features, ids=ids, spread=embedding_spread(base), seed=seed
        )
    for learning in (part.world_projector, part.world_borders):
        learning.to(old.weight.device, torch.float32)
    base.set_input_embeddings(part)


def token_features(settings: WorldSettings, encoder: WorldEncoder) -> int:
    """Numbers per token before the projection; StudyError for an image size or tokens that the encoder cannot have."""
    side, rest = divmod(settings.image_size, encoder.factor)
    if rest:
        lower = side * encoder.factor
        message = f"{settings.image_size} does not divide by the encoder's {encoder.factor} pixels per latent cell"
        raise StudyError(at("world.image_size"), f"{message}; nearest that do: {lower}, {lower + encoder.factor}")
    if settings.reduction == "channel":
        if settings.tokens != encoder.channels:
            message = "with reduction: channel there is a token per latent channel, and this encoder has"
            raise StudyError(at("world.tokens"), f"{message} {encoder.channels}; set tokens: {encoder.channels}")
        return side * side
    if settings.tokens > side * side:
        message = f"an image of {settings.image_size} pixels has {side} × {side} latent cells"
        raise StudyError(at("world.tokens"), f"{message}, fewer than {settings.tokens}; take at most {side * side}")
    return encoder.channels


def new_tokens(base: Any, tokenizer: Any) -> tuple[int, int, int]:
    """Ids of the three tokens, added to the tokenizer where it lacks them.

    They follow the tokenizer's own, so a row that the model's matrix keeps in reserve may have the same number; nobody
    looks at it. StudyError where the model has given the number to a placeholder of its own.
    """
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    start, world, end = (int(tokenizer.convert_tokens_to_ids(token)) for token in TOKENS)
    taken = {
        value: name
        for name, value in vars(base.config).items()
        if isinstance(value, int) and name.endswith(("_token_id", "_token_index"))
    }
    for token, number in zip(TOKENS, (start, world, end), strict=True):
        if number in taken:
            raise StudyError(
                at("world"),
                f"{token} would be token {number}, which this model's configuration calls {taken[number]}; its "
                "tokenizer lacks tokens that the model has",
            )
    return start, world, end


def embedding_spread(base: Any) -> float:
    """Deviation of what a fresh input embedding of this model gives, scale included: new embeddings begin like it."""
    scale = getattr(base.get_input_embeddings(), "scalar_embed_scale", 1.0)
    return float(getattr(base.config.get_text_config(), "initializer_range", 0.02)) * float(scale)
