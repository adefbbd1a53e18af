"""A tiny InternVL, inputs for it, and components of its size; models with a world part."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tinyvision import ALL, IMAGE_TOKEN, INTERNVL, build
from world_lab import build as build_plain
from world_lab import world_settings

from tunestudy.config.components import VisionComponents
from tunestudy.config.world import WorldSettings
from tunestudy.models.components.install import install
from tunestudy.models.components.world import install_world


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """A function: an InternVL of 4 layers and 4×4 patches per tile, the same weights each time; with `components`."""
    torch.set_num_threads(1)

    def make(components: dict[str, Any] | None = None, *, seed: int = 5, **vision: Any) -> Any:
        model = build(**vision)
        if components:
            install(model, VisionComponents.model_validate(components), seed=seed)
        return model

    return make


@pytest.fixture
def inputs() -> Callable[..., dict[str, torch.Tensor]]:
    """A function: one row of text around the placeholders of `tiles` tiles."""

    def make(per_tile: int = 4, *, tiles: int = 2) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(1)
        ids = [1, 2, 3, *[IMAGE_TOKEN] * (per_tile * tiles), 4, 5, 6]
        pixels = torch.randn(tiles, 3, 28, 28, generator=random)
        return {"input_ids": torch.tensor([ids]), "pixel_values": pixels}

    return make


@pytest.fixture
def see(inputs: Callable[..., dict[str, torch.Tensor]]) -> Callable[[Any], torch.Tensor]:
    """A function: the logits of a model on a row with two tiles."""

    def of(model: Any) -> torch.Tensor:
        from tunestudy.models.components.parts import tokens_per_tile
        from tunestudy.models.decoder import base_model_of

        with torch.no_grad():
            logits: torch.Tensor = model.eval()(**inputs(tokens_per_tile(base_model_of(model)))).logits
        return logits

    return of


@pytest.fixture
def stir() -> Callable[[Any], None]:
    """A function: move every parameter, as training would."""

    def of(model: Any) -> None:
        random = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)

    return of


@pytest.fixture
def everything() -> dict[str, Any]:
    """All three components, small."""
    return dict(ALL)


@pytest.fixture
def internvl() -> dict[str, Any]:
    """`model:` of a study, random weights."""
    tokenizer = {"type": "characters", "alphabet": "0123456789ab\n="}
    return {"architecture": "internvl", "config": INTERNVL, "tokenizer": tokenizer}


@pytest.fixture
def equipped() -> Callable[..., tuple[Any, Any, WorldSettings]]:
    """A function: model, tokenizer and settings, the world part installed."""

    def make(architecture: str = "qwen3", reserve: int = 0, **options: Any) -> tuple[Any, Any, WorldSettings]:
        model, tokenizer = build_plain(architecture, reserve)
        settings = world_settings(**options)
        install_world(model, tokenizer, settings, seed=3)
        return model, tokenizer, settings

    return make
