"""Corpora, records on disk and tokenizers, all tiny."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_corpus import corpus_of

from tunestudy.data.corpus import Corpus
from tunestudy.data.sources import Folders

torch.set_num_threads(1)

WriteJsonl = Callable[[str, Sequence[Any]], Path]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The study file's folder, and a cache below its results."""
    return Folders(tmp_path, tmp_path / "results" / "study" / "cache")


@pytest.fixture
def corpus() -> Callable[..., Corpus]:
    """A function: a corpus of samples of these lengths, token ids all different, the last half of each a target."""

    def of(lengths: Sequence[int], sources: Sequence[int] = (), names: tuple[str, ...] = ("a",)) -> Corpus:
        start, samples = 10, []
        for length in lengths:
            ids = np.arange(start, start + length)
            samples.append((ids, np.arange(length) >= length // 2))
            start += length
        return corpus_of(samples, source=list(sources), sources=names)

    return of


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    """A function: write rows (objects, or lines as they are) to a file in the study's folder."""

    def write(name: str, rows: Sequence[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., Any]:
    """A function: a byte-level BPE tokenizer with these special tokens (the first is `<eos>`) and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def make(special: Sequence[str] = ("<eos>",), template: str | None = None, bos: str | None = None) -> Any:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=290,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[*special, *([bos] if bos else [])],
            show_progress=False,
        )
        backend.train_from_iterator(["hello there, how are you today", "fine fine, thank you"], trainer)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token=special[0],
            pad_token=special[0],
            bos_token=bos,
            extra_special_tokens=list(special[1:]),
        )
        tokenizer.chat_template = template
        return tokenizer

    return make
