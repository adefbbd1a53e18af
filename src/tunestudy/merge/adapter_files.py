"""Adapters that are to become one: their factors, read module by module, and whether they belong together."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.merge.adapter_source import FACTORS, MOVES_BASE, STRANGE, read_config
from tunestudy.models.fold import GATED_CONFIG, ROOT, scale_of
from tunestudy.models.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunestudy.models.tensorfiles import TensorFiles
from tunestudy.records.manifest import read_manifest

FOLD = "use into: model, which folds each adapter into its base"
PAIRS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}
"""Down factor → its up factor, of linear layers and of embeddings."""
CHOICE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""PEFT's options that say which modules an adapter sits on."""


@dataclass(frozen=True)
class Factors:
    """W's difference is scale · up · down (of an embedding, transposed): down (r, inputs), up (outputs, r), fp32."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def difference(self) -> Tensor:
        """(outputs, inputs)."""
        return self.up * self.scale @ self.down

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return self.up.shape[0], self.down.shape[1]


class AdapterFiles:
    """A LoRA in PEFT's files. StudyError, naming the model, for another adapter or one that does not hold together."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        if not (folder / ADAPTER_CONFIG).is_file():
            gated = (folder / GATED_CONFIG).is_file()
            cure = "it is one's raw form with gates: give the folder that it lies in" if gated else FOLD
            raise self.wrong(f"{folder.name} holds no {ADAPTER_CONFIG}, so it is no adapter of PEFT's; {cure}")
        self.config = read_config(folder)
        self._refuse_others()
        self._files = TensorFiles(folder, ADAPTER_WEIGHTS)
        self.modules: dict[str, tuple[str, str]] = {}
        """Module's name → keys of its two factors."""
        self.saved: list[str] = []
        """Keys of tensors that were trained whole (`modules_to_save`)."""
        for key in self._files.tensors:
            self._place(key)
        if not self.modules:
            raise self.wrong(f"it holds no factors of a LoRA; {FOLD}")

    def factors(self, module: str) -> Factors:
        """One module's; StudyError for values that are not finite."""
        down, up = (self._finite(key).to(torch.float32) for key in self.modules[module])
        if down.dim() != 2 or up.dim() != 2 or up.shape[1] != len(down):
            shapes = f"{list(down.shape)} and {list(up.shape)}"
            raise self.wrong(f"{module} has factors of shapes {shapes}, not those of a linear layer; {FOLD}")
        return Factors(down, up, scale_of(self.config, module, len(down)))

    def types(self, module: str) -> tuple[torch.dtype, torch.dtype]:
        """In which its factors are stored."""
        down, up = (self._files.tensors[key].dtype for key in self.modules[module])
        return down, up

    def whole(self, key: str) -> Tensor:
        return self._finite(key)

    @property
    def read_bytes(self) -> int:
        """Of all tensors."""
        return sum(info.num_bytes for info in self._files.tensors.values())

    @property
    def base(self) -> tuple[str, str | None]:
        """An absolute path, or a hub id and its revision."""
        name = str(self.config.get("base_model_name_or_path") or "")
        folder = self.folder / name
        if name.startswith(".") or Path(name).is_absolute() or (name and folder.is_dir()):
            return str(folder.resolve()), None
        return name, self.config.get("revision")

    @property
    def base_identity(self) -> Any:
        """What the stage that trained it wrote down of its base's weights; None of adapters from elsewhere."""
        return (read_manifest(self.folder) or {}).get("base")

    def wrong(self, message: str) -> StudyError:
        return StudyError(at(f"models.{self.name}"), message, exit_code=Exit.PREFLIGHT_REFUSED)

    def close(self) -> None:
        self._files.close()

    def _refuse_others(self) -> None:
        config = self.config
        if str(config.get("peft_type", "LORA")) != "LORA":
            raise self.wrong(f"an adapter of type {config['peft_type']} cannot become part of a LoRA")
        if config.get("use_dora"):
            raise self.wrong(f"a DoRA's magnitude belongs to its own direction and cannot be added up; {FOLD}")
        if config.get("target_parameters"):
            raise self.wrong("it adapts fused experts, which are not merged as adapters; fold it (save_merged) first")
        if strange := [key for key in STRANGE if config.get(key)]:
            raise self.wrong(f"it uses PEFT's {', '.join(strange)}, which a merged LoRA cannot hold")
        if config.get("bias", "none") != "none":
            raise self.wrong(f"it trains biases (bias: {config['bias']}), which a LoRA's factors cannot hold")
        if str(config.get("init_lora_weights")).startswith(MOVES_BASE):
            raise self.wrong(
                f"it changes its base when PEFT loads it (init_lora_weights: {config['init_lora_weights']}); convert "
                "it to a plain LoRA with path_initial_model_for_weight_conversion"
            )

    def _place(self, key: str) -> None:
        plain = key.removeprefix(ROOT)
        found = FACTORS.match(plain)
        if found is None and ".lora_" in plain:
            raise self.wrong(f"it holds {key}, which is no factor of a LoRA")
        if found is None:
            self.saved.append(key)
            return
        module, kind = found[1], found[2]
        if kind not in PAIRS:
            if kind not in PAIRS.values():
                raise self.wrong(f"it holds {key}, a DoRA's magnitude; {FOLD}")
            return
        up = PAIRS[kind].join(key.rsplit(kind, 1))
        if up not in self._files.tensors:
            raise self.wrong(f"it holds {key} without {up}")
        self.modules[module] = (key, up)

    def _finite(self, key: str) -> Tensor:
        values = self._files.whole(key)
        if not bool(torch.isfinite(values).all()):
            raise self.wrong(f"{key} holds NaN or infinite values; a merge would spread them")
        return values


@contextmanager
def opened_together(folders: Mapping[str, Path]) -> Iterator[dict[str, AdapterFiles]]:
    """Adapters that can become one; StudyError for different bases, and whole tensors that are not the same in all.
    Their files are closed however it ends."""
    with ExitStack() as open_files:
        found: dict[str, AdapterFiles] = {}
        for name, folder in folders.items():
            found[name] = AdapterFiles(name, folder)
            open_files.callback(found[name].close)
        first, *others = found.values()
        for other in others:
            same = other.base == first.base or (other.base_identity and other.base_identity == first.base_identity)
            if not same:
                raise other.wrong(
                    f"it is an adapter of {other.base[0]}, and {first.name} of {first.base[0]}: only adapters of one "
                    f"base become one; {FOLD}"
                )
            _require_same_saved(first, other)
        yield found


def _require_same_saved(first: AdapterFiles, other: AdapterFiles) -> None:
    different = sorted(set(first.saved) ^ set(other.saved))
    different = different or [key for key in first.saved if not torch.equal(first.whole(key), other.whole(key))]
    if different:
        names = ", ".join(key.removeprefix(ROOT) for key in different[:3])
        raise other.wrong(
            f"it was trained with whole modules ({names}) that are not those of {first.name}, and an adapter holds "
            f"them as they are; {FOLD}"
        )


def sits_alike(adapters: Mapping[str, AdapterFiles]) -> bool:
    """Whether all say in the same words that they sit on the same modules."""
    first, *others = adapters.values()
    return all(
        one.modules.keys() == first.modules.keys()
        and all(_listed(one.config.get(key)) == _listed(first.config.get(key)) for key in CHOICE)
        for one in others
    )


def _listed(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value
