"""Tokenised samples as flat arrays, in memory or mapped from a cache folder."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

_ARRAYS = {"ids": np.int32, "is_target": np.bool_, "offsets": np.int64, "source": np.int16, "content": np.uint64}


class Texts(Sequence[str]):
    """Many strings in one block of UTF-8, decoded one at a time: ten million ids need no ten million objects."""

    def __init__(self, block: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        encoded = [text.encode() for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        start = int(self.ends[i - 1]) if i else 0
        return self.block[start : int(self.ends[i])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, eq=False)
class Corpus:
    """N samples of P tokens in all.

    Shapes: ids (P,) int32; is_target (P,) bool, True where a token is to be predicted from those before it (never a
    sample's first); offsets (N+1,) int64; source (N,) int16, an index into `sources`; content (N,) uint64, the first
    64 bits of each record's content hash.
    """

    ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    source: NDArray[np.int16]
    content: NDArray[np.uint64]
    sample_ids: Sequence[str]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens per sample."""
        return np.diff(self.offsets)

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    @property
    def num_targets(self) -> int:
        return int(np.count_nonzero(self.is_target))

    def of_source(self, index: int) -> NDArray[np.int64]:
        """Indices of the samples of one source, in their order."""
        return np.flatnonzero(self.source == index)

    def targets_by_source(self) -> NDArray[np.int64]:
        """(S,) target tokens of each source."""
        ends = np.concatenate([[0], np.cumsum(self.is_target, dtype=np.int64)])
        per_sample = ends[self.offsets[1:]] - ends[self.offsets[:-1]]
        return np.bincount(self.source, weights=per_sample, minlength=len(self.sources)).astype(np.int64)

    def subset(self, indices: NDArray[np.int64]) -> "Corpus":
        """A copy that holds only these samples, in this order."""
        where = gather_index(self, indices)
        return Corpus(
            ids=self.ids[where],
            is_target=self.is_target[where],
            offsets=np.concatenate([[0], np.cumsum(self.lengths[indices])]).astype(np.int64),
            source=self.source[indices],
            content=self.content[indices],
            sample_ids=Texts.of(self.sample_ids[int(i)] for i in indices),
            sources=self.sources,
        )


def gather_index(corpus: Corpus, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """(T,) positions in `corpus.ids` of these samples' tokens laid end to end."""
    lengths = corpus.lengths[indices]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(corpus.offsets[indices] - (ends - lengths), lengths) + np.arange(total)


def corpus_of(
    samples: Iterable[tuple[Sequence[int], Sequence[bool]]],
    *,
    sources: tuple[str, ...] = ("data",),
    source: Sequence[int] = (),
) -> Corpus:
    """A corpus in memory from (ids, target flags) pairs; a sample's first token is never a target."""
    pairs = [(np.asarray(ids, np.int32), np.asarray(flags, np.bool_).copy()) for ids, flags in samples]
    for _, flags in pairs:
        flags[:1] = False
    count = len(pairs)
    return Corpus(
        ids=np.concatenate([ids for ids, _ in pairs]) if pairs else np.zeros(0, np.int32),
        is_target=np.concatenate([flags for _, flags in pairs]) if pairs else np.zeros(0, np.bool_),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in pairs)], dtype=np.int64),
        source=np.asarray(source or [0] * count, np.int16),
        content=np.arange(count, dtype=np.uint64),
        sample_ids=Texts.of(str(i) for i in range(count)),
        sources=sources,
    )


class CorpusWriter:
    """Writes a corpus to a folder, sample by sample, without holding it in memory."""

    def __init__(self, folder: Path, sources: tuple[str, ...]) -> None:
        folder.mkdir(parents=True)
        (folder / "corpus.json").write_text(json.dumps({"sources": sources}), encoding="utf-8")
        names = [*_ARRAYS, "sample_ids", "sample_id_ends"]
        self._files = {name: open(folder / f"{name}.bin", "wb") for name in names}  # noqa: SIM115 - closed by close()
        self._tokens = self._id_bytes = 0
        self._write("offsets", np.zeros(1, np.int64))

    def add(
        self, ids: NDArray[np.int32], is_target: NDArray[np.bool_], *, source: int, sample_id: str, content: int
    ) -> None:
        """Append one sample; the caller has cleared the first token's flag."""
        assert len(ids) == len(is_target) > 0 and not is_target[0]
        self._tokens += len(ids)
        name = sample_id.encode()
        self._id_bytes += len(name)
        self._write("ids", ids.astype(np.int32, copy=False))
        self._write("is_target", is_target)
        self._write("offsets", np.array([self._tokens], np.int64))
        self._write("source", np.array([source], np.int16))
        self._write("content", np.array([content], np.uint64))
        self._files["sample_ids"].write(name)
        self._write("sample_id_ends", np.array([self._id_bytes], np.int64))

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, name: str, values: NDArray[Any]) -> None:
        self._files[name].write(values.tobytes())


def open_corpus(folder: Path) -> Corpus:
    """The corpus that `CorpusWriter` left in a folder, mapped, not read."""
    arrays = {name: _mapped(folder / f"{name}.bin", dtype) for name, dtype in _ARRAYS.items()}
    ids = Texts(_mapped(folder / "sample_ids.bin", np.uint8), _mapped(folder / "sample_id_ends.bin", np.int64))
    sources = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["sources"]
    return Corpus(**arrays, sample_ids=ids, sources=tuple(sources))


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A read-only array over a file; a plain ndarray, because indexing a `np.memmap` object is several times slower."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
