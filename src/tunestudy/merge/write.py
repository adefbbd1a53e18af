"""Writing a model's tensors, slice by slice and from any thread, into safetensors files that are laid out before.

Format: https://github.com/huggingface/safetensors#format; several files with an index as transformers reads them.
"""

import errno
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from tunestudy.models.tensorfiles import DTYPES, INDEX, SINGLE, TensorInfo

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8
"""Bytes that a header is padded to."""


class ModelWriter(AbstractContextManager["ModelWriter"]):
    """Files that have their full size from the start: a disk that is too small is known before any work is done.

    Left without `finish`, it removes what it wrote. OSError(ENOSPC) when the disk is full.
    """

    def __init__(self, folder: Path, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], limit: int) -> None:
        """tensors: name → type and shape, in their order; limit: bytes of a file, unless one tensor is larger."""
        self.folder = folder
        self.placed: dict[str, TensorInfo] = {}
        self.files: list[str] = []
        self._handles: dict[str, int] = {}
        """Of files that are open."""
        self._finished = False
        shards = _shards(tensors, limit)
        try:
            for number, shard in enumerate(shards, 1):
                name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
                self._lay_out(name, shard, tensors)
        except BaseException:
            self._remove()
            raise

    def write(self, name: str, start: int, values: Tensor) -> int:
        """Flat values of the tensor's own type from index `start` on; returns their bytes. Any thread may call it."""
        info = self.placed[name]
        assert values.dtype is info.dtype and values.is_contiguous(), name
        data = values.view(torch.uint8).numpy().data.cast("B")
        offset, done = info.start + start * info.dtype.itemsize, 0
        while done < len(data):
            done += os.pwrite(self._handles[info.file], data[done:], offset + done)
        return len(data)

    def finish(self) -> None:
        """All was written: with several files, their index, which makes a model of them, comes last."""
        self._close()
        if len(self.files) > 1:
            total = sum(info.num_bytes for info in self.placed.values())
            index = {
                "metadata": {"total_size": total},
                "weight_map": {name: info.file for name, info in sorted(self.placed.items())},
            }
            (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        self._finished = True

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._remove()

    def _close(self) -> None:
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _remove(self) -> None:
        self._close()
        for name in self.files:
            (self.folder / name).unlink(missing_ok=True)

    def _lay_out(self, file: str, names: list[str], tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        places = []
        for name in sorted(names, key=lambda one: -tensors[one][0].itemsize):  # so that every tensor lies aligned
            dtype, shape = tensors[name]
            info = TensorInfo(dtype, shape, file, end)
            end += info.num_bytes
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [info.start, end]}
            places.append((name, info))
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        data = 8 + len(text)
        for name, info in places:
            self.placed[name] = TensorInfo(info.dtype, info.shape, file, data + info.start)
        handle = os.open(self.folder / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._handles[file] = handle
        self.files.append(file)
        _reserve(handle, data + end)
        os.pwrite(handle, len(text).to_bytes(8, "little") + text, 0)


def _reserve(handle: int, size: int) -> None:
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot; the size alone then
            raise
        os.ftruncate(handle, size)


def _shards(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], limit: int) -> list[list[str]]:
    """Names by file, in order, each file as full as the limit lets it be."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, (dtype, shape) in tensors.items():
        size = TensorInfo(dtype, shape, "", 0).num_bytes
        if shards[-1] and held + size > limit:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards
