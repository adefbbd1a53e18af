"""Gemma 3: every image becomes `mm_tokens_per_image` tokens, which see each other in both directions.

Its masks are made here, for padded and packed rows alike: what transformers makes of positions that restart would let
samples see each other, and without `token_type_ids` it would let images be causal, both without a word.
Source: Gemma Team 2025, arXiv:2503.19786; transformers' create_masks_for_vision_model for how a window and an image
combine.
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
from tunestudy.data.vision import Size
from tunestudy.models.vision.processor import as_tensors, identity_of

PROCESSOR = "Gemma3ImageProcessor"
PROCESSOR_CLASS = "Gemma3Processor"
SPECIAL = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
ALWAYS: dict[str, Any] = {}


@dataclass(frozen=True)
class Gemma3Vision:
    """See `data.vision.Vision`."""

    image_token: int
    placeholder: str
    written: str
    tokens_per_image: int
    processor: Any

    def identity(self) -> str:
        return f"gemma3 {self.written} {self.tokens_per_image} {identity_of(self.processor)}"

    def num_tokens(self, size: Size) -> int:  # noqa: ARG002 - every image is resized to a square
        return self.tokens_per_image

    def pixels(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """pixel_values (images, 3, H, W)."""
        return as_tensors(self.processor, images, "pixel_values")

    def rope_positions(self, ids: NDArray[np.int64], sizes: Sequence[Size]) -> None:  # noqa: ARG002
        return None


def of(config: Any, tokenizer: Any, processor: Any) -> Gemma3Vision:
    """Pan and scan, which adds crops of long images to the prompt, is refused."""
    if getattr(processor, "do_pan_and_scan", None):
        raise StudyError(at("model.image_processor.do_pan_and_scan"), "is not supported; leave it out")
    start, end, _ = SPECIAL
    token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return Gemma3Vision(
        config.image_token_id, start, f"\n\n{start}{token}{end}\n\n", config.mm_tokens_per_image, processor
    )


def token_ids(tokenizer: Any) -> dict[str, int]:
    """What a fresh configuration must know of its tokenizer."""
    names = ("boi_token_index", "eoi_token_index", "image_token_index")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))


def defaults(config: Any) -> dict[str, Any]:
    """Options of the image processor that follow from a configuration."""
    side = config.vision_config.image_size
    return {"size": {"height": side, "width": side}}


def misfit(config: Any, pixels: dict[str, Tensor], count: int) -> str | None:
    """What is wrong with a processor's output for one image of `count` tokens."""
    side, got = config.vision_config.image_size, tuple(pixels["pixel_values"].shape)
    return None if got == (1, 3, side, side) and count else f"an image became {got}, the model takes {side} × {side}"


def arguments(base: Any, batch: Batch) -> dict[str, Any]:
    """Both kinds of layers' masks, once there are images or several samples in a row."""
    if batch.images is None and batch.segment_ids is None:
        return {}
    window = base.config.get_text_config().sliding_window
    full, sliding = masks(batch, window)
    dtype = base.get_input_embeddings().weight.dtype
    if torch.is_autocast_enabled(full.device.type):
        dtype = torch.get_autocast_dtype(full.device.type)
    kind = base.config.get_text_config()._attn_implementation
    if kind == "flash_attention_2":
        raise StudyError(at("model.attn_implementation"), "flash_attention_2 takes no such masks; use sdpa")
    if kind != "sdpa":  # the others add their mask to the scores
        lowest = torch.finfo(dtype).min
        full, sliding = (torch.where(mask, 0.0, lowest).to(dtype) for mask in (full, sliding))
    return {"attention_mask": {"full_attention": full, "sliding_attention": sliding}}


def masks(batch: Batch, window: int | None) -> tuple[Tensor, Tensor]:
    """Who sees whom (B, 1, T, T) in layers with full and with sliding attention.

    full = same sample ∧ (not later ∨ same image); sliding = full ∧ less than `window` before. Padding sees itself, so
    that no row of scores is empty.
    """
    ids = batch.input_ids
    place = torch.arange(ids.shape[1], device=ids.device)
    seen = place[:, None] >= place
    if batch.images is not None:
        seen = seen | ((batch.images[:, :, None] == batch.images[:, None, :]) & (batch.images[:, :, None] >= 0))
    else:
        seen = seen.expand(len(ids), -1, -1)
    if batch.segment_ids is not None:
        seen = seen & (batch.segment_ids[:, :, None] == batch.segment_ids[:, None, :])
    if batch.attention_mask is not None:
        seen = seen & batch.attention_mask[:, None, :] | torch.eye(len(place), dtype=torch.bool, device=ids.device)
    near = seen if window is None else seen & (place[None, :] > place[:, None] - window)
    return seen[:, None], near[:, None]


def asking(ids: Tensor, image_token: int) -> dict[str, Tensor]:
    """What a left-padded question (B, T) needs beside its pixels: where images are."""
    return {"token_type_ids": (ids == image_token).long()}
