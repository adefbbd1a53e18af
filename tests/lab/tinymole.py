"""Experts for tiny jobs: LoRA adapters on disk whose factors are nowhere zero, and the settings of mixtures of them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tinyjob import make_job

from tunestudy.adapters.mole import install_mole, mole_targets
from tunestudy.config.adapter import MoleAdapter
from tunestudy.records.layout import JobDir

LAYERS = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (48, 32)}
"""Adapted in each of the tiny model's two blocks: (inputs, outputs)."""


def write_expert(folder: Path, *, seed: int, rank: int = 3) -> None:
    """A LoRA adapter of the tiny model, in PEFT's files."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(2):
        for layer, (inputs, outputs) in LAYERS.items():
            name = f"base_model.model.model.layers.{block}.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) / 4
    targets = sorted(layer.rpartition(".")[2] for layer in LAYERS)
    folder.mkdir(parents=True)
    LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def mixture(**options: Any) -> dict[str, Any]:
    """Of the experts en (rank 3), ko (rank 2) and one that adds nothing."""
    experts = {"en": {"path": "en", "use": "factors"}, "ko": {"path": "ko", "use": "factors"}, "none": None}
    return {"type": "mole", "target_modules": ["q_proj", "down_proj"], "experts": experts, **options}


def mole_job(root: Path, *, adapter: dict[str, Any] | None = None, **settings: Any) -> JobDir:
    """A tiny job that trains a mixture; `adapter` holds options of it, the rest are the stage's."""
    for seed, (name, rank) in enumerate({"en": 3, "ko": 2}.items()):
        write_expert(root / name, seed=seed, rank=rank)
    return make_job(root, "mix", adapter=mixture(**(adapter or {})), **settings)


def with_mixture(model: Any, *, seed: int = 0, **options: Any) -> Any:
    """`model` with a mixture of two random experts and one that adds nothing, its gates moved off their start."""
    adapter = MoleAdapter.model_validate(mixture(**options))
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
    for expert, rank in {"en": 3, "ko": 2}.items():
        factors[expert] = {}
        for name in mole_targets(model, adapter):
            layer = model.get_submodule(name)
            down = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
            factors[expert][name] = down, torch.randn(layer.out_features, rank, generator=generator) / 4
    install_mole(model, adapter, factors)
    move_gates(model, seed=seed)
    return model


@torch.no_grad()
def move_gates(model: Any, *, seed: int = 0) -> None:
    """Gates that tell tokens apart, alike for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for gate in model.mole.gates.values():
        for parameter in gate.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
