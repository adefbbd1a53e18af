"""The modules of all components, put into an InternVL: structure only, whatever the weights."""

import math
from typing import Any

from torch import nn

from tunestudy.config.components import Pyramid, VisionComponents
from tunestudy.config.errors import StudyError, at
from tunestudy.models.components.c_abstractor import ConvAbstractor
from tunestudy.models.components.pyramid import add_pyramid, quarters
from tunestudy.models.components.rope2d import add_rope2d

KEY = "components"


def add_parts(model: Any, settings: VisionComponents) -> list[nn.Module]:
    """Add what `settings` (explicit ones, that fit) switches on, on the current default device; the new modules.

    Their parameters lie on paths that tell their role: `…vision_tower.…rope2d`, `…vision_tower.encoder.pyramid` and
    `…multi_modal_projector`. The weights of the model keep their names.
    """
    inner = inner_model(model)
    config, tower, added = inner.config, inner.vision_tower, []
    if settings.rope2d is not None:
        added += add_rope2d(tower, settings.rope2d, side=tile_side(config))
    if settings.pyramid is not None:
        added += add_pyramid(tower, settings.pyramid)
    if settings.c_abstractor is not None:
        projector = ConvAbstractor(
            settings.c_abstractor,
            channels=config.vision_config.hidden_size,
            outputs=config.text_config.hidden_size,
            num_patches=tile_side(config) ** 2,
        )
        inner.multi_modal_projector = projector
        config.downsample_ratio = 1.0  # pixel shuffle by 1 leaves the grid as it is
        config.image_seq_length = settings.c_abstractor.num_queries
        inner.register_forward_pre_hook(check_placeholders, with_kwargs=True)
        added.append(projector)
    return added


def inner_model(model: Any) -> Any:
    """The InternVLModel inside the model with a head, or itself."""
    return getattr(model, "model", model)


def tile_side(config: Any) -> int:
    """Patches along the edge of a tile."""
    vision = config.vision_config
    return int(vision.image_size[0] // vision.patch_size[0])


def tokens_per_tile(model: Any) -> int:
    """Placeholders that the prompt must hold for one tile of an InternVL."""
    config = model.config
    components = getattr(model, "components", None)
    if components is not None and components.c_abstractor is not None:
        return int(components.c_abstractor.num_queries)
    return int((tile_side(config) * config.downsample_ratio) ** 2)


def explicit(settings: VisionComponents, config: Any) -> VisionComponents:
    """With every default that depends on the model filled in."""
    if settings.pyramid is None or settings.pyramid.levels is not None:
        return settings
    levels = quarters(config.vision_config.num_hidden_layers)
    return settings.model_copy(update={"pyramid": settings.pyramid.model_copy(update={"levels": levels})})


def check_fits(config: Any, settings: VisionComponents) -> None:
    """StudyError at the key of a component that this model has no place for."""
    vision, side = config.vision_config, tile_side(config)
    if vision.image_size[1] // vision.patch_size[1] != side:
        raise StudyError(at(KEY), f"tiles of {vision.image_size} are no square grid of patches")
    head_dim = vision.hidden_size // vision.num_attention_heads
    if settings.rope2d is not None and head_dim % 4:
        message = f"needs heads of a multiple of 4 (a pair per axis); this tower's have {head_dim}"
        raise StudyError(at(f"{KEY}.rope2d"), message)
    if settings.pyramid is not None:
        _check_levels(settings.pyramid, config)
    if settings.c_abstractor is not None and settings.c_abstractor.num_queries > side**2:
        raise StudyError(
            at(f"{KEY}.c_abstractor.num_queries"),
            f"{settings.c_abstractor.num_queries} tokens cannot be pooled from the {side}×{side} patches of a tile; "
            f"at most {side**2}",
        )


def _check_levels(pyramid: Pyramid, config: Any) -> None:
    if config.vision_feature_layer != -1:
        message = f"adds to the tower's last layer, and this model reads layer {config.vision_feature_layer}"
        raise StudyError(at(f"{KEY}.pyramid"), message)
    depth = config.vision_config.num_hidden_layers
    if pyramid.levels and pyramid.levels[-1] > depth:
        message = f"there is no layer {pyramid.levels[-1]}: the tower has {depth}"
        raise StudyError(at(f"{KEY}.pyramid.levels"), message)


def check_placeholders(model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
    """Before each forward pass with images: as many placeholders as the projector gives tokens, else StudyError."""
    ids, pixels = kwargs.get("input_ids"), kwargs.get("pixel_values")
    if ids is None or pixels is None:
        return
    found, tiles, per_tile = int((ids == model.config.image_token_id).sum()), len(pixels), model.config.image_seq_length
    if found != tiles * per_tile:
        now = f"{found / tiles:g}" if tiles else str(found)
        near = math.isqrt(found // tiles) if tiles else 0
        cure = f", or {near * near} queries" if near * near * tiles == found and near else ""
        raise StudyError(
            at(f"{KEY}.c_abstractor.num_queries"),
            f"the projector query count does not fit the prompt: {tiles} tiles become {tiles * per_tile} tokens "
            f"({per_tile} each), and the prompt has {found} placeholders ({now} each); give it {per_tile} per "
            f"tile (tokens_per_tile){cure}",
        )
