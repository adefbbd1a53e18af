"""Tokenised samples as flat arrays, in memory or mapped from a cache folder."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from tunestudy.data.images import ImageFacts

_ARRAYS = {"ids": np.int32, "is_target": np.bool_, "offsets": np.int64, "source": np.int16, "content": np.uint64}
_IMAGE_ARRAYS = {"image_ends": np.int64, "image_numbers": np.int64, "image_hashes": np.uint8}


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
class Images:
    """The images of N samples, in order, as they were settled.

    Shapes: ends (N,) int64, where each sample's images end; numbers (I, 4) int64: offset and length in bytes, width and
    height; hashes (I, 32) uint8, SHA-256; places: I texts.
    """

    ends: NDArray[np.int64]
    numbers: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    places: Sequence[str]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(N,) images per sample."""
        return np.diff(self.ends, prepend=0)

    @cached_property
    def short_hashes(self) -> NDArray[np.uint64]:
        """(I,) the first 64 bits of each image's hash."""
        return np.ascontiguousarray(self.hashes[:, :8]).view(np.uint64).ravel()

    def of(self, sample: int) -> list[ImageFacts]:
        """The images of one sample."""
        return [self[i] for i in range(int(self.ends[sample - 1]) if sample else 0, int(self.ends[sample]))]

    def __getitem__(self, index: int) -> ImageFacts:
        offset, length, width, height = self.numbers[index].tolist()
        digest = self.hashes[index].tobytes().hex()
        return ImageFacts(self.places[index], offset, length, digest, width, height)

    def subset(self, samples: NDArray[np.int64]) -> "Images":
        """A copy that holds only the images of these samples, in this order."""
        found = [self.of(int(sample)) for sample in samples]
        return images_table(found)


def images_table(images: Sequence[Sequence[ImageFacts]]) -> Images:
    """In memory, from the images of every sample."""
    flat = [one for of_sample in images for one in of_sample]
    return Images(
        ends=np.cumsum([len(of_sample) for of_sample in images], dtype=np.int64),
        numbers=np.array([_numbers(one) for one in flat], np.int64).reshape(-1, 4),
        hashes=np.frombuffer(b"".join(bytes.fromhex(one.sha256) for one in flat), np.uint8).reshape(-1, 32),
        places=Texts.of(one.place for one in flat),
    )


def _numbers(image: ImageFacts) -> tuple[int, int, int, int]:
    return image.offset, image.length, image.width, image.height


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
    images: Images | None = None
    """None where no sample has any."""

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

    @cached_property
    def _targets(self) -> NDArray[np.int32]:
        """(N,) target tokens per sample."""
        ends = np.concatenate([[0], np.cumsum(self.is_target, dtype=np.int64)])
        found: NDArray[np.int32] = (ends[self.offsets[1:]] - ends[self.offsets[:-1]]).astype(np.int32)
        return found

    def num_targets_of(self, sample: int) -> int:
        """Target tokens of one sample."""
        return int(self._targets[sample])

    def of_source(self, index: int) -> NDArray[np.int64]:
        """Indices of the samples of one source, in their order."""
        return np.flatnonzero(self.source == index)

    def targets_by_source(self) -> NDArray[np.int64]:
        """(S,) target tokens of each source."""
        return np.bincount(self.source, weights=self._targets, minlength=len(self.sources)).astype(np.int64)

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
            images=None if self.images is None else self.images.subset(indices),
        )


def gather_index(corpus: Corpus, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """(T,) positions in `corpus.ids` of these samples' tokens laid end to end."""
    lengths = corpus.lengths[indices]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(corpus.offsets[indices] - (ends - lengths), lengths) + np.arange(total)


class CorpusWriter:
    """Writes a corpus to a folder, sample by sample, without holding it in memory."""

    def __init__(self, folder: Path, sources: tuple[str, ...]) -> None:
        folder.mkdir(parents=True)
        (folder / "corpus.json").write_text(json.dumps({"sources": sources}), encoding="utf-8")
        names = [*_ARRAYS, "sample_ids", "sample_id_ends", *_IMAGE_ARRAYS, "image_places", "image_place_ends"]
        self._files = {name: open(folder / f"{name}.bin", "wb") for name in names}  # noqa: SIM115 - closed by close()
        self._tokens = self._id_bytes = self._images = self._place_bytes = 0
        self._write("offsets", np.zeros(1, np.int64))

    def add(
        self,
        ids: NDArray[np.int32],
        is_target: NDArray[np.bool_],
        images: Sequence[ImageFacts] = (),
        *,
        source: int,
        sample_id: str,
        content: int,
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
        for image in images:
            self._add_image(image)
        self._write("image_ends", np.array([self._images], np.int64))

    def _add_image(self, image: ImageFacts) -> None:
        self._images += 1
        place = image.place.encode()
        self._place_bytes += len(place)
        self._write("image_numbers", np.array(_numbers(image), np.int64))
        self._write("image_hashes", np.frombuffer(bytes.fromhex(image.sha256), np.uint8))
        self._files["image_places"].write(place)
        self._write("image_place_ends", np.array([self._place_bytes], np.int64))

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
    arrays = {name: mapped(folder / f"{name}.bin", dtype) for name, dtype in _ARRAYS.items()}
    ids = Texts(mapped(folder / "sample_ids.bin", np.uint8), mapped(folder / "sample_id_ends.bin", np.int64))
    sources = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["sources"]
    return Corpus(**arrays, sample_ids=ids, sources=tuple(sources), images=_open_images(folder))


def _open_images(folder: Path) -> Images | None:
    ends, numbers, hashes = (mapped(folder / f"{name}.bin", dtype) for name, dtype in _IMAGE_ARRAYS.items())
    if len(numbers) == 0:
        return None
    places = Texts(mapped(folder / "image_places.bin", np.uint8), mapped(folder / "image_place_ends.bin", np.int64))
    return Images(ends, numbers.reshape(-1, 4), hashes.reshape(-1, 32), places)


def mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A read-only array over a file; a plain ndarray, because indexing a `np.memmap` object is several times slower."""
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
