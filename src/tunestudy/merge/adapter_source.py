"""An adapter and its base read as one model, without making that model: W + s·B A, some rows at a time.

Of LoRA and DoRA in PEFT's files. The products are formed in float32 and in blocks of rows that do not depend on what is
asked for, so that any slice of a tensor has the same bits.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.merge.source import FolderSource, Source
from tunestudy.models.fold import ROOT, scale_of
from tunestudy.models.names import names_on_disk
from tunestudy.models.origin import BAD_SETTINGS
from tunestudy.models.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunestudy.models.tensorfiles import TensorFiles, TensorInfo

BLOCK_VALUES = 1 << 16
"""Values of a block of rows, about: a quarter of a MiB in float32."""
KEPT_MODULES = 16
"""Modules whose factors stay in memory: as many as threads are likely to work on at a time."""

FACTORS = re.compile(r"^(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.weight)?$")
"""A module's name and which of its tensors, in the names of adapter_model.safetensors without PEFT's prefix."""

STRANGE = (
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
)
"""PEFT's options under which an adapter is more than W + s·B A, or its direction and magnitude."""
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` under which PEFT changes the base when it loads the adapter."""


@dataclass(frozen=True)
class _Module:
    """Keys of one adapted module's tensors in the adapter's file, and the scale s."""

    up: str
    """Of B (outputs, rank); of an embedding Aᵀ plays its part."""
    down: str
    magnitude: str | None
    scale: float
    transposed: bool
    """The weight lies as (inputs, outputs): embeddings, and GPT-2's layers."""


@dataclass(frozen=True)
class _Factors:
    """(O, r) and (r, I) fp32 whose product is s·B A as the weight lies; (O,) fp32 of a DoRA."""

    up: Tensor
    down: Tensor
    magnitude: Tensor | None


class AdapterSource:
    """`base` with the adapter in `folder` folded in. Safe for any number of threads.

    Raises StudyError for an adapter that is no LoRA or DoRA, that fits the base nowhere, or has tensors left over.
    """

    def __init__(
        self, base: FolderSource, folder: Path, *, same_base: bool = True, trust_remote_code: bool = False
    ) -> None:
        """same_base: differences will be taken to `base`, so that what the adapter leaves out needs no look.
        trust_remote_code: of the base's folder, where it is needed to tell how its class calls a tensor."""
        self.base, self.folder = base, folder
        self.config = read_config(folder)
        _refuse_strange(folder, self.config)
        self._same_base, self._trusted = same_base, trust_remote_code
        self._files = TensorFiles(folder, ADAPTER_WEIGHTS)
        self._modules: dict[str, _Module] = {}
        """By the name of the weight on disk."""
        self._saved: dict[str, str] = {}
        """Name of a tensor on disk → key of its trained copy."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Factors] = OrderedDict()
        self._place_all()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.base.tensors

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        if self._leaves(name):
            return self.base.read(name, start, stop, out)
        info = self.tensors[name]
        stop = info.num_values if stop is None else stop
        values = self.base.read(name, start, stop, out)
        whole = values.to(torch.float32) + self._change(name, start, stop)
        return values.copy_(whole)

    def difference(self, base: Source, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        stop = self.tensors[name].num_values if stop is None else stop
        if self._is_base(base):
            return torch.zeros(stop - start) if self._leaves(name) else self._change(name, start, stop)
        between = self.base.difference(base, name, start, stop)  # all zeros where both are equal
        return between if self._leaves(name) else between.add_(self._change(name, start, stop))

    def is_untouched(self, name: str) -> bool:
        return self._same_base and self._leaves(name)

    def _is_base(self, base: Source) -> bool:
        return base is self.base or (isinstance(base, FolderSource) and base.folder == self.base.folder)

    def _leaves(self, name: str) -> bool:
        return name not in self._modules and name not in self._saved

    def _change(self, name: str, start: int, stop: int) -> Tensor:
        """(stop − start,) fp32: folded weight minus the base's."""
        if name in self._saved:
            saved = self._files.read(self._saved[name], start, stop).to(torch.float32)
            return saved.sub_(self.base.read(name, start, stop))
        factors = self._factors(name)
        columns = factors.down.shape[1]
        rows = max(1, BLOCK_VALUES // columns)
        first, last = start // columns // rows, -(-stop // (columns * rows))
        blocks = [self._block(name, factors, block * rows, (block + 1) * rows) for block in range(first, last)]
        begin = first * rows * columns
        whole = torch.cat(blocks) if len(blocks) != 1 else blocks[0]
        return whole[start - begin : stop - begin]

    def _block(self, name: str, factors: _Factors, first: int, last: int) -> Tensor:
        """Flat fp32 change of the rows `first` to `last`, fewer at the end."""
        change = factors.up[first:last] @ factors.down
        if factors.magnitude is None:
            return change.flatten()
        columns = factors.down.shape[1]
        last = min(last, len(factors.up))
        weight = self.base.read(name, first * columns, last * columns).to(torch.float32).view(-1, columns)
        folded = change.add_(weight)
        folded *= (factors.magnitude[first:last] / torch.linalg.vector_norm(folded, dim=1))[:, None]
        return folded.sub_(weight).flatten()

    def _factors(self, name: str) -> _Factors:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        found = self._read_factors(self._modules[name])
        with self._lock:
            self._kept[name] = found
            while len(self._kept) > KEPT_MODULES:
                self._kept.popitem(last=False)
        return found

    def _read_factors(self, module: _Module) -> _Factors:
        up, down = (self._files.whole(key).to(torch.float32) for key in (module.up, module.down))
        magnitude = None if module.magnitude is None else self._files.whole(module.magnitude).to(torch.float32)
        if module.transposed:
            up, down = down.T.contiguous(), up.T.contiguous()
        return _Factors(up * module.scale, down, magnitude)

    def _place_all(self) -> None:
        """Find each of the adapter's tensors its place in the base's files."""
        parts: dict[str, dict[str, str]] = {}
        for key in self._files.tensors:
            plain = key.removeprefix(ROOT)
            if found := FACTORS.match(plain):
                parts.setdefault(found[1], {})[found[2]] = key
            elif ".lora_" in plain:
                raise self._wrong(f"holds {key}, which is no part of a LoRA or DoRA that can be folded here")
            else:
                self._place_saved(plain.replace(".base_layer.", "."), key)
        for module, keys in parts.items():
            self._place_module(module, keys)

    def _place_saved(self, tensor: str, key: str) -> None:
        name = self._on_disk(tensor)
        mine, its = self._files.tensors[key].shape, self.tensors[name].shape
        if mine != its:
            raise self._wrong(f"holds {tensor} as {tuple(mine)}, and its base as {tuple(its)}")
        self._saved[name] = key

    def _place_module(self, module: str, keys: dict[str, str]) -> None:
        embedding = "lora_embedding_A" in keys
        down, up = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        if down not in keys or up not in keys:
            raise self._wrong(f"holds only one of the two factors of {module}")
        name = self._on_disk(f"{module}.weight")
        transposed = embedding or bool(self.config.get("fan_in_fan_out"))
        magnitude = keys.get("lora_magnitude_vector")
        if magnitude is not None and transposed:
            raise self._wrong(f"has a DoRA on {module}, whose weight lies transposed; publish it folded (save_merged)")
        (outputs, rank), (its, inputs) = (self._shape(keys[key]) for key in (up, down))
        if rank != its or not rank:
            raise self._wrong(f"holds factors of {module} that have no rank in common: {rank} and {its}")
        wanted = (inputs, outputs) if transposed else (outputs, inputs)
        if wanted != self.tensors[name].shape:
            raise self._wrong(f"is made for a {module} of {wanted}; its base has {tuple(self.tensors[name].shape)}")
        self._modules[name] = _Module(keys[up], keys[down], magnitude, scale_of(self.config, module, rank), transposed)

    def _shape(self, key: str) -> tuple[int, int]:
        shape = self._files.tensors[key].shape
        if len(shape) != 2:
            raise self._wrong(f"has {key} of shape {tuple(shape)}: only linear layers and embeddings are folded here")
        return shape[0], shape[1]

    def _on_disk(self, tensor: str) -> str:
        """The name in the base's files of a tensor by the model's name."""
        if tensor in self.base.tensors:
            return tensor
        if tensor in self._renamed:
            return self._renamed[tensor]
        raise self._wrong(f"changes {tensor}, which its base ({self.base.folder.name}) does not hold under any name")

    @cached_property
    def _renamed(self) -> dict[str, str]:
        try:
            return names_on_disk(self.base.folder, self.base.tensors, trust_remote_code=self._trusted)
        except (OSError, ImportError, *BAD_SETTINGS) as error:
            cure = "" if self._trusted else "; if that takes code of its own, set model.trust_remote_code: true"
            raise self._wrong(
                f"changes tensors whose names only the class of its base can tell{cure}: {error}"
            ) from error

    def _wrong(self, message: str) -> StudyError:
        return _unusable(self.folder, message)


def _require_numbers(folder: Path, config: Mapping[str, Any]) -> None:
    """StudyError where what scales are worked out from is not what PEFT writes."""
    patterns = config.get("alpha_pattern") or {}
    try:
        alphas = [config["lora_alpha"], *patterns.values()]
        for pattern in patterns:
            re.compile(pattern)
    except (AttributeError, re.error) as error:
        raise _unusable(folder, f"has an alpha_pattern in {ADAPTER_CONFIG} that cannot be read: {error}") from error
    if wrong := [alpha for alpha in alphas if isinstance(alpha, bool) or not isinstance(alpha, int | float)]:
        raise _unusable(folder, f"has {wrong[0]!r} as an alpha in {ADAPTER_CONFIG}; it must be a number")


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json as it stands; StudyError for one that cannot be read."""
    try:
        found = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(folder, f"has no readable {ADAPTER_CONFIG}: {error}") from error
    if not isinstance(found, dict) or "lora_alpha" not in found:
        raise _unusable(folder, f"is no LoRA: {ADAPTER_CONFIG} has no lora_alpha")
    _require_numbers(folder, found)
    return found


def _refuse_strange(folder: Path, config: Mapping[str, Any]) -> None:
    if str(config.get("peft_type", "LORA")) != "LORA":
        raise _unusable(folder, f"is an adapter of type {config['peft_type']}; LoRA and DoRA are merged")
    if config.get("target_parameters"):
        cure = "set save_merged: true in its stage, which publishes it folded"
        raise _unusable(folder, f"adapts a mixture's fused experts, which are not folded here; {cure}")
    if strange := [key for key in STRANGE if config.get(key)]:
        raise _unusable(folder, f"uses PEFT's {', '.join(strange)}, which is not folded here; fold it and give that")
    if str(config.get("init_lora_weights")).startswith(MOVES_BASE):
        cure = "convert it to a plain LoRA (PEFT's path_initial_model_for_weight_conversion)"
        raise _unusable(folder, f"starts from its base's own weights ({config['init_lora_weights']}); {cure}")


def _unusable(folder: Path, message: str) -> StudyError:
    return StudyError(
        at(f"{folder.parent.name}/{folder.name}"), f"the adapter {message}", exit_code=Exit.PREFLIGHT_REFUSED
    )
