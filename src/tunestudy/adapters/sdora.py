"""SDoRA, SoRA's gates inside DoRA's direction: m·(W + s·B diag(g) A)x/‖W + s·B diag(g) A‖ by rows. Ours.

The magnitude is not gated: with all gates shut it still scales the rows of W. Why, and what else bears the name:
docs/decisions/0005-sdora.md.
"""

from typing import Any

from tunestudy.adapters import dora
from tunestudy.adapters.gates import add_gates, refuse_plain_saving
from tunestudy.config.adapter import SdoraAdapter


def peft_config(adapter: SdoraAdapter, *, target_modules: list[str], modules_to_save: list[str] | None) -> Any:
    """PEFT's configuration of the same DoRA; how the gates start rides along unsaved."""
    config = dora.peft_config(adapter, target_modules=target_modules, modules_to_save=modules_to_save)
    config.gate_init = adapter.gate_init
    return config


def initialise(model: Any, adapter_name: str, seed: int) -> None:
    """As DoRA, with gates: the model is unchanged at first, since B is zero."""
    dora.initialise(model, adapter_name, seed)
    add_gates(model, adapter_name, start=getattr(model.peft_config[adapter_name], "gate_init", "normal"), seed=seed)
    refuse_plain_saving(model)


def num_parameters(adapter: SdoraAdapter, inputs: int, outputs: int) -> int:
    """Numbers that learn on one linear module: A, B, a gate per rank and a magnitude per output."""
    return adapter.lora_r * (inputs + outputs + 1) + outputs
