"""Asking a model many questions at once: generation and log-probabilities over left-padded batches.

Batches are cut in the order of length and never depend on the number of ranks, so scores do not either.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from tunestudy.bench.tasks import Question
from tunestudy.config.world import WORLD_PIXELS
from tunestudy.data.vision import Eyes
from tunestudy.models.components.world import world_images
from tunestudy.models.decoder import base_model_of
from tunestudy.models.vision import module_of

T = TypeVar("T")
Ids = tuple[int, ...]


class Scorer:
    """A model and its tokenizer, in evaluation mode, with a batch size."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        device: torch.device,
        sliced: bool = False,
        eyes: Eyes | None = None,
    ) -> None:
        """sliced: ranks hold slices of the model and make the same calls together. eyes: to see images with."""
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._device = device
        self._sliced = sliced
        self._eyes = eyes
        self._of_vision = module_of(base_model_of(model).config.model_type)

    def generate(self, questions: Sequence[Question], *, max_new_tokens: int) -> list[str]:
        """Greedy continuation of every question, decoded without special tokens."""

        def continue_batch(batch: list[Question]) -> list[str]:
            ids_BT, mask_BT = self._left_padded([question.ids for question in batch])
            seen = self._seen(batch, ids_BT)
            with world_images(self._model, seen.pop(WORLD_PIXELS, None)):
                out_BT = self._model.generate(
                    input_ids=ids_BT,
                    attention_mask=mask_BT,
                    **seen,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    pad_token_id=self._pad_id,
                    synced_gpus=self._sliced,
                )
            texts: list[str] = self._tokenizer.batch_decode(out_BT[:, ids_BT.shape[1] :], skip_special_tokens=True)
            return texts

        return self._by_length(questions, lambda question: len(question.ids), continue_batch)

    def log_probabilities(self, asked: Sequence[tuple[Question, str]]) -> list[tuple[float, int]]:
        """For every (question, answer): the answer's summed log-probability and its number of tokens."""
        encoded = [(asking, tuple(self._tokenizer(text, add_special_tokens=False).input_ids)) for asking, text in asked]

        def score_batch(batch: list[tuple[Question, Ids]]) -> list[tuple[float, int]]:
            ids_BT, mask_BT = self._left_padded([question.ids + answer for question, answer in batch])
            kept = max(len(answer) for _, answer in batch) + 1
            seen = self._seen([question for question, _ in batch], ids_BT)
            if "image_grid_thw" not in seen:  # with grids, the model makes positions of its own
                seen["position_ids"] = (mask_BT.cumsum(-1) - 1).clamp_min(0)
            with world_images(self._model, seen.pop(WORLD_PIXELS, None)):
                logits_BKV = self._model(
                    input_ids=ids_BT,
                    attention_mask=mask_BT,
                    **seen,
                    logits_to_keep=kept,
                    use_cache=False,
                ).logits
            log_probs_BK = logits_BKV[:, :-1].float().log_softmax(-1).gather(-1, ids_BT[:, 1 - kept :, None])[..., 0]
            return [
                (float(row_K[-len(answer) :].sum()), len(answer))
                for row_K, (_, answer) in zip(log_probs_BK.cpu(), batch, strict=True)
            ]

        return self._by_length(encoded, lambda pair: len(pair[0].ids) + len(pair[1]), score_batch)

    def _seen(self, questions: Sequence[Question], ids_BT: Tensor) -> dict[str, Tensor]:
        """What a model with eyes gets beside ids and mask."""
        if self._eyes is None or self._of_vision is None:
            return {}
        images = [image for question in questions for image in question.images]
        found: dict[str, Tensor] = self._of_vision.asking(ids_BT, self._eyes.vision.image_token)
        if images:
            pixels = self._eyes.pixels(images, filled=False)
            found |= {name: tensor.to(self._device) for name, tensor in pixels.items()}
        return found

    @property
    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if pad is None else pad)

    def _left_padded(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) and their attention mask (B, T), both int64, aligned at the right end."""
        longest = max(map(len, rows))
        ids = [[self._pad_id] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def _by_length(
        self, items: Sequence[Any], length: Callable[[Any], int], run: Callable[[list[Any]], list[T]]
    ) -> list[T]:
        """`run` over batches of items of like length, results back in the order of `items`."""
        order = sorted(range(len(items)), key=lambda i: (length(items[i]), i))
        results: dict[int, T] = {}
        quiet = torch.no_grad if self._sliced else torch.inference_mode  # slices are gathered into ordinary tensors
        for start in range(0, len(order), self._batch_size):
            indices = order[start : start + self._batch_size]
            with quiet():
                results.update(zip(indices, run([items[i] for i in indices]), strict=True))
        return [results[i] for i in range(len(items))]
