"""SoRA, y = W x + s·B diag(g) A x with gates that training shuts. Source: Ding et al., EMNLP 2023.

Three lines outside of our trainer:

    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    sora.gate(model)
    …; optimizer.step(); sora.shrink(model, threshold=strength * learning_rate)

`save` writes what stock PEFT reads (shut ranks left out, open gates folded into B) and, beside it, the raw form that
`load` reads to train on.
"""

from typing import Any, Literal

from tunestudy.adapters import lora
from tunestudy.adapters.gated_lora import gate
from tunestudy.adapters.gates import gates_of, official_threshold, soft_threshold
from tunestudy.adapters.raw import load, save
from tunestudy.config.adapter import SoraAdapter

__all__ = ["gate", "initialise", "load", "num_parameters", "peft_config", "save", "shrink"]


def peft_config(adapter: SoraAdapter, *, target_modules: list[str], modules_to_save: list[str] | None) -> Any:
    """PEFT's configuration of the adapter without its gates; how those start rides along unsaved."""
    config = lora.low_rank_config(adapter, target_modules=target_modules, modules_to_save=modules_to_save)
    config.gate_init = adapter.gate_init
    return config


def initialise(model: Any, adapter_name: str, seed: int) -> None:
    """A and B as LoRA's, gates as `gate_init` says: the model is unchanged at first."""
    lora.initialise(model, adapter_name, seed)
    gate(model, adapter_name, start=getattr(model.peft_config[adapter_name], "gate_init", "normal"), seed=seed)


def num_parameters(adapter: SoraAdapter, inputs: int, outputs: int) -> int:
    """Numbers that learn on one linear module: A, B and a gate per rank."""
    return adapter.lora_r * (inputs + outputs + 1)


def shrink(
    model: Any, threshold: float, *, adapter_name: str = "default", rule: Literal["soft", "official"] = "soft"
) -> None:
    """The proximal step, after each step of the optimiser, alike on every rank."""
    step = soft_threshold if rule == "soft" else official_threshold
    step(gates_of(model, adapter_name), threshold)
