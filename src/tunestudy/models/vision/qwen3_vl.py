"""Qwen3-VL: images keep their shape, one token for each `merge_size`² patches; positions are of time, height and width.

Source: Qwen3-VL technical report 2025, arXiv:2511.21631; transformers' get_rope_index for positions after an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.config.errors import StudyError, at
from tunestudy.data.batch import Batch
from tunestudy.data.rejected import Rejected
from tunestudy.data.vision import Size
from tunestudy.models.vision.processor import as_tensors, identity_of

PROCESSOR = "Qwen2VLImageProcessor"
PROCESSOR_CLASS = "Qwen3VLProcessor"
SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
ALWAYS: dict[str, Any] = {}


@dataclass(frozen=True)
class Qwen3VLVision:
    """See `data.vision.Vision`."""

    image_token: int
    placeholder: str
    written: str
    processor: Any

    def identity(self) -> str:
        return f"qwen3_vl {self.written} {identity_of(self.processor)}"

    def num_tokens(self, size: Size) -> int:
        height, width = self._grid(size)
        return height * width

    def pixels(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """pixel_values (patches of all images, numbers of a patch) and image_grid_thw (images, 3)."""
        return as_tensors(self.processor, images, "pixel_values", "image_grid_thw")

    def rope_positions(self, ids: NDArray[np.int64], sizes: Sequence[Size]) -> NDArray[np.int64]:
        """(3, T): text counts on in all three; an image spans its height and width, and the text goes on after the
        longer of both."""
        positions = np.empty((3, len(ids)), np.int64)
        is_image = ids == self.image_token
        place = at_position = 0
        for size in sizes:
            start = place + int(np.argmax(is_image[place:]))
            positions[:, place:start] = np.arange(at_position, at_position + start - place)
            at_position += start - place
            height, width = self._grid(size)
            place = start + height * width
            rows, columns = np.divmod(np.arange(height * width), width)
            positions[:, start:place] = at_position + np.stack([np.zeros_like(rows), rows, columns])
            at_position += max(height, width)
        positions[:, place:] = np.arange(at_position, at_position + len(ids) - place)
        return positions

    def _grid(self, size: Size) -> tuple[int, int]:
        """Height and width in tokens. Raises Rejected for shapes that the processor refuses."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        width, height = size
        side = self.processor.patch_size * self.processor.merge_size
        limits = self.processor.size
        try:
            tall, wide = smart_resize(
                height, width, factor=side, min_pixels=limits["shortest_edge"], max_pixels=limits["longest_edge"]
            )
        except ValueError as error:
            raise Rejected("image too long", f"{width} × {height}: {error}") from error
        return tall // side, wide // side


def of(config: Any, tokenizer: Any, processor: Any) -> Qwen3VLVision:
    vision = config.vision_config
    if (processor.patch_size, processor.merge_size) != (vision.patch_size, vision.spatial_merge_size):
        raise StudyError(
            at("model.image_processor"),
            f"patch_size {processor.patch_size} and merge_size {processor.merge_size} are not the model's "
            f"({vision.patch_size}, {vision.spatial_merge_size})",
        )
    start, end, _, _ = SPECIAL
    written = f"{start}{tokenizer.convert_ids_to_tokens(config.image_token_id)}{end}"
    return Qwen3VLVision(config.image_token_id, written, written, processor)


def token_ids(tokenizer: Any) -> dict[str, int]:
    """What a fresh configuration must know of its tokenizer."""
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))


def defaults(config: Any) -> dict[str, Any]:
    """Options of the image processor that follow from a configuration."""
    vision = config.vision_config
    return {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def misfit(config: Any, pixels: dict[str, Tensor], count: int) -> str | None:
    """What is wrong with a processor's output for one image of `count` tokens."""
    vision, (patches, numbers) = config.vision_config, pixels["pixel_values"].shape
    wanted = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    if numbers != wanted:
        return f"patches of {numbers} numbers, the model takes {wanted}"
    return None if patches == count * vision.spatial_merge_size**2 else f"{patches} patches for {count} tokens"


def arguments(base: Any, batch: Batch) -> dict[str, Any]:  # noqa: ARG001
    """(4, B, T) positions: those that tell samples in a row apart, then the three that rotate."""
    if batch.rope_positions is None:
        return {}
    return {"position_ids": torch.cat([batch.position_ids[None], batch.rope_positions])}


def asking(ids: Tensor, image_token: int) -> dict[str, Tensor]:
    """What a left-padded question (B, T) needs beside its pixels: where images are."""
    return {"mm_token_type_ids": (ids == image_token).long()}
