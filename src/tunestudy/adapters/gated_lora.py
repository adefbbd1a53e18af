"""PEFT's LoRA layers with gates between A and B, as SoRA has them."""

from typing import Any, Literal

from peft.tuners.lora.layer import LoraVariant
from torch import Tensor

from tunestudy.adapters.gates import add_gates, delta, refuse_plain_saving


def gate(
    model: Any, adapter_name: str = "default", *, start: Literal["normal", "ones"] = "normal", seed: int = 0
) -> None:
    """Put gates on a PEFT LoRA adapter. From now on PEFT's own `save_pretrained` refuses: it would lose them."""
    add_gates(model, adapter_name, start=start, seed=seed)
    for layer in model.modules():
        if adapter_name in getattr(layer, "lora_gate", {}):
            layer.lora_variant[adapter_name] = GatedVariant()
    refuse_plain_saving(model)


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
