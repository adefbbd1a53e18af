"""LoRA that starts from the weights' own factors: PiSSA and OLoRA.

Both begin at B₀A₀ ≠ 0 and take it out of the base, W − s·B₀A₀ + s·B A, so that the model is unchanged at first. The
base stays as it is here: −B₀ and A₀ are a second, frozen adapter beside the one that learns. So a base in bfloat16 is
not rounded again, slices and pages of the base's file stay what they are, and both are published as one LoRA of twice
the rank. Sources: Meng et al. 2024, arXiv:2404.02948 (PiSSA); Büyükakyüz 2024, arXiv:2406.01775 (OLoRA).
"""

import copy
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.errors import StudyError, at
from tunestudy.models.fold import START


@torch.no_grad()
def begin_at_own_factors(model: Any, adapter_name: str, kind: str) -> None:
    """Give the adapter its base's factors, and the model a frozen twin of it that takes them out again.

    Lite checkpoints hold the trained half; their configuration names the start, with which stock PEFT finds the other.
    """
    config = model.peft_config[adapter_name]
    twin = copy.deepcopy(config)
    twin.lora_dropout, twin.modules_to_save = 0.0, None
    active = list(model.base_model.active_adapters)
    model.add_adapter(START, twin)
    model.base_model.set_adapter([*active, START])
    for name, layer in model.named_modules():
        if adapter_name in getattr(layer, "lora_embedding_A", {}):
            raise StudyError(at("adapter.target_modules"), f"{name} is an embedding, which {kind} cannot start from")
        if adapter_name not in getattr(layer, "lora_A", {}):
            continue
        up, down = factors(base_weight(layer), layer.r[adapter_name], layer.scaling[adapter_name], kind)
        for half, sign in ((adapter_name, 1), (START, -1)):
            layer.lora_A[half].weight.copy_(down)
            layer.lora_B[half].weight.copy_(sign * up)
    for name, parameter in model.named_parameters():
        if f".{START}." in name:
            parameter.requires_grad_(False)
    config.init_lora_weights = kind


def base_weight(layer: Any) -> Tensor:
    """(outputs, inputs) float32, whatever way round the layer holds it."""
    weight: Tensor = layer.get_base_layer().weight.detach().float()
    return weight.T if layer.fan_in_fan_out else weight


def factors(weight: Tensor, rank: int, scale: float, kind: str) -> tuple[Tensor, Tensor]:
    """B₀ (outputs, rank) and A₀ (rank, inputs) of W (outputs, inputs).

    `pissa`: s·B₀A₀ is W's best approximation of that rank, each factor with the root of the singular values. `olora`:
    B₀A₀ are the first columns and rows of W = QR. Signs are those of the decomposition, and cancel.
    """
    if kind == "olora":
        q, r = torch.linalg.qr(weight)
        return q[:, :rank], r[:rank]
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    root = (sizes[:rank] / scale).sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
