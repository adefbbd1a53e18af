"""What of the world part learns: latents become tokens, and tokens take their places among a prompt's embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from tunestudy.config.errors import StudyError, at
from tunestudy.config.world import WorldSettings, num_world_tokens
from tunestudy.models.components.world_encoder import WorldEncoder

START, WORLD, END = "<start_of_world>", "<world>", "<end_of_world>"
TOKENS = (START, WORLD, END)


def world_text(settings: WorldSettings) -> str:
    """What stands in a prompt for one image."""
    return f"{START}{WORLD * num_world_tokens(settings)}{END}"


class WorldProjector(nn.Module):
    """Latents (N, F, C, h, w) → tokens (N, F·tokens, D), frame after frame, each with its frame's temporal embedding.

    A frame is averaged to a k × k grid whose cells are tokens (`spatial`, row by row), or its channels are tokens.
    """

    def __init__(self, settings: WorldSettings, *, features: int, width: int, spread: float) -> None:
        """features: numbers per token before the projection; width: D; spread: deviation of embeddings at the start."""
        super().__init__()
        self._spatial = settings.reduction == "spatial"
        self._side = round(settings.tokens**0.5)
        layers: list[nn.Module] = [nn.Linear(features, width)]
        if settings.projection != "linear":
            layers += [nn.GELU(), nn.Linear(width, width)]
        if settings.projection == "mlp":
            layers.append(nn.GELU())
        self.projection = nn.Sequential(*layers)
        self.temporal = nn.Embedding(settings.max_world_steps, width)
        nn.init.normal_(self.temporal.weight, std=spread)

    def forward(self, latents: Tensor) -> Tensor:
        num_images, num_frames = latents.shape[:2]
        frames = latents.flatten(0, 1)
        if self._spatial:
            tokens = adaptive_avg_pool2d(frames, self._side).flatten(2).transpose(1, 2)
        else:
            tokens = frames.flatten(2)
        projected = self.projection(tokens).unflatten(0, (num_images, num_frames))
        temporal_FD = self.temporal(torch.arange(num_frames, device=latents.device))
        joined: Tensor = projected + temporal_FD[:, None]
        return joined.flatten(1, 2)


class WorldEmbedding(nn.Module):
    """Stands in for a model's input embedding and knows three ids more, which that one's matrix has no rows for.

    An ordinary id goes through the old module; a border token is a row of a small table that learns; every `<world>`
    is the projection's next output, row by row over the batch. So padding on either side, packing, rows with several
    images or none, and positions are what they are for any other token.
    """

    def __init__(
        self,
        old: Any,
        settings: WorldSettings,
        encoder: WorldEncoder,
        *,
        features: int,
        ids: tuple[int, int, int],
        spread: float,
        seed: int = 0,
    ) -> None:
        """ids: of `TOKENS`, in their order; seed: what random weights were drawn by."""
        super().__init__()
        width = int(old.weight.shape[-1])
        self.old: Any = old
        self.world_projector = WorldProjector(settings, features=features, width=width, spread=spread)
        self.world_borders = nn.Embedding(2, width)
        nn.init.normal_(self.world_borders.weight, std=spread)
        self.settings = settings
        self.ids, self.seed = ids, seed
        self._outside = (encoder,)  # in a tuple: no part of the module tree, so that no engine moves or slices it
        self._latents: Tensor | None = None
        self._used = False

    @property
    def weight(self) -> Any:
        """The old module's matrix, which an output head may share."""
        return self.old.weight

    @property
    def encoder(self) -> WorldEncoder:
        """The frozen autoencoder."""
        return self._outside[0]

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images (N, 3, S, S) or videos, as `WorldEncoder` takes them, S = `image_size`."""
        side = self.settings.image_size
        if tuple(images.shape[-2:]) != (side, side):
            raise ValueError(f"world images of {tuple(images.shape[-2:])} pixels; image_size is {side}")
        latents: Tensor = self.encoder(images, num_world_steps=self.settings.num_world_steps)
        return latents

    @contextmanager
    def given(self, latents: Tensor | None) -> Iterator[None]:
        """Inside the block, `latents` (N, F, C, h, w) are what `<world>` tokens stand for.

        Of no image (N = 0), they give what learns a gradient of zeros: where ranks add up gradients, one whose batch
        has no image must bring the same tensors in the same order (ZeRO joins them as they come).
        StudyError at the end when no forward pass had a place for them. Passes without any place (a trial run, later
        tokens of an answer) change nothing.
        """
        assert self._latents is None, "latents of one batch at a time"
        self._latents, self._used = latents, latents is None or not len(latents)
        try:
            yield
            if not self._used and latents is not None:
                raise _mismatch(places=0, given=len(latents), settings=self.settings)
        finally:
            self._latents = None

    def forward(self, ids: Tensor) -> Tensor:
        """ids (…, T) int64 → (…, T, D)."""
        start, world, end = self.ids
        flat_ids = ids.flatten()
        is_world = flat_ids == world
        special = is_world | (flat_ids == start) | (flat_ids == end)
        embedded: Tensor = self.old(ids.masked_fill(special.view_as(ids), 0))
        (places,) = special.nonzero(as_tuple=True)
        of_none = self._latents is not None and not len(self._latents)
        if not len(places) and not of_none:
            return self._with_graph(embedded)
        kinds, flat = flat_ids[places], embedded.flatten(0, -2)
        borders_at, world_at = places[kinds != world], places[kinds == world]
        borders = self.world_borders((flat_ids[borders_at] == end).long())
        flat = flat.index_put((borders_at,), borders.to(flat.dtype))
        if len(world_at) or of_none:
            self._require_whole(places, kinds)
            flat = flat.index_put((world_at,), self._tokens(len(world_at), flat))
        return flat.view_as(embedded)

    def _require_whole(self, places: Tensor, kinds: Tensor) -> None:
        """StudyError unless the tokens of every image stand side by side in their order, borders included."""
        start, world, end = self.ids
        text = torch.tensor([start, *[world] * num_world_tokens(self.settings), end], device=kinds.device)
        if len(kinds) % len(text) == 0:
            by_image = kinds.view(-1, len(text)) == text
            neighbours = places.view(-1, len(text)).diff(dim=1) == 1
            if bool(by_image.all() & neighbours.all()):
                return
        raise StudyError(
            at("world"),
            f"the text of an image is {START}, {len(text) - 2} × {WORLD}, {END} without anything between; a prompt "
            "of this batch has part of it, or another order (was it truncated? raise max_length)",
        )

    def _tokens(self, count: int, like: Tensor) -> Tensor:
        """(count, D): the projected latents in order; StudyError when there are more or fewer."""
        latents = self._latents
        given = 0 if latents is None else len(latents)
        if latents is None or given * num_world_tokens(self.settings) != count:
            raise _mismatch(places=count, given=given, settings=self.settings)
        self._used = True
        tokens: Tensor = self.world_projector(latents.to(self.world_borders.weight.device, torch.float32))
        return tokens.flatten(0, 1).to(like)

    def _with_graph(self, embedded: Tensor) -> Tensor:
        """A batch without images may reach nothing that learns, and must have a backward pass all the same."""
        if self.training and torch.is_grad_enabled() and not embedded.requires_grad:
            return embedded.requires_grad_()
        return embedded


def world_of(model: Any) -> WorldEmbedding | None:
    """The world part of a model, PEFT-wrapped or not; None where it has none."""
    unwrap = getattr(model, "get_base_model", None)  # PEFT's
    embedding = (model if unwrap is None else unwrap()).get_input_embeddings()
    return embedding if isinstance(embedding, WorldEmbedding) else None


@contextmanager
def world_latents(model: Any, latents: Tensor | None) -> Iterator[None]:
    """Around a forward pass: latents (N, F, C, h, w) of all the batch's images in order, None for a batch without any.

    StudyError for latents that the model, or the prompts, have no place for.
    """
    part = world_of(model)
    if part is not None:
        with part.given(latents):
            yield
        return
    if latents is not None:
        raise StudyError(at("world"), "images are given for the world part of a model that has none")
    yield


@contextmanager
def world_images(model: Any, images: Tensor | None) -> Iterator[None]:
    """The same from pixels (N, 3, S, S) or (N, T, 3, S, S), as `WorldEncoder` takes them, encoded on its own device."""
    part = world_of(model)
    latents = images if images is None or part is None else part.encode(images)
    with world_latents(model, latents):
        yield


def _mismatch(*, places: int, given: int, settings: WorldSettings) -> StudyError:
    each = num_world_tokens(settings)
    return StudyError(
        at("world"),
        f"the prompts of a batch hold {places} {WORLD} tokens, but their images ({given}) give {given * each}, {each} "
        "each; every image needs the text between and including its two border tokens, and nothing else may hold it",
    )
