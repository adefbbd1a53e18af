"""How probable texts are to the model, in bits per byte and as perplexity; nothing is generated.

The metrics are those of all texts together: Σ NLL ÷ Σ tokens in nats (`nll`), its exponential (`perplexity`), and
Σ NLL ÷ (ln 2 · Σ bytes) (`bits_per_byte`), which does not depend on how a tokenizer cuts: the one that is compared.
Source of bits per byte: Gao et al. 2020, The Pile, arXiv:2101.00027, section 3.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from tunestudy.bench.likelihood import Asked, windows
from tunestudy.bench.rows import records_of, unusable
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Question, Row, Scored, Totals
from tunestudy.config.benchmark import Perplexity
from tunestudy.config.data import DataSettings
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.data.rejected import Rejected
from tunestudy.data.survey import Record
from tunestudy.data.tokenize import Tokenize
from tunestudy.data.vision import Eyes
from tunestudy.records.layout import JobDir

VERSION = Perplexity.version

PRIMARY = "bits_per_byte"

LONGEST_WINDOW = 2048
"""Where nothing else is said: longer windows cost memory and change little."""

ANY_LENGTH = 1 << 40
"""For the tokenizer's settings: windows do the cutting here."""

SHOWN = 200
"""Characters of a text that its line of predictions.jsonl holds."""


@dataclass(frozen=True)
class Text(Row):
    """A document, or a conversation up to the end of its last answer: `prompt_ids` (T,) are all of its tokens."""

    is_scored: tuple[bool, ...] = ()
    """(T,) Never the first: nothing stands before it."""
    num_bytes: int = 0
    """UTF-8 bytes that the scored tokens spell."""


def read_rows(
    name: str, benchmark: Perplexity, job: Job, folder: JobDir, tokenizer: Any, eyes: Eyes | None = None
) -> list[Row]:
    """Every text that is scored, sorted by id."""
    settings = DataSettings(max_length=ANY_LENGTH, loss_on="completion")
    tokenize = Tokenize(tokenizer, settings, eyes)
    rows: list[Row] = []
    for record in records_of(name, benchmark, job, folder):
        if (record.example.text is not None) != (benchmark.over == "text"):
            raise _other_kind(name, benchmark, record)
        try:
            text = _text(record, tokenizer) if benchmark.over == "text" else _answer(record, tokenize)
        except Rejected as problem:
            raise unusable(name, record, problem) from problem
        if text is not None:
            rows.append(text)
    if not rows:
        message = f"no text of {benchmark.dataset} is longer than one token: there is nothing to score"
        raise StudyError(at(f"benchmarks.{name}.dataset"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    return sorted(rows, key=lambda row: row.id)


def score(scorer: Scorer, rows: Sequence[Row], benchmark: Perplexity) -> list[Scored]:
    """The negative log-likelihood of each text, from as many windows as it needs."""
    length, stride = _window(scorer, benchmark)
    texts = [cast(Text, row) for row in rows]
    asked = [_windows(text, length, stride) for text in texts]
    answers = iter(scorer.answer_log_probs([one for of_text in asked for one in of_text]))
    scored: list[Scored] = []
    for text, of_text in zip(texts, asked, strict=True):
        values = [value for _ in of_text for value in next(answers).log_probs]
        flags = text.is_scored[-len(values) :]
        nll = -math.fsum(value for value, counts in zip(values, flags, strict=True) if counts)
        scored.append(_scored(text, nll))
    return scored


def totals(scored: Sequence[Scored]) -> Totals:
    """Of all texts together."""
    nll, num_tokens, num_bytes = (math.fsum(row.others[key] for row in scored) for key in ("nll", "tokens", "bytes"))
    mean = nll / num_tokens
    metrics = {PRIMARY: nll / (math.log(2) * num_bytes), "nll": mean}
    if mean < math.log(np.finfo(np.float64).max):
        metrics["perplexity"] = math.exp(mean)
    return Totals(PRIMARY, metrics, aggregate="by_bytes")


def _text(record: Record, tokenizer: Any) -> Text | None:
    """None for a text whose only token has nothing before it.

    A tokenizer that starts texts with a special token lets the first real one be scored; of others the first token is
    read, not scored, and its bytes do not count.
    """
    text = record.example.text or ""
    encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    ids, added = encoded.input_ids, encoded.special_tokens_mask
    if len(ids) < 2:
        return None
    flags = tuple(i > 0 and not special for i, special in enumerate(added))
    num_bytes = len(text[encoded.offset_mapping[0][1] :].encode())
    if not any(flags) or num_bytes == 0:
        return None
    return Text(record.id, tuple(ids), text[:SHOWN], is_scored=flags, num_bytes=num_bytes)


def _answer(record: Record, tokenize: Tokenize) -> Text:
    """The prompt and its (last) answer with the stop token, as training sees them. Raises Rejected."""
    example = replace(record.example, rationale=None)
    [sample] = tokenize([example])
    if isinstance(sample, Rejected):
        raise sample
    end = int(np.flatnonzero(sample.is_target)[-1]) + 1
    flags = tuple(sample.is_target[:end].tolist())
    num_bytes = len(example.reference.encode())
    ids = tuple(sample.ids[:end].tolist())
    return Text(record.id, ids, example.reference, images=sample.images, is_scored=flags, num_bytes=num_bytes)


def _window(scorer: Scorer, benchmark: Perplexity) -> tuple[int, int]:
    """Length and stride of the windows, in tokens."""
    longest = scorer.context or LONGEST_WINDOW
    length = benchmark.window or min(longest, LONGEST_WINDOW)
    if length > longest:
        message = f"{length} tokens are more than the model's positions reach ({longest})"
        raise StudyError(at("benchmarks.window"), message)
    stride = benchmark.stride or length // 2
    if stride >= length:
        raise StudyError(at("benchmarks.stride"), f"must be below the window's {length} tokens, not {stride}")
    return length, stride


def _windows(text: Text, length: int, stride: int) -> list[Asked]:
    """The windows that score the text from its first scored token on."""
    ids, first = text.prompt_ids, text.is_scored.index(True)
    if text.images:
        if len(ids) > length:
            message = f"row {text.id} has {len(ids)} tokens with its images, which no window of {length} may cut"
            raise StudyError(at("benchmarks.window"), message, exit_code=Exit.PREFLIGHT_REFUSED)
        return [(Question(ids[:first], text.images), ids[first:])]
    found = windows(len(ids), first=first, max_length=length, stride=stride)
    return [(Question(ids[w.begin : w.counts_from]), ids[w.counts_from : w.end]) for w in found]


def _scored(text: Text, nll: float) -> Scored:
    """One line of the predictions: the text's own bits per byte, and what all texts' values are made of."""
    if not math.isfinite(nll):
        message = f"the log-probability of {text.id} is no number: the model's weights or its precision are broken"
        raise StudyError(at("benchmarks"), message, exit_code=Exit.JOBS_FAILED)
    num_tokens = sum(text.is_scored)
    others = {"nll": nll, "tokens": float(num_tokens), "bytes": float(text.num_bytes)}
    bits = nll / (math.log(2) * text.num_bytes)
    images = tuple(image.sha256 for image in text.images)
    return Scored(text.id, "", text.reference, False, score=bits, images=images, others=others)


def _other_kind(name: str, benchmark: Perplexity, record: Record) -> StudyError:
    has, cure = ("rows with answers", "answers") if benchmark.over == "text" else ("running text", "text")
    message = f"{benchmark.dataset} holds {has} ({record.place}); say over: {cure}"
    return StudyError(at(f"benchmarks.{name}.over"), message, exit_code=Exit.PREFLIGHT_REFUSED)
