"""What the data room must know of a model's eyes. `models/vision/` says it for each architecture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.config.world import WORLD_PIXELS
from tunestudy.data.images import ImageFacts, ImagePlaces, decode

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]
"""Width and height in pixels."""


class Vision(Protocol):
    """How an architecture takes images. Can be sent to another process."""

    image_token: int
    """The id that stands where image features go, once for each of them."""
    placeholder: str
    """What the chat template writes for an image."""
    written: str
    """What takes its place in the prompt: the borders of an image around one image token."""

    def identity(self) -> str:
        """Changes when the same image becomes other tokens."""
        ...

    def num_tokens(self, size: Size) -> int:
        """Image tokens of an image."""
        ...

    def pixels(self, images: "Sequence[Image]") -> dict[str, Tensor]:
        """Named inputs of the model's forward pass for these images, in their order."""
        ...

    def rope_positions(self, ids: NDArray[np.int64], sizes: Sequence[Size]) -> NDArray[np.int64] | None:
        """(3, T) positions in time, height and width of one sample's tokens (T,); None where plain ones do."""
        ...


@dataclass(frozen=True)
class Eyes:
    """A model's vision, and where the images lie."""

    vision: Vision
    places: ImagePlaces

    FILLER: Size = (64, 64)

    @cached_property
    def num_filler_tokens(self) -> int:
        """Image tokens of the blank image that batches without any get."""
        return self.vision.num_tokens(self.FILLER)

    def pixels(self, facts: Sequence[ImageFacts], *, filled: bool) -> dict[str, Tensor]:
        """Decode and process images; with `filled`, a blank one follows them, which no prompt has world tokens for."""
        from PIL import Image

        images = [decode(self.places.read(fact), max_pixels=self.places.max_pixels) for fact in facts]
        if filled:
            images.append(Image.new("RGB", self.FILLER))
        made = self.vision.pixels(images)
        if filled and WORLD_PIXELS in made:
            made[WORLD_PIXELS] = made[WORLD_PIXELS][:0]
        return made
