"""Parts that a stage adds to a model's vision pipeline. Their equations are in docs/components.md.

`true` and `{}` both mean a component with its defaults, `false` and `null` none.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from tunestudy.config.base import Config


def _switch(value: Any) -> Any:
    """`true` as the defaults, `false` as nothing."""
    if isinstance(value, bool):
        return {} if value else None
    return value


class Rope2d(Config):
    """Rotary position embedding by row and column of the patch grid, on top of the learned embedding."""

    theta: float = Field(10_000.0, gt=0)
    """Base of the frequencies."""
    gate: Literal["zero", "none"] = "zero"
    """`zero`: every layer's angles are multiplied by a learned number that starts at 0, so that the model is unchanged
    at first; `none`: the full angles from the first step on, nothing to learn."""


class Pyramid(Config):
    """Features of several layers of the vision tower, added to the last one's. Nothing changes at first."""

    levels: tuple[int, ...] | None = None
    """Layers, counted from 1. Default: the last of each quarter of the tower."""
    how: Literal["concat", "fpn"] = "concat"
    """`concat`: one linear map of all levels side by side; `fpn`: a top-down path over coarser and coarser grids."""
    hidden_size: int = Field(256, ge=1)
    """Channels of the path of `fpn`."""

    @field_validator("levels")
    @classmethod
    def _ascending(cls, levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if levels is not None and (not levels or levels[0] < 1 or list(levels) != sorted(set(levels))):
            raise ValueError("levels count layers from 1, in ascending order, each once")
        return levels


class CAbstractor(Config):
    """Honeybee's convolutional projector in place of pixel shuffle and MLP. Source: Cha et al. 2023, arXiv:2312.06742.

    The defaults are those of its published configuration.
    """

    num_queries: int = Field(144, ge=1)
    """Tokens that a tile becomes: a square number. The prompt holds as many placeholders per tile."""
    depth: int = Field(3, ge=1)
    """Residual blocks before the pooling, and again after it."""
    mlp_depth: int = Field(2, ge=1)
    """Linear layers of the read-out."""
    hidden_size: int = Field(1024, ge=1)
    """Channels of its blocks."""
    pos_emb: bool = True
    """A learned embedding per patch, added before the first block."""

    @field_validator("num_queries")
    @classmethod
    def _square(cls, num_queries: int) -> int:
        side = math.isqrt(num_queries)
        if side * side != num_queries:
            near = f"{side * side} and {(side + 1) ** 2}"
            raise ValueError(f"the projector pools a tile to a square grid, and {num_queries} is no square: use {near}")
        return num_queries


class VisionComponents(Config):
    """What is added to the vision pipeline of an InternVL."""

    rope2d: Annotated[Rope2d | None, BeforeValidator(_switch, json_schema_input_type=Rope2d | bool | None)] = None
    """Rotary positions by row and column."""
    pyramid: Annotated[Pyramid | None, BeforeValidator(_switch, json_schema_input_type=Pyramid | bool | None)] = None
    """Features of several layers."""
    c_abstractor: Annotated[
        CAbstractor | None, BeforeValidator(_switch, json_schema_input_type=CAbstractor | bool | None)
    ] = None
    """A convolutional projector."""

    @property
    def named(self) -> tuple[str, ...]:
        """The components that are switched on."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


def _none_if_empty(components: VisionComponents | None) -> VisionComponents | None:
    return components if components is not None and components.named else None


AnyComponents = Annotated[VisionComponents | None, AfterValidator(_none_if_empty)]
"""Components, or None where none is switched on: both ways to say that are one job."""
