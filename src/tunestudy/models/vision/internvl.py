"""InternVL: tiles of one size, each becoming `image_seq_length` tokens; an image in several tiles also has a thumbnail.

Source: Chen et al. 2024, arXiv:2404.16821; transformers' InternVLProcessor for the order of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.data.batch import Batch
from tunestudy.data.vision import Size
from tunestudy.models.vision.processor import as_tensors, identity_of

PROCESSOR = "GotOcr2ImageProcessor"
PROCESSOR_CLASS = "InternVLProcessor"
SPECIAL = ("<img>", "</img>", "<IMG_CONTEXT>")


@dataclass(frozen=True)
class InternVLVision:
    """See `data.vision.Vision`."""

    image_token: int
    placeholder: str
    written: str
    tokens_per_tile: int
    processor: Any

    def identity(self) -> str:
        return f"internvl {self.written} {self.tokens_per_tile} {identity_of(self.processor)}"

    def num_tokens(self, size: Size) -> int:
        width, height = size
        return self.tokens_per_tile * int(self.processor.get_number_of_image_patches(height, width))

    def pixels(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """pixel_values (tiles of all images, 3, H, W)."""
        return as_tensors(self.processor, images, "pixel_values")

    def rope_positions(self, ids: NDArray[np.int64], sizes: Sequence[Size]) -> None:  # noqa: ARG002
        return None


def of(config: Any, tokenizer: Any, processor: Any) -> InternVLVision:
    """Number of tokens per tile: of the configuration, which a projector with its own count of queries has set."""
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    start, end, _ = SPECIAL
    return InternVLVision(config.image_token_id, token, f"{start}{token}{end}", config.image_seq_length, processor)


def token_ids(tokenizer: Any) -> dict[str, int]:
    """What a fresh configuration must know of its tokenizer."""
    return {"image_token_id": tokenizer.convert_tokens_to_ids(SPECIAL[2])}


def defaults(config: Any) -> dict[str, Any]:
    """Options of the image processor that follow from a configuration."""
    height, width = config.vision_config.image_size
    return {"size": {"height": height, "width": width}, **ALWAYS}


def misfit(config: Any, pixels: dict[str, Tensor], count: int) -> str | None:
    """What is wrong with a processor's output for one image of `count` tokens."""
    tiles, _, height, width = pixels["pixel_values"].shape
    if (height, width) != tuple(config.vision_config.image_size):
        return f"tiles of {height} × {width} pixels, the model takes {config.vision_config.image_size}"
    return None if tiles * config.image_seq_length == count else f"{tiles} tiles for {count} tokens"


ALWAYS = {"crop_to_patches": True}
"""Options that InternVLProcessor sets over the saved ones."""


def arguments(base: Any, batch: Batch) -> dict[str, Any]:  # noqa: ARG001
    """Beside pixels and ids, InternVL needs nothing."""
    return {}


def asking(ids: Tensor, image_token: int) -> dict[str, Tensor]:  # noqa: ARG001
    """What a left-padded question (B, T) needs beside its pixels."""
    return {}
