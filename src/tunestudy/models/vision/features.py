"""Features of images: made once, kept, and given to a model's forward pass again.

What is kept is what the model's own `get_image_features` gave, cut into images: so projectors, components and adapters
are in it. Several images go through the tower in one pass; their features then differ from those of an image alone by
rounding (below 1e-6 of their size in fp32), as in any batch.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from tunestudy.data.images import ImageFacts
from tunestudy.data.vision import Eyes
from tunestudy.models.decoder import base_model_of

PIXELS = "pixel_values"


@dataclass(frozen=True)
class Features:
    """Of one image of n tokens."""

    tokens: Tensor
    """(n, D): what takes the places of the image's tokens."""
    deep: tuple[Tensor, ...] = ()
    """(n, D) for each of the decoder's layers that adds visual features (DeepStack)."""
    beside: tuple[tuple[str, Tensor], ...] = ()
    """Inputs of the model beside the pixels, this image's row of each: its grid."""
    tiles: int = 1
    """In how many pieces the tower saw it."""

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.tokens, *self.deep))


def encoded(model: Any, pixels: dict[str, Tensor], num_tokens: Sequence[int]) -> list[Features]:
    """One pass of the vision tower. pixels: inputs of these images; num_tokens: of each of them."""
    made = base_model_of(model).base_model.get_image_features(**pixels, return_dict=True)
    deep = [_by_image(layer, num_tokens) for layer in getattr(made, "deepstack_features", None) or ()]
    beside = {name: tensor for name, tensor in pixels.items() if name != PIXELS}
    in_tiles = isinstance(made.pooler_output, Tensor)
    return [
        Features(
            tokens.clone(),  # a view would keep the whole pass in memory
            tuple(layer[i].clone() for layer in deep),
            tuple((name, tensor[i]) for name, tensor in beside.items()),
            num_tokens[i] // made.pooler_output.shape[-2] if in_tiles else 1,
        )
        for i, tokens in enumerate(_by_image(made.pooler_output, num_tokens))
    ]


def _by_image(made: Tensor | Sequence[Tensor], num_tokens: Sequence[int]) -> Sequence[Tensor]:
    """Qwen3-VL cuts by itself; the others give (tiles, tokens of a tile, D)."""
    return torch.split(made.flatten(0, -2), list(num_tokens)) if isinstance(made, Tensor) else made


@contextmanager
def given(model: Any, features: Sequence[Features]) -> Iterator[dict[str, Tensor]]:
    """Inside, the model takes these for the features of all images of a batch, in their order.

    Yields what the forward pass or `generate` must get in the pixels' place; nothing for a batch without images.
    """
    if not features:
        yield {}
        return
    inner = base_model_of(model).base_model
    original, output = inner.get_image_features, _output(inner, features)

    @wraps(original)  # `generate` reads its arguments' names
    def ready(*_arguments: Any, **_options: Any) -> Any:
        return output

    inner.get_image_features = ready
    try:
        beside = {name: torch.stack([dict(one.beside)[name] for one in features]) for name, _ in features[0].beside}
        tiles = sum(one.tiles for one in features)  # components check that prompts have places for so many
        yield {PIXELS: features[0].tokens.new_zeros(1).expand(tiles), **beside}
    finally:
        del inner.get_image_features


def _output(inner: Any, features: Sequence[Features]) -> Any:
    """As `get_image_features` of this architecture gives it."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    if inner.config.model_type != "qwen3_vl":
        return BaseModelOutputWithPooling(pooler_output=torch.cat([one.tokens for one in features])[None])
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=tuple(one.tokens for one in features),
        deepstack_features=[list(layer) for layer in zip(*(one.deep for one in features), strict=True)],
    )


class FeatureCache:
    """Features by the image's SHA-256; the least recently used go when there are too many bytes."""

    def __init__(self, model: Any, eyes: Eyes, device: torch.device, *, max_bytes: int, tokens_per_pass: int) -> None:
        """tokens_per_pass: image tokens that go through the tower at once; a single image always does."""
        self._model, self._eyes, self._device = model, eyes, device
        self._max_bytes, self._tokens_per_pass = max_bytes, tokens_per_pass
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self.num_bytes = 0

    def of(self, images: Sequence[ImageFacts]) -> list[Features]:
        """Features of every image, in order; each that is not kept is decoded and encoded once."""
        found = {fact.sha256: self._kept[fact.sha256] for fact in images if fact.sha256 in self._kept}
        new = list({fact.sha256: fact for fact in images if fact.sha256 not in found}.values())
        for facts, counts in self._passes(new):
            pixels = {name: t.to(self._device) for name, t in self._eyes.pixels(facts, filled=False).items()}
            for fact, features in zip(facts, encoded(self._model, pixels, counts), strict=True):
                found[fact.sha256] = self._kept[fact.sha256] = features
                self.num_bytes += features.num_bytes
        for digest in found:
            self._kept.move_to_end(digest)
        while self.num_bytes > self._max_bytes:
            self.num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return [found[fact.sha256] for fact in images]

    def _passes(self, images: Sequence[ImageFacts]) -> Iterator[tuple[list[ImageFacts], list[int]]]:
        """Images that go through the tower together, and how many tokens each becomes."""
        facts: list[ImageFacts] = []
        counts: list[int] = []
        for image in images:
            count = self._eyes.vision.num_tokens((image.width, image.height))
            if facts and sum(counts) + count > self._tokens_per_pass:
                yield facts, counts
                facts, counts = [], []
            facts.append(image)
            counts.append(count)
        if facts:
            yield facts, counts
