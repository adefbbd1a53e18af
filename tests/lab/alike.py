"""Ways to train that several ranks must carry out as one does, and whether two jobs learnt alike."""

from typing import Any

import pytest
from safetensors.torch import load_file
from tinyjob import ADAPTER, moe_model, rows_of

from tunestudy.records.layout import JobDir

CASES: dict[str, dict[str, Any]] = {
    "full fine-tuning, accumulation, gradient statistics": {"per_device_train_batch_size": 2, "log_gradients": True},
    "adapter whose slices are uneven": {"adapter": {**ADAPTER, "lora_r": 3}, "per_device_train_batch_size": 2},
    "an adapter that starts at the weights' own factors": {"adapter": {**ADAPTER, "init_lora_weights": "pissa"}},
    "few modules, only gradients in slices, stochastic gradient descent": {
        "adapter": {**ADAPTER, "target_modules": ["q_proj", "v_proj"]},
        "fsdp2": {"shard": "gradients", "prefetch": 2},
        "optim": "sgd",
        "learning_rate": 0.05,
    },
    "direction, recomputed activations": {
        "adapter": {**ADAPTER, "type": "dora"},
        "activation_checkpointing": True,
        "fsdp2": {"prefetch": 0},
    },
    "gates": {"adapter": {"type": "sora", "lora_r": 4, "target_sparsity": 0.5}, "per_device_train_batch_size": 1},
    "gates in a direction, best published, packing, noise": {
        "adapter": {"type": "sdora", "lora_r": 4, "target_sparsity": 0.25},
        "packing": True,
        "neftune_noise_alpha": 3.0,
        "effective_batch_size": 2,
        "eval_steps": 2,
        "load_best_model_at_end": True,
    },
    "a base in few bits, only gradients in slices": {
        "adapter": ADAPTER,
        "quantization": {"load_in_4bit": True},
        "fsdp2": {"shard": "gradients"},
    },
    "a mixture of fused experts, all of it but the router": {
        "model": moe_model(),
        "per_device_train_batch_size": 2,
        "activation_checkpointing": True,
    },
    "fused experts with an adapter": {
        "model": moe_model(),
        "adapter": {**ADAPTER, "target_modules": ["q_proj", "o_proj"], "target_parameters": ["experts.down_proj"]},
    },
}


def equal_logs(one: JobDir, other: JobDir, tolerance: float = 1e-5) -> None:
    for name in ("loss_log.csv", "eval_log.csv"):
        rows, others = rows_of(one.root / name), rows_of(other.root / name)
        assert len(rows) == len(others) > 0
        for row, also in zip(rows, others, strict=True):
            for key, value in row.items():
                if "loss" in key or key in ("grad_norm", "sparsity", "step", "tokens"):
                    assert float(also[key] or 0) == pytest.approx(float(value or 0), rel=tolerance, abs=1e-9), key


def equal_models(one: JobDir, other: JobDir, tolerance: float = 3e-5) -> None:
    files = sorted(one.model.rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(file), load_file(other.model / file.relative_to(one.model))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert (theirs[name] - tensor).norm() <= tolerance * tensor.norm().clamp_min(1e-3), name
