"""SoRA, y = W x + s·B diag(g) A x with gates that training shuts. Source: Ding et al., EMNLP 2023.

Three lines outside of our trainer:

    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    sora.gate(model)
    …; optimizer.step(); sora.shrink(model, threshold=strength * learning_rate)

`save` writes what stock PEFT reads (shut ranks left out, open gates folded into B) and, beside it, the raw form that
`load` reads to train on.
"""

from typing import Any, Literal

from peft.tuners.lora.layer import LoraVariant
from torch import Tensor

from tunestudy.adapters import lora
from tunestudy.adapters.gates import add_gates, delta, gates_of, official_threshold, soft_threshold
from tunestudy.adapters.raw import load, refuse_plain_saving, save
from tunestudy.config.adapter import SoraAdapter

__all__ = ["gate", "initialise", "load", "num_parameters", "peft_config", "save", "shrink"]


def peft_config(adapter: SoraAdapter, *, target_modules: list[str], modules_to_save: list[str] | None) -> Any:
    """PEFT's configuration of the adapter without its gates; how those start rides along unsaved."""
    from peft import LoraConfig

    config = LoraConfig(
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        use_rslora=adapter.use_rslora,
        rank_pattern=dict(adapter.rank_pattern),
        alpha_pattern=dict(adapter.alpha_pattern),
        target_modules=target_modules,
        modules_to_save=modules_to_save,
        task_type="CAUSAL_LM",
    )
    config.gate_init = adapter.gate_init
    return config


def initialise(model: Any, adapter_name: str, seed: int) -> None:
    """A and B as LoRA's, gates as `gate_init` says: the model is unchanged at first."""
    lora.initialise(model, adapter_name, seed)
    gate(model, adapter_name, start=getattr(model.peft_config[adapter_name], "gate_init", "normal"), seed=seed)


def num_parameters(adapter: SoraAdapter, inputs: int, outputs: int) -> int:
    """Numbers that learn on one linear module: A, B and a gate per rank."""
    return adapter.lora_r * (inputs + outputs + 1)


def gate(
    model: Any, adapter_name: str = "default", *, start: Literal["normal", "ones"] = "normal", seed: int = 0
) -> None:
    """Put gates on a PEFT LoRA adapter. From now on PEFT's own `save_pretrained` refuses: it would lose them."""
    add_gates(model, adapter_name, start=start, seed=seed)
    for layer in model.modules():
        if adapter_name in getattr(layer, "lora_gate", {}):
            layer.lora_variant[adapter_name] = GatedVariant()
    refuse_plain_saving(model)


def shrink(
    model: Any, threshold: float, *, adapter_name: str = "default", rule: Literal["soft", "official"] = "soft"
) -> None:
    """The proximal step, after each step of the optimiser, alike on every rank."""
    step = soft_threshold if rule == "soft" else official_threshold
    step(gates_of(model, adapter_name), threshold)


class GatedVariant(LoraVariant):  # type: ignore[misc]
    """How PEFT's linear layers, plain or few-bit, compute with gates."""

    @staticmethod
    def init(module: Any, adapter_name: str, **_: Any) -> None:
        """Nothing: `gate` adds what is needed."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        inner = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))
        gate = module.lora_gate[active_adapter] * module.scaling[active_adapter]
        out: Tensor = result + module.lora_B[active_adapter](inner * gate.to(inner.dtype))
        return out

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        return (orig_weight + delta(module, active_adapter)).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        orig_weight.data = GatedVariant.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        return (orig_weight - delta(module, active_adapter)).to(orig_weight.dtype)
