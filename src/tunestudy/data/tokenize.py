"""From canonical examples to token ids and the mask of what is to be learnt.

A conversation is rendered once as text by the tokenizer's chat template; what is learnt is a set of character spans
in that text (`spans.py`), mapped onto tokens by their offsets. So ids are those of the stock template, to the token.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.data import DataSettings
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data.example import Example, Message
from tunestudy.data.images import IMAGE_MARK, ImageFacts
from tunestudy.data.rejected import Rejected
from tunestudy.data.spans import Rendered, Span, answer_spans, render, rewritten
from tunestudy.data.vision import Eyes

TOO_LONG = "too long"

NO_IMAGES = "the stage's model takes none: it trains on text"


@dataclass(frozen=True, slots=True)
class Sample:
    """ids (T,) int32 and is_target (T,) bool; a sample's first token is never a target, nor is an image token."""

    ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]
    images: tuple[ImageFacts, ...] = ()


_Encoded = tuple[list[int], list[Span]]
"""Ids and character offsets of one text."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """What of an example is to be encoded: a prompt and an answer, or a rendered conversation."""

    example: Example
    texts: tuple[str, ...]
    rendered: Rendered | None = None
    images: tuple[ImageFacts, ...] = ()


class Tokenize:
    """Makes samples of examples, under one tokenizer and one stage's settings. Can be sent to another process."""

    def __init__(self, tokenizer: Any, settings: DataSettings, eyes: Eyes | None = None) -> None:
        """eyes: of a model that takes images; without, records with images are rejected."""
        self._tokenizer, self._settings, self._eyes = tokenizer, settings, eyes
        self._template_checked = False
        with_special, without = tokenizer("x").input_ids, tokenizer("x", add_special_tokens=False).input_ids
        self._lead = with_special[: with_special.index(without[0])]  # a `<bos>`, if this tokenizer starts with one
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    def __call__(self, examples: Sequence[Example]) -> list[Sample | Rejected]:
        """A sample or the reason against it, for every example in turn; all their texts are encoded in one go."""
        drafts = [self._draft(example.as_learnt()) for example in examples]
        texts = [text for draft in drafts if isinstance(draft, _Draft) for text in draft.texts]
        encoded = iter(self._encoded(texts))
        return [draft if isinstance(draft, Rejected) else self._sample(draft, encoded) for draft in drafts]

    def prompt(self, example: Example) -> tuple[list[int], tuple[ImageFacts, ...]]:
        """What a model is given to answer the example: all before the completion or before the last assistant turn.

        Raises Rejected for an image that cannot be used.
        """
        images = self._settled(example)
        if example.prompt is not None:
            ids = [*self._lead, *self._ids(self._written(example.prompt, IMAGE_MARK))]
        else:
            if images:
                self._check_template()
            last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
            text = render(self._tokenizer, example.messages[:last], add_generation_prompt=True)
            ids = self._ids(self._written(text))
        return self._expanded(ids, [False] * len(ids), images)[0], images

    def _draft(self, example: Example) -> _Draft | Rejected:
        """The texts of an example, rendered but not encoded, and its images, looked at."""
        try:
            images = self._settled(example)
            if not example.messages:
                texts = (example.prompt or "", example.completion or example.text or "")
                return _Draft(example, tuple(self._written(text, IMAGE_MARK) for text in texts), images=images)
            if images:
                self._check_template()
            rendered = answer_spans(self._tokenizer, example, last_only=self._settings.loss_on == "completion")
        except Rejected as reason:
            return reason
        if images and self._eyes is not None:
            rendered = rewritten(rendered, self._eyes.vision.placeholder, self._eyes.vision.written)
        return _Draft(example, (rendered.text,), rendered, images)

    def _check_template(self) -> None:
        """That the chat template says where an image is, in the way that its model expects."""
        if self._template_checked:
            return
        assert self._eyes is not None
        asked: list[Message] = [{"role": "user", "content": f"{IMAGE_MARK}?"}]
        placeholder = self._eyes.vision.placeholder
        try:
            text = render(self._tokenizer, asked) if self._tokenizer.chat_template else ""
        except (Rejected, TypeError) as error:
            text = f"an error ({error})"
        if text.count(placeholder) != 1:
            raise StudyError(
                at("model.chat_template"),
                f"must write {placeholder} once for an image; of one image and a question it makes {text[:200]!r}",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )
        self._template_checked = True

    def _settled(self, example: Example) -> tuple[ImageFacts, ...]:
        """Decode every image once. Raises Rejected."""
        if not example.images:
            return ()
        if self._eyes is None:
            raise Rejected("images", NO_IMAGES)
        return tuple(self._eyes.places.settle(image) for image in example.images)

    def _written(self, text: str, mark: str | None = None) -> str:
        """The text with one image token, between its borders, for every image."""
        if self._eyes is None:
            return text
        return text.replace(mark or self._eyes.vision.placeholder, self._eyes.vision.written)

    def _encoded(self, texts: Sequence[str]) -> list[_Encoded]:
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        return list(zip(encoded.input_ids, encoded.offset_mapping, strict=True))

    def _sample(self, draft: _Draft, encoded: Iterator[_Encoded]) -> Sample | Rejected:
        parts = [next(encoded) for _ in draft.texts]
        try:
            if draft.rendered is not None:
                ids, flags = self._conversation(draft.rendered, *parts[0])
            else:
                ids, flags = self._plain(draft.example, prompt=parts[0][0], answer=parts[1][0])
            return self._fitted(*self._expanded(ids, flags, draft.images), draft.images)
        except Rejected as reason:
            return reason

    def _expanded(
        self, ids: list[int], flags: list[bool], images: Sequence[ImageFacts]
    ) -> tuple[list[int], list[bool]]:
        """Every image token repeated for each of its image's features; none of them is a target."""
        if self._eyes is None:
            return ids, flags
        token = self._eyes.vision.image_token
        if (count := ids.count(token)) != len(images):
            raise Rejected("images and places differ", f"{count} image tokens in the prompt, {len(images)} images")
        rest = iter(images)
        long_ids: list[int] = []
        long_flags: list[bool] = []
        for one, flag in zip(ids, flags, strict=True):
            times = 1
            if one == token:
                image, flag = next(rest), False
                times = self._eyes.vision.num_tokens((image.width, image.height))
            long_ids += [one] * times
            long_flags += [flag] * times
        return long_ids, long_flags

    def _plain(self, example: Example, *, prompt: list[int], answer: list[int]) -> tuple[list[int], list[bool]]:
        """Text, or a prompt with its completion; both end with the end-of-sequence token, which is learnt."""
        context = [*self._lead, *prompt]
        learn_all = example.text is not None or self._settings.loss_on == "all"
        return [*context, *answer, self._end()], [learn_all] * len(context) + [True] * (len(answer) + 1)

    def _conversation(
        self, rendered: Rendered, ids: list[int], offsets: Sequence[Span]
    ) -> tuple[list[int], list[bool]]:
        flags = _covered(offsets, rendered.spans)
        for span in rendered.spans:
            turn_end = span[1] + _common_start(rendered.text[span[1] :], rendered.tail)
            learnt = self._learn_stop(ids, flags, offsets, span, turn_end)
            if not learnt and span == rendered.spans[-1]:
                last = max(i for i, flag in enumerate(flags) if flag)
                ids, flags = [*ids[: last + 1], self._end()], [*flags[: last + 1], True]
        if self._settings.loss_on == "all":
            flags = [True] * len(ids)
        return ids, flags

    def _learn_stop(
        self, ids: list[int], flags: list[bool], offsets: Sequence[Span], span: Span, turn_end: int
    ) -> bool:
        """Mark the stop token of an answer; False when the template gives it none. Raises Rejected without an answer.

        It is the first special token between the answer and the turn's end, or the last thing inside a
        `{% generation %}` block.
        """
        inside = [i for i, (start, end) in enumerate(offsets) if span[0] < end and start < span[1]]
        if not inside:
            raise Rejected("empty answer", "the tokenizer makes no token of it")
        after = [i for i, (start, end) in enumerate(offsets) if span[1] <= start and end <= turn_end]
        stop = next((i for i in after if ids[i] in self._special), None)
        if stop is not None:
            flags[inside[-1] + 1 : stop + 1] = [True] * (stop - inside[-1])
            return True
        said = [i for i in inside if self._tokenizer.decode([ids[i]]).strip()]
        return bool(said) and ids[said[-1]] in self._special

    def _fitted(self, ids: list[int], flags: list[bool], images: tuple[ImageFacts, ...] = ()) -> Sample:
        limit = self._settings.max_length
        if len(ids) > limit:
            of_images = 0 if self._eyes is None else ids.count(self._eyes.vision.image_token)
            told = f", {of_images} of them of its images" if of_images else ""
            if self._settings.overlong == "reject":
                raise Rejected(TOO_LONG, f"{len(ids)} tokens{told}, max_length is {limit}")
            if self._eyes is not None and self._eyes.vision.image_token in ids[limit:]:
                raise Rejected(TOO_LONG, f"{len(ids)} tokens{told}; truncated to {limit}, an image would be cut")
        sample = Sample(np.asarray(ids[:limit], np.int32), np.asarray(flags[:limit], np.bool_), images)
        sample.is_target[:1] = False
        if not sample.is_target.any():
            cut = " after truncation" if len(ids) > limit else ""
            raise Rejected("everything masked", f"no token is left to learn{cut}")
        return sample

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _end(self) -> int:
        end = self._tokenizer.eos_token_id
        if end is None:
            raise StudyError(
                at("model.tokenizer"),
                "has no end-of-sequence token, so a model could not learn where to stop",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )
        return int(end)


def _covered(offsets: Iterable[Span], spans: Sequence[Span]) -> list[bool]:
    """For every token whether it overlaps a span; both run from left to right."""
    flags, rest = [], list(reversed(spans))
    for start, end in offsets:
        while rest and rest[-1][1] <= start:
            rest.pop()
        flags.append(bool(rest) and end > rest[-1][0] and end > start)
    return flags


def _common_start(a: str, b: str) -> int:
    """Number of characters with which both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
