"""Asking a model many questions at once: what it writes, and how probable it finds given answers.

Batches are cut in the order of length and never depend on the number of ranks, so scores do not either. Images are
encoded once (`models/vision/features.py`), beginnings that questions share are computed once (`options.py`).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tunestudy.bench.advance import Advance
from tunestudy.bench.batches import BATCH_TOKENS, cut, usual_tokens
from tunestudy.bench.likelihood import Answered, Asked, context_of
from tunestudy.bench.options import Cluster, Ids, Read, clusters, fed
from tunestudy.bench.passes import Passes
from tunestudy.bench.tasks import Question
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data.vision import Eyes
from tunestudy.models.decoder import base_model_of

IMAGE_CACHE_BYTES = 1 << 30
MAX_TEXTS = 4096
MAX_LOGITS = 1 << 28
"""Numbers in the logits of one pass: 1 GiB in fp32."""
IMAGE_TOKENS = 1024
"""Image tokens that go through the vision tower in one pass, where each stands for 4 to 16 patches."""


class Scorer:
    """A model and its tokenizer, in evaluation mode."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: torch.device,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        image_cache_bytes: int = IMAGE_CACHE_BYTES,
        sliced: bool = False,
        eyes: Eyes | None = None,
        advance: Advance | None = None,
    ) -> None:
        """batch_size: at most so many questions at once; batch_tokens: padded ones of a batch.

        sliced: ranks hold slices of the model and make the same calls together. eyes: to see images with. advance:
        hears of every batch, and of every token that is generated.
        """
        self._advance = advance
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens or usual_tokens(device.type)
        self._cluster_tokens = batch_tokens or BATCH_TOKENS
        self._sliced = sliced
        self._ids: dict[str, Ids] = {}
        self._quiet = torch.no_grad if sliced else torch.inference_mode  # slices are gathered into ordinary tensors
        self._passes = Passes(
            model,
            pad_id=self._pad_id,
            device=device,
            eyes=eyes,
            max_bytes=image_cache_bytes,
            tokens_per_pass=min(IMAGE_TOKENS, self._cluster_tokens),
        )
        text = base_model_of(model).config.get_text_config()
        self._max_logits = max(1, MAX_LOGITS // text.vocab_size)

    def generate(self, questions: Sequence[Question], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuation of every question, decoded without special tokens, up to the first of `stop`."""
        texts = [""] * len(questions)
        lengths = [len(question.ids) + max_new_tokens for question in questions]
        for indices in self._cut(lengths):
            with self._asking():
                said = self._continued([questions[i] for i in indices], max_new_tokens, stop)
            for i, text in zip(indices, said, strict=True):
                texts[i] = before_first(text, stop)
        return texts

    def _continued(self, batch: Sequence[Question], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        ids_BT, mask_BT = self._passes.left_padded([question.ids for question in batch])
        model, length = self._passes.model, ids_BT.shape[1]
        ends = getattr(base_model_of(model).generation_config, "eos_token_id", None)
        with self._passes.seeing([image for question in batch for image in question.images], ids_BT) as beside:
            out_BT = model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                **beside,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=self._pad_id,
                eos_token_id=self._tokenizer.eos_token_id if ends is None else ends,
                stopping_criteria=self._asked_at_each_token(stop, length),
                synced_gpus=self._sliced,
            )
        texts: list[str] = self._tokenizer.batch_decode(out_BT[:, length:], skip_special_tokens=True)
        return texts

    def _asked_at_each_token(self, stop: Sequence[str], prompt_length: int) -> list[Any] | None:
        asked: list[Any] = [SaysStop(self._tokenizer, stop, prompt_length)] if stop else []
        asked += [TellsOfTokens(self._advance)] if self._advance is not None else []
        return asked or None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around a batch: no gradients, and it must come to an end."""
        with self._quiet(), nullcontext() if self._advance is None else self._advance.asking():
            yield

    def option_log_probabilities(self, asked: Sequence[tuple[Question, Sequence[str]]]) -> list[list[float]]:
        """For every question, the log-probability of each of its options after it, summed over the option's tokens.

        Nothing is generated. An option's text is encoded by itself, without special tokens.
        """
        encoded = [(question, [self.ids_of(text) for text in options]) for question, options in asked]
        sums = [[0.0] * len(options) for _, options in asked]
        rows = fed(encoded)
        alone = [Cluster(0, [row]) for row in rows]
        found = clusters(rows, self._passes.image_token) if self._passes.shares else alone
        for read, value in self._read(found):
            sums[read.question][read.option] += value
        if any(math.isnan(value) for values in sums for value in values):
            message = "the model gives NaN in place of probabilities; load it in float32 or bfloat16 (model.dtype)"
            raise StudyError(at("model.dtype"), message, exit_code=Exit.JOBS_FAILED)
        return sums

    def answer_log_probs(self, asked: Sequence[Asked]) -> list[Answered]:
        """For every (question, answer's token ids): the log-probability of each of the answer's tokens."""
        found: dict[int, Answered] = {}
        most = max((len(answer) for _, answer in asked), default=1)
        for batch in self._cut([len(question.ids) + len(answer) for question, answer in asked], most):
            with self._asking():
                told = self._passes.read_all([asked[i] for i in batch])
            found.update(zip(batch, told, strict=True))
        return [found[i] for i in range(len(asked))]

    @property
    def context(self) -> int | None:
        """Tokens that the model's positions reach; None where its configuration does not say."""
        return context_of(base_model_of(self._passes.model))

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        return self._tokenizer

    def ids_of(self, text: str) -> Ids:
        """A text's tokens, without special ones. Kept: the same few options come with every question."""
        if text not in self._ids:
            if len(self._ids) >= MAX_TEXTS:
                self._ids.clear()
            self._ids[text] = tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
        return self._ids[text]

    def _read(self, found: Sequence[Cluster]) -> list[tuple[Read, float]]:
        """All that is to be read of clusters, in batches."""
        alone = [row for cluster in found if cluster.prefix == 0 for row in cluster.rows]
        reads: list[tuple[Read, float]] = []
        most = max((len(row.ids) - row.first_place for row in alone), default=1)
        for indices in self._cut([len(row.ids) for row in alone], most):
            with self._asking():
                reads += self._passes.plain([alone[i] for i in indices])
        for batch in self._batches_of_clusters([cluster for cluster in found if cluster.prefix > 0]):
            with self._asking():
                reads += self._passes.shared(batch)
        return reads

    def _batches_of_clusters(self, found: Sequence[Cluster]) -> list[list[Cluster]]:
        """Longest first; as many rows as fit together with their beginnings, whose keys and values each row holds.

        A cluster is cut only where memory asks for it: its beginning would be computed again.
        """
        batches: list[list[Cluster]] = []
        longest, size, places, computed = 0, 0, set[int](), 0
        for whole in sorted(found, key=lambda cluster: -(cluster.prefix + cluster.longest_rest)):
            length = whole.prefix + whole.longest_rest
            bound = self._max_logits // len(whole.places)
            most = min(self._cluster_tokens // length, self._batch_size or len(whole.rows), bound)
            for cluster in whole.pieces(most):
                longest, size, places = max(longest, length), size + len(cluster.rows), places | cluster.places
                fed = cluster.prefix + len(cluster.rows) * cluster.longest_rest
                computed += fed
                too_many = size > (self._batch_size or size) or size * len(places) > self._max_logits
                too_large = computed > self._batch_tokens or size * longest > self._cluster_tokens
                if not batches or too_large or too_many:
                    batches.append([])
                    longest, size, places, computed = length, len(cluster.rows), cluster.places, fed
                batches[-1].append(cluster)
        return batches

    def _cut(self, lengths: Sequence[int], logits_each: int = 1) -> list[list[int]]:
        bound = max(1, self._max_logits // logits_each)
        return list(cut(lengths, max_tokens=self._batch_tokens, max_size=self._batch_size, max_rows=bound))

    @property
    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if pad is None else pad)


class TellsOfTokens:
    """Tells of life at each token that `generate` has made, and never ends an answer."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def __call__(self, ids_BT: Tensor, scores: Any, **options: Any) -> Tensor:  # noqa: ARG002
        """(B,) bool."""
        self._advance.move()
        return torch.zeros(len(ids_BT), dtype=torch.bool, device=ids_BT.device)


class SaysStop:
    """Tells `generate`, row by row, who has said one of the words after which nothing counts."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], prompt_length: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, prompt_length
        self._window = 4 * max(map(len, stop)) + 4  # a character takes up to four tokens, which are bytes

    def __call__(self, ids_BT: Tensor, scores: Any, **options: Any) -> Tensor:  # noqa: ARG002
        """(B,) bool. Only the last tokens are decoded: the stop would be among them."""
        start = max(self._start, ids_BT.shape[1] - self._window)
        texts = self._tokenizer.batch_decode(ids_BT[:, start:], skip_special_tokens=True)
        said = [
            any(word in text for word in self._stop) and self._says(ids)
            for text, ids in zip(texts, ids_BT, strict=True)
        ]
        return torch.tensor(said, device=ids_BT.device)

    def _says(self, ids_T: Tensor) -> bool:
        """Whether the row's answer, as a whole, is over."""
        text: str = self._tokenizer.decode(ids_T[self._start :], skip_special_tokens=True)
        return before_first(text, self._stop) != text


def before_first(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first of `stop` behind its leading white space: an answer may begin with a line break."""
    blank = len(text) - len(text.lstrip())
    places = [place for word in stop if (place := text.find(word, blank)) >= 0]
    return text[: min(places)] if places else text
