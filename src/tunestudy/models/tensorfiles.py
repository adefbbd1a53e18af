"""Weights in safetensors files, a slice at a time: for what goes through models that do not fit in memory.

Read with `pread` into memory of the caller's, not mapped: pages of a mapping count as this process's memory, all of the
model at its end. Format: 8 bytes with the header's length, a JSON header, then the tensors' bytes without gaps; little
endian. Source: https://github.com/huggingface/safetensors#format.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.errors import Exit, StudyError, at

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""The format's names of types."""

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST_HEADER = 100_000_000
"""Bytes; the library refuses more, too."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: str
    start: int
    """Byte of the file at which its data begin."""

    @property
    def num_values(self) -> int:
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_values * self.dtype.itemsize


class TensorFiles:
    """All tensors of a folder's safetensors files. Any number of threads may read at once.

    StudyError for a folder without weights, a shard that is missing, and a header that does not hold.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        """name: of a single file, such as `adapter_model.safetensors`; default: a model's files, by their index."""
        self.folder = folder
        files = [name] if name else _files_of(folder)
        self.tensors: dict[str, TensorInfo] = {}
        """In the order of the files."""
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()
        for file in files:
            for tensor, info in read_header(folder / file).items():
                if tensor in self.tensors:
                    raise _broken(folder, f"{tensor} is in {self.tensors[tensor].file} and in {file}")
                self.tensors[tensor] = info

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        """Values `start` to `stop` of a tensor, flat (stop − start,), in its own type.

        out: where they go, flat, of that type and at least that many; its beginning is returned.
        """
        info = self.tensors[name]
        stop = info.num_values if stop is None else stop
        assert 0 <= start <= stop <= info.num_values, f"{name} has {info.num_values} values"
        count = stop - start
        values = torch.empty(count, dtype=info.dtype) if out is None else out[:count]
        assert values.dtype is info.dtype and values.is_contiguous(), f"{name} is of {info.dtype}"
        if count:
            buffer = values.view(torch.uint8).numpy().data.cast("B")
            self._fill(info, buffer, info.start + start * info.dtype.itemsize)
        return values

    def whole(self, name: str) -> Tensor:
        """A tensor in its own shape."""
        return self.read(name).view(self.tensors[name].shape)

    def close(self) -> None:
        """Close the files; reading opens them again."""
        with self._lock:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def _fill(self, info: TensorInfo, buffer: memoryview, offset: int) -> None:
        handle = self._handle(info.file)
        done = 0
        while done < len(buffer):
            got = os.preadv(handle, [buffer[done:]], offset + done)
            if got == 0:
                raise _broken(self.folder, f"{info.file} ends in the middle of its tensors")
            done += got

    def _handle(self, file: str) -> int:
        with self._lock:
            if file not in self._handles:
                self._handles[file] = os.open(self.folder / file, os.O_RDONLY)
            return self._handles[file]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name → where and what, of one file, in the order of the bytes. StudyError where it does not hold."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(LONGEST_HEADER, size - 8):
                raise _broken(path.parent, f"{path.name} is no safetensors file, or it is cut off")
            header = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise _broken(path.parent, f"{path.name} cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise _broken(path.parent, f"{path.name} has a header that is not the format's")
    found = {name: _info(path, name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"}
    for name, info in found.items():
        if info.start + info.num_bytes > size:
            raise _broken(path.parent, f"{path.name} is cut off: {name} is not whole")
    return dict(sorted(found.items(), key=lambda item: item[1].start))


def _info(path: Path, name: str, entry: Mapping[str, Any], data: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
            raise ValueError("sizes are whole numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path.parent, f"{path.name} describes {name} in a way that is not the format's") from error
    if dtype not in DTYPES:
        raise _broken(path.parent, f"{path.name} holds {name} as {dtype}, which is not read here")
    info = TensorInfo(DTYPES[dtype], shape, path.name, data + begin)
    if info.num_bytes != end - begin:
        raise _broken(path.parent, f"{path.name} gives {name} {end - begin} bytes, and its shape {info.num_bytes}")
    return info


def _files_of(folder: Path) -> list[str]:
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        cure = "; convert its pickled weights to safetensors first" if pickled else ""
        raise _broken(folder, f"it holds no {SINGLE} and no {INDEX}{cure}")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = [str(name) for name in dict.fromkeys(index["weight_map"].values())]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(folder, f"{INDEX} cannot be read: {error}") from error
    if absent := [name for name in files if not (folder / name).is_file()]:
        raise _broken(folder, f"it lacks {', '.join(absent[:3])}, which {INDEX} names")
    return files


def _broken(folder: Path, message: str) -> StudyError:
    return StudyError(at(folder.name), f"{folder}: {message}", exit_code=Exit.PREFLIGHT_REFUSED)
