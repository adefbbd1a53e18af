"""Forward passes over questions: padded batches, pictures' features in their places, beginnings that are shared."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunestudy.bench.likelihood import Answered, Asked, answered
from tunestudy.bench.options import Cluster, Fed, Ids, Read
from tunestudy.config.world import WORLD_PIXELS
from tunestudy.data.images import ImageFacts
from tunestudy.data.vision import Eyes
from tunestudy.models.components.world import world_images, world_of
from tunestudy.models.decoder import base_model_of
from tunestudy.models.mole import mole_of, telling
from tunestudy.models.mole_gates import Tokens
from tunestudy.models.vision import module_of
from tunestudy.models.vision.features import FeatureCache, given


class Passes:
    """A model in evaluation mode, and what goes into it."""

    def __init__(
        self, model: Any, *, pad_id: int, device: torch.device, eyes: Eyes | None, max_bytes: int, tokens_per_pass: int
    ) -> None:
        """max_bytes: of features that are kept; tokens_per_pass: image tokens that are encoded at once."""
        self.model = model.eval()
        self.device = device
        self._pad_id = pad_id
        base = base_model_of(model)
        self._of_vision = module_of(base.config.model_type)
        self._eyes = eyes if self._of_vision is not None else None
        self._cache = None
        if self._eyes is not None and world_of(model) is None:
            self._cache = FeatureCache(model, self._eyes, device, max_bytes=max_bytes, tokens_per_pass=tokens_per_pass)
        mole = mole_of(model)
        self._by_prompt = mole is not None and mole.settings.gate == "sequence"
        self.shares = world_of(model) is None and cache_can_be_shared(base.config) and not self._by_prompt
        """Not where gates read whole prompts: all that follows the first gate depends on the prompt's end."""

    @property
    def image_token(self) -> int | None:
        return None if self._eyes is None else self._eyes.vision.image_token

    def left_padded(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) and their attention mask (B, T), both int64, aligned at the right end."""
        return self._padded(rows, max(map(len, rows)), left=True)

    def _padded(self, rows: Sequence[Ids], longest: int, *, left: bool) -> tuple[Tensor, Tensor]:
        ids = np.full((len(rows), longest), self._pad_id, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            where = slice(longest - len(row), longest) if left else slice(len(row))
            ids[i, where], mask[i, where] = row, 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def _telling(self, mask_BT: Tensor, prompts: Sequence[int], lengths: Sequence[int]) -> AbstractContextManager[None]:
        """Gates that read prompts know inside that of left-padded rows of these lengths, so many first tokens are one.

        Nothing for other models. mask: (B, T).
        """
        if not self._by_prompt:
            return nullcontext()
        places = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        ends = [mask_BT.shape[1] - length + prompt for prompt, length in zip(prompts, lengths, strict=True)]
        real_BT = mask_BT.bool()
        prompt_BT = real_BT & (places < torch.tensor(ends, device=mask_BT.device)[:, None])
        return telling(self.model, Tokens(real=real_BT, prompt=prompt_BT))

    @contextmanager
    def seeing(self, images: Sequence[ImageFacts], ids_BT: Tensor) -> Iterator[dict[str, Tensor]]:
        """What a model with eyes gets beside ids and mask, while it may look at these images.

        A model with a world part encodes pictures anew in every pass, as it does in training.
        """
        if self._eyes is None or self._of_vision is None:
            yield {}
            return
        beside: dict[str, Tensor] = self._of_vision.asking(ids_BT, self._eyes.vision.image_token)
        if self._cache is not None:
            with given(self.model, self._cache.of(images)) as inputs:
                yield beside | inputs
            return
        pixels = self._eyes.pixels(images, filled=False) if images else {}
        pixels = {name: tensor.to(self.device) for name, tensor in pixels.items()}
        with world_images(self.model, pixels.pop(WORLD_PIXELS, None)):
            yield beside | pixels

    def read_all(self, asked: Sequence[Asked]) -> list[Answered]:
        """Each answer's tokens after its question, in one left-padded pass; what follows the last is not asked."""
        ids_BT, mask_BT = self.left_padded([question.ids + answer for question, answer in asked])
        rows = [Fed(question.ids + answer, question.images) for question, answer in asked]
        images = [image for question, _ in asked for image in question.images]
        told = self._telling(mask_BT[:, :-1], [len(q.ids) for q, _ in asked], [len(row.ids) - 1 for row in rows])
        with told, self.seeing(images, ids_BT[:, :-1]) as beside:
            logits_BKV = self.model(
                input_ids=ids_BT[:, :-1],
                attention_mask=mask_BT[:, :-1],
                position_ids=self._positions(rows, [(0, len(row.ids) - 1) for row in rows], left=True),
                **beside,
                logits_to_keep=max(len(answer) for _, answer in asked),
                use_cache=False,
            ).logits
        return answered(logits_BKV, ids_BT, [answer for _, answer in asked])

    def plain(self, rows: Sequence[Fed]) -> list[tuple[Read, float]]:
        """Every row whole, in one left-padded pass."""
        ids_BT, mask_BT = self.left_padded([row.ids for row in rows])
        kept = max(len(row.ids) - row.first_place for row in rows)
        told = self._telling(mask_BT, [row.first_place + 1 for row in rows], [len(row.ids) for row in rows])
        with told, self.seeing([image for row in rows for image in row.images], ids_BT) as beside:
            logits_BKV = self.model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=self._positions(rows, [(0, len(row.ids)) for row in rows], left=True),
                **beside,
                logits_to_keep=kept,
                use_cache=False,
            ).logits
        return _log_probabilities(logits_BKV, [(row, kept - len(row.ids)) for row in rows])

    def shared(self, clusters: Sequence[Cluster]) -> list[tuple[Read, float]]:
        """The beginnings of clusters in one left-padded pass, then all that follows, padded on the right, in another.

        Padding on the right leaves no holes between a beginning and its rest: sliding windows count places.
        """
        heads = [cluster.rows[0] for cluster in clusters]
        begins = [(0, cluster.prefix) for cluster in clusters]
        ids_CP, mask_CP = self.left_padded([head.ids[:end] for head, (_, end) in zip(heads, begins, strict=True)])
        with self.seeing([image for head in heads for image in head.images], ids_CP) as beside:
            keys_values = self.model(
                input_ids=ids_CP,
                attention_mask=mask_CP,
                position_ids=self._positions(heads, begins, left=True),
                **beside,
                logits_to_keep=1,
                use_cache=True,
            ).past_key_values
        rows = [row for cluster in clusters for row in cluster.rows]
        of_row = [number for number, cluster in enumerate(clusters) for _ in cluster.rows]
        starts = [clusters[number].prefix for number in of_row]
        indices_B = torch.tensor(of_row, device=self.device)
        keys_values.batch_select_indices(indices_B)
        rests = [row.ids[start:] for row, start in zip(rows, starts, strict=True)]
        ids_BS, mask_BS = self._padded(rests, max(map(len, rests)), left=False)
        places = sorted({read.place - start for row, start in zip(rows, starts, strict=True) for read in row.reads})
        spans = [(start, len(row.ids)) for row, start in zip(rows, starts, strict=True)]
        logits_BKV = self.model(
            input_ids=ids_BS,
            attention_mask=torch.cat([mask_CP[indices_B], mask_BS], dim=1),
            position_ids=self._positions(rows, spans, left=False),
            past_key_values=keys_values,
            logits_to_keep=torch.tensor(places, device=self.device),
            use_cache=True,
        ).logits
        index = {place: i for i, place in enumerate(places)}
        return _log_probabilities(logits_BKV, list(zip(rows, (-start for start in starts), strict=True)), index)

    def _positions(self, rows: Sequence[Fed], spans: Sequence[tuple[int, int]], *, left: bool) -> Tensor | None:
        """Of the tokens of each row from `start` to `end`: (B, T), or (4, B, T) where images have positions in space.

        None: the model makes its own, as it must where a world part's images are given as pixels with their grids.
        """
        if self._cache is None and self._eyes is not None and any(row.images for row in rows):
            return None
        longest = max(end - start for start, end in spans)
        in_space = [self._in_space(row) for row in rows]
        layers = 4 if any(positions is not None for positions in in_space) else 1
        made = np.zeros((layers, len(rows), longest), np.int64)
        for i, (positions, (start, end)) in enumerate(zip(in_space, spans, strict=True)):
            where = slice(longest - (end - start), longest) if left else slice(end - start)
            made[:, i, where] = np.arange(start, end)
            if positions is not None:
                made[1:, i, where] = positions[:, start:end]
        told = torch.from_numpy(made).to(self.device)
        return told if layers > 1 else told[0]

    def _in_space(self, row: Fed) -> Any:
        """(3, T) or None."""
        if self._eyes is None or not row.images:
            return None
        sizes = [(image.width, image.height) for image in row.images]
        return self._eyes.vision.rope_positions(np.asarray(row.ids, np.int64), sizes)


def _log_probabilities(
    logits_BKV: Tensor, rows: Sequence[tuple[Fed, int]], index: dict[int, int] | None = None
) -> list[tuple[Read, float]]:
    """What the rows want to read. With each row, what leads from a place in it to K; index: from there to K."""
    reads = [
        (i, shift + read.place if index is None else index[shift + read.place], read)
        for i, (row, shift) in enumerate(rows)
        for read in row.reads
    ]
    pairs = sorted({(i, k) for i, k, _ in reads})
    number = {pair: n for n, pair in enumerate(pairs)}
    at = torch.tensor(pairs, device=logits_BKV.device)
    log_probs_NV = logits_BKV[at[:, 0], at[:, 1]].float().log_softmax(-1)
    n = torch.tensor([number[i, k] for i, k, _ in reads], device=at.device)
    tokens = torch.tensor([read.token for _, _, read in reads], device=at.device)
    values = log_probs_NV[n, tokens].tolist()
    return [(read, value) for (_, _, read), value in zip(reads, values, strict=True)]


def cache_can_be_shared(config: Any) -> bool:
    """Whether a beginning's keys and values are all that what follows must know of it.

    So it is with full and sliding attention. States of recurrent layers and attention in chunks are left alone: there
    every row is computed whole.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if config.is_encoder_decoder or not kinds <= {"full_attention", "sliding_attention"}:
        return False
    layers = DynamicCache(config=text).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
