"""Jobs that merge, with inputs made by hand: tiny Llamas of random weights, their fine-tunes, and adapters of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunestudy.config.job import Job
from tunestudy.records.atomic import temporary_beside, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import seal

WORDS = ("<pad>", "<bos>", "<eos>", "<unk>", *"abcdefghijkl")
HIDDEN, INNER, LAYERS = 8, 12, 2
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": len(WORDS),
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Of a Llama's tensors."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(WORDS), HIDDEN)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        found |= {f"{block}self_attn.{part}_proj.weight": (HIDDEN, HIDDEN) for part in "qkvo"}
        found |= {f"{block}mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        found[f"{block}mlp.down_proj.weight"] = (HIDDEN, INNER)
        found |= {f"{block}{norm}_layernorm.weight": (HIDDEN,) for norm in ("input", "post_attention")}
    return {**found, "model.norm.weight": (HIDDEN,), "lm_head.weight": (len(WORDS), HIDDEN)}


def weights(seed: int, *, like: dict[str, Tensor] | None = None, size: float = 0.05) -> dict[str, Tensor]:
    """Random ones; with `like` a fine-tune of those."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes().items()}
    return drawn if like is None else {name: like[name] + size * drawn[name] for name in like}


def write_model(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    """A model's folder as transformers reads it, with a tokenizer of words."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, words: tuple[str, ...] = WORDS) -> None:
    model = {"type": "WordLevel", "vocab": {word: row for row, word in enumerate(words)}, "unk_token": "<unk>"}
    definition = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "generation_config.json").write_text('{"max_new_tokens": 3}')


def write_adapter(folder: Path, base: str, seed: int, *, rank: int = 2, modules: tuple[str, ...] = ("q", "v")) -> Path:
    """A LoRA in PEFT's files, with a tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(LAYERS):
        for part in modules:
            module = f"base_model.model.model.layers.{layer}.self_attn.{part}_proj"
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, HIDDEN, generator=generator)
            tensors[f"{module}.lora_B.weight"] = torch.randn(HIDDEN, rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [f"{part}_proj" for part in modules],
        "inference_mode": True,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


class MergeLab:
    """A study's results below `root`, whose model is the folder `base` beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.study = root / "results" / "s"
        self.base = weights(0)
        write_model(root / "base", self.base)

    def job(self, stage: str, settings: dict[str, Any] | None, **values: Any) -> tuple[Job, JobDir]:
        """Write a job.json."""
        fingerprint = hashlib.sha256(stage.encode()).hexdigest()
        folder = JobDir(self.study / "jobs" / f"{stage}-{fingerprint[:12]}")
        content = {
            "id": folder.root.name,
            "stage": stage,
            "fingerprint": fingerprint,
            "seed": 1,
            "variants": ["v"],
            "model": {"model_name_or_path": "base"},
            "settings": settings,
            "base_dir": "../../../..",
            **values,
        }
        job = Job.model_validate(content)
        folder.root.mkdir(parents=True, exist_ok=True)
        write_json(folder.job_json, job.model_dump(mode="json"))
        return job, folder

    def trained(self, stage: str, seed: int, **values: Any) -> JobDir:
        """A stage that left a whole model, a fine-tune of the study's."""
        _, folder = self.job(stage, {"data": ["d"], "learning_rate": 1e-3}, **values)
        prepared = temporary_beside(folder.model)
        write_model(prepared, weights(seed, like=self.base))
        (prepared / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "x": 1}')
        seal(prepared, folder.model, {"kind": "full"})
        return folder

    def adapted(self, stage: str, seed: int, *, kind: str = "adapter", **values: Any) -> JobDir:
        """A stage that left an adapter of the study's model."""
        settings = {"data": ["d"], "learning_rate": 1e-3, "adapter": {"type": "lora"}}
        _, folder = self.job(stage, settings, **values)
        prepared = temporary_beside(folder.model)
        write_adapter(prepared, "../../../../../base", seed)
        seal(prepared, folder.model, {"kind": kind})
        return folder

    def merging(
        self, *inputs: JobDir, base: Any = "model", name: str = "merged", **settings: Any
    ) -> tuple[Job, JobDir]:
        """A job that merges those, by their stages' names, with densities where the method has them."""
        sparse = settings.get("method", "linear") in ("ties", "dare_linear", "dare_ties")
        density = {"density": 0.5} if sparse else {}
        models = {one.root.name.partition("-")[0]: one.root.name for one in inputs}
        merge = {
            "type": "merge",
            "method": "linear",
            "models": {model: {"stage": model, **density} for model in models},
            **({} if base is None else {"base": base}),
            "threads": 2,
            **settings,
        }
        known = dict(models)
        if isinstance(base, str) and base != "model":
            known["base"] = next(
                path.name for path in (self.study / "jobs").iterdir() if path.name.startswith(f"{base}-")
            )
        return self.job(name, merge, inputs=known)
