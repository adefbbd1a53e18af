"""How images reach a model that has eyes of its own and a world part: both get every image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.config.world import WORLD_PIXELS, WorldSettings, num_world_tokens
from tunestudy.data.vision import Size, Vision
from tunestudy.models.components.world_projector import world_text

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class WorldVision:
    """See `data.vision.Vision`. In the prompt an image's world tokens stand right before its own.

    So a sample that is cut inside them would also lose the image, which the tokeniser refuses.
    """

    inner: Vision
    settings: WorldSettings

    @property
    def image_token(self) -> int:
        return self.inner.image_token

    @property
    def placeholder(self) -> str:
        return self.inner.placeholder

    @property
    def written(self) -> str:
        return world_text(self.settings) + self.inner.written

    def identity(self) -> str:
        return f"{num_world_tokens(self.settings)} world tokens, {self.inner.identity()}"

    def num_tokens(self, size: Size) -> int:
        """The model's own; world tokens stand in the text as many as they are."""
        return self.inner.num_tokens(size)

    def pixels(self, images: "Sequence[Image]") -> dict[str, Tensor]:
        """The model's own inputs, and the images at the world part's size, whatever their shape was."""
        made = dict(self.inner.pixels(images))
        side = self.settings.image_size
        if images:
            from PIL.Image import Resampling

            resized = [np.asarray(image.convert("RGB").resize((side, side), Resampling.BILINEAR)) for image in images]
            made[WORLD_PIXELS] = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
        return made

    def rope_positions(self, ids: NDArray[np.int64], sizes: Sequence[Size]) -> NDArray[np.int64] | None:
        return self.inner.rope_positions(ids, sizes)
