"""Samples as a model sees them, for `tunestudy data`: tokens as text, which of them are learnt, images counted.

Records go through the same reading, templates and masks as for training (`survey`, `Tokenize`); nothing is written.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from tunestudy.config.data import AnyDataset
from tunestudy.config.stage import TrainStage
from tunestudy.data.build import eyes_for
from tunestudy.data.pack import pack
from tunestudy.data.rejected import Rejected
from tunestudy.data.select import HELD_OUT, is_held_out, split_name
from tunestudy.data.sources import Folders
from tunestudy.data.survey import Record, survey
from tunestudy.data.tokenize import Sample, Tokenize
from tunestudy.data.vision import Vision

REASONS_SHOWN = 5
"""Rejected records that are named, per data set."""
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Look:
    """What is asked for."""

    sources: tuple[str, ...]
    """`name` or `name@held_out`."""
    num_samples: int
    """Samples shown of each source; of packs, in all."""
    num_records: int | None
    """Records of each source that are tokenised and counted; None: all."""


class Shower:
    """Shows sources under one tokenizer and one stage's settings."""

    def __init__(self, tokenizer: Any, settings: TrainStage, vision: Vision | None, folders: Folders) -> None:
        self._tokenizer, self._settings, self._vision, self._folders = tokenizer, settings, vision, folders
        self._unknown = unknown_token(tokenizer)
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    def shown(self, look: Look, datasets: dict[str, AnyDataset]) -> dict[str, Any]:
        """{"sources": [counts and samples of each], "packs": those that packing makes, None without it}."""
        sources, samples, described = [], [], []
        for source in look.sources:
            counts, kept = self._source(source, datasets[split_name(source)[0]], look.num_records)
            first = [self._described(source, record, sample) for record, sample in kept[: look.num_samples]]
            sources.append({**counts, "shown": first})
            if self._settings.packing:
                samples += [sample for _, sample in kept]
                described += [(source, record, sample) for record, sample in kept]
        packs = None
        if self._settings.packing:
            packs = [[self._described(*described[i]) for i in row] for row in self._rows(samples, look.num_samples)]
        return {"sources": sources, "packs": packs}

    def _source(
        self, source: str, dataset: AnyDataset, num_records: int | None
    ) -> tuple[dict[str, Any], list[tuple[Record, Sample]]]:
        """Counts over the records that were looked at, and the samples they make."""
        name, wants_held_out = split_name(source)[0], source.endswith(HELD_OUT)
        found = survey(name, dataset.model_copy(update={"max_rejected": 1.0}), self._folders)
        mine = (
            record for record in found.records() if is_held_out(record.split_id, dataset.held_out) == wants_held_out
        )
        eyes = None if self._vision is None else eyes_for(self._vision, self._folders, dataset)
        tokenize = Tokenize(self._tokenizer, self._settings, eyes)
        whole = Tokenize(self._tokenizer, self._settings.model_copy(update={"max_length": NO_LIMIT}), eyes)
        kept, reasons, truncated, looked_at = [], Counter[str](), 0, 0
        examples = [{"place": row["line"], "reason": row["reason"]} for row in found.bad[:REASONS_SHOWN]]
        for record, outcome in _tokenised(tokenize, islice(mine, num_records)):
            looked_at += 1
            if isinstance(outcome, Rejected):
                reasons[outcome.reason] += 1
                if len(examples) < 2 * REASONS_SHOWN:
                    examples.append({"place": record.place, "reason": str(outcome)})
                continue
            truncated += self._is_cut(record, outcome, whole)
            kept.append((record, outcome))
        counts = {
            "source": source,
            "read": found.tally.read,
            "looked_at": looked_at,
            "samples": len(kept),
            "tokens": sum(len(sample.ids) for _, sample in kept),
            "learnt": sum(int(sample.is_target.sum()) for _, sample in kept),
            "unknown": sum(int((sample.ids == self._unknown).sum()) for _, sample in kept),
            "images": sum(len(sample.images) for _, sample in kept),
            "truncated": truncated,
            "unreadable": {**found.tally.rejected, **found.tally.lost},
            "rejected": dict(reasons),
            "examples": examples,
            "is_all": (is_all := next(mine, None) is None),
            "is_held_out": wants_held_out,
            "other_side": found.num_chosen - looked_at if is_all and dataset.held_out else 0,
        }
        return counts, kept

    def _is_cut(self, record: Record, sample: Sample, whole: Tokenize) -> bool:
        """Whether the sample was longer: only one that fills `max_length` is looked at again."""
        if len(sample.ids) < self._settings.max_length:
            return False
        (uncut,) = whole([record.example])
        return isinstance(uncut, Sample) and len(uncut.ids) > len(sample.ids)

    def _rows(self, samples: Sequence[Sample], most: int) -> Iterator[list[int]]:
        """The first rows that packing makes of these samples, laid out as they came."""
        if not samples:
            return
        lengths = np.array([len(sample.ids) for sample in samples], np.int64)
        images = np.array([len(sample.images) for sample in samples], np.int64)
        order, borders = pack(lengths, self._settings.max_length, images, self._settings.max_images_per_pack)
        for start, stop in islice(pairwise(borders.tolist()), most):
            yield order[start:stop].tolist()

    def _described(self, source: str, record: Record, sample: Sample) -> dict[str, Any]:
        return {
            "source": source,
            "id": record.id,
            "place": record.place,
            "tokens": len(sample.ids),
            "learnt": int(sample.is_target.sum()),
            "segments": list(self.segments(sample)),
        }

    def segments(self, sample: Sample) -> Iterator[dict[str, Any]]:
        """Runs of tokens that are alike: {"kind": "text" | "special" | "image", "learnt", "tokens", "text"}."""
        ids, flags = sample.ids.tolist(), sample.is_target.tolist()
        images = iter(sample.images)
        start = 0
        while start < len(ids):
            kind = self._kind(ids[start])
            stop = start + 1
            if kind == "image" and self._vision is not None:
                image = next(images)
                stop = start + self._vision.num_tokens((image.width, image.height))
                text = f"image {image.width}×{image.height}: {stop - start} tokens"
            else:
                while stop < len(ids) and flags[stop] == flags[start] and self._kind(ids[stop]) == kind:
                    stop += 1
                text = self._tokenizer.decode(
                    ids[start:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
            yield {"kind": kind, "learnt": flags[start], "tokens": stop - start, "text": text}
            start = stop

    def _kind(self, token: int) -> str:
        if self._vision is not None and token == self._vision.image_token:
            return "image"
        return "special" if token in self._special else "text"


def unknown_token(tokenizer: Any) -> int:
    """The token for what a tokenizer cannot write; -1 where it has none, or shares it with the end as GPT-2 does."""
    others = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    return -1 if tokenizer.unk_token_id is None or tokenizer.unk_token_id in others else int(tokenizer.unk_token_id)


def _tokenised(tokenize: Tokenize, records: Iterator[Record]) -> Iterator[tuple[Record, Sample | Rejected]]:
    while chunk := list(islice(records, 64)):
        yield from zip(chunk, tokenize([record.example for record in chunk]), strict=True)
