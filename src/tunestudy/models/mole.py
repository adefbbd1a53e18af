"""A mixture of LoRA experts on a model: W x + Σ_e p_e·B_e A_e x, all experts in two products.

The experts' A are stacked to one (R, inputs) and their B to one (outputs, R), R the sum of their ranks; what lies
between is multiplied by each rank's share of its expert. So no loop over experts, and nothing of tokens × experts ×
outputs in memory. Source of the mixture: Wu et al. 2024, arXiv:2404.13628; what differs is in docs/decisions/0015.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.errors import StudyError, at
from tunestudy.models.decoder import base_model_of, blocks_of
from tunestudy.models.mole_gates import Gate, Scene, Tokens
from tunestudy.models.roles import role_of

ROUTER = "lora_router"
"""The gate's name in its block: of an adapter, and no router of the model's own."""


class MoleLinear(nn.Module):
    """A linear layer with its block's experts on it.

    Parameters, float32 and zero until they are filled: `lora_A` (R, inputs), `lora_B` (outputs, R), experts one after
    the other. An expert of rank 0 has no rows there: it takes a share and adds nothing.
    """

    _spread: Tensor
    """(E, R), 1 where the rank is of the expert, else 0."""

    def __init__(self, base: nn.Linear, gate: Gate, ranks: Sequence[int], dropout: float = 0.0) -> None:
        """ranks: one per expert."""
        super().__init__()
        self.base_layer = base
        self.ranks = tuple(ranks)
        device = base.weight.device
        total = sum(self.ranks)
        self.lora_A = nn.Parameter(torch.zeros(total, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, total, device=device))
        self.lora_dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        experts = torch.repeat_interleave(torch.arange(len(self.ranks)), torch.tensor(self.ranks))
        spread_ER = (experts == torch.arange(len(self.ranks))[:, None]).float()
        self.register_buffer("_spread", spread_ER.to(device), persistent=False)
        vars(self)["_gate"] = gate  # not as a part: it is the block's

    @property
    def weight(self) -> Tensor:
        """The base's."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's."""
        return self.base_layer.bias

    @property
    def in_features(self) -> int:
        return self.base_layer.in_features

    @property
    def out_features(self) -> int:
        return self.base_layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, inputs), or the same tokens flat (B·T, inputs), inside the block's forward pass."""
        result: Tensor = self.base_layer(x)
        shares = self._shares_for(x)
        inner = self.lora_dropout(x)
        if not torch.is_autocast_enabled(x.device.type):
            inner = inner.to(self.lora_A.dtype)
        inner = linear(inner, self.lora_A)
        inner = inner * torch.matmul(shares, self._spread.to(shares.dtype)).to(inner.dtype)
        if result.dtype != inner.dtype:
            return result + linear(inner, self.lora_B).to(result.dtype)
        # Added while the product is formed: one pass less over tokens × outputs.
        together = torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), self.lora_B.T)
        return together.view(result.shape)

    @torch.no_grad()
    def put(self, factors: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """Fill in each expert's A (rank, inputs) and B (outputs, rank), the scale inside B; None for rank 0."""
        given = [pair for pair in factors if pair is not None and pair[0].shape[0] > 0]
        stacked_A, stacked_B = torch.cat([a for a, _ in given]), torch.cat([b for _, b in given], dim=1)
        assert stacked_A.shape == self.lora_A.shape and stacked_B.shape == self.lora_B.shape
        self.lora_A.copy_(stacked_A)
        self.lora_B.copy_(stacked_B)

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """Each expert's A (rank, inputs) and B (outputs, rank): views."""
        sizes = list(self.ranks)
        return list(zip(torch.split(self.lora_A, sizes), torch.split(self.lora_B, sizes, dim=1), strict=True))

    def delta(self, shares_E: Tensor) -> Tensor:
        """(outputs, inputs): what is added to the base's weight where the shares are these."""
        return (self.lora_B * (shares_E.to(self._spread) @ self._spread)) @ self.lora_A

    def _shares_for(self, x: Tensor) -> Tensor:
        gate: Gate = vars(self)["_gate"]
        shares = gate.shares
        assert shares is not None, "a layer with experts computes inside of its block, whose gate has not been asked"
        if x.shape[:-1] == gate.shape:
            return shares
        if x.ndim == 2 and len(x) == gate.shape[0] * gate.shape[1]:
            return shares.expand(*gate.shape, shares.shape[-1]).flatten(0, 1)
        raise StudyError(
            at("adapter.target_modules"),
            f"a module of {gate.block} gets other tokens than its block, such as those that a router sent to it; name "
            "modules outside of the model's own experts",
        )


@dataclass(kw_only=True)
class Mole:
    """The mixture that is on a model."""

    settings: MoleAdapter
    layers: dict[str, MoleLinear]
    """By the name of the layer in the model, without wrappers, in the model's order."""
    gates: dict[str, Gate]
    """By the name of the block."""
    scene: Scene = field(default_factory=Scene)

    @property
    def experts(self) -> tuple[str, ...]:
        return tuple(self.settings.experts)

    @property
    def ranks(self) -> dict[str, tuple[int, ...]]:
        """Layer → rank of each expert."""
        return {name: layer.ranks for name, layer in self.layers.items()}

    def adopt(self, settings: MoleAdapter) -> None:
        """Go on with options that may differ between stages: noise, balance, a temperature that is not learnt."""
        self.settings = settings
        for gate in self.gates.values():
            gate.settings = settings

    def parameters(self, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
        """Names in the model, and what they name: gates and experts."""
        for name, layer in self.layers.items():
            yield f"{prefix}{name}.lora_A", layer.lora_A
            yield f"{prefix}{name}.lora_B", layer.lora_B
        for name, gate in self.gates.items():
            for own, parameter in gate.named_parameters():
                yield f"{prefix}{name}.{ROUTER}.{own}", parameter


def mole_of(model: Any) -> Mole | None:
    """The mixture on a model, wrapped or not; None without one."""
    found = vars(base_model_of(model)).get("mole")
    return found if isinstance(found, Mole) else None


def telling(model: Any, tokens: Tokens) -> AbstractContextManager[None]:
    """Forward passes inside are over these tokens; nothing for a model without a mixture.

    Only gates over a sequence need it, where an answer follows its prompt in one pass, or rows hold several samples.
    Padding that a 2-D `attention_mask` marks, and steps from a cache, are seen without.
    """
    mole = mole_of(model)
    return _nothing() if mole is None else mole.scene.of(tokens)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def put_mole(model: Any, settings: MoleAdapter, ranks: Mapping[str, Sequence[int]]) -> Mole:
    """Put a mixture whose experts are all zero on a model, and return it; it is then found by `mole_of`.

    ranks: layer's name → rank of each expert, in the settings' order. Raises StudyError for a layer that is not linear,
    or lies outside of the decoder's blocks.
    """
    if mole_of(model) is not None or base_model_of(model) is not model:
        raise StudyError(at("adapter.type"), "a mixture goes on a model without an adapter; use init: merge_then_new")
    blocks = decoder_blocks(model)
    inside = {name: _block_of(name, blocks) for name in ranks}
    mole = Mole(settings=settings, layers={}, gates={})
    for name, of_experts in ranks.items():
        base, block = model.get_submodule(name), inside[name]
        if not isinstance(base, nn.Linear):
            raise StudyError(at("adapter.target_modules"), f"{name} is a {type(base).__name__}, not a linear layer")
        if block not in mole.gates:
            mole.gates[block] = _put_gate(model, block, blocks[block], mole)
        layer = MoleLinear(base, mole.gates[block], of_experts, settings.lora_dropout)
        layer.train(base.training)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer)
        mole.layers[name] = layer
    model.base_model.register_forward_pre_hook(mole.scene.guess, with_kwargs=True)
    model.mole = mole
    return mole


def decoder_blocks(model: Any) -> dict[str, nn.Module]:
    """Name → block of the language model, in the model's order."""
    wanted = {id(block) for block in blocks_of(model)}
    found = {name: module for name, module in model.named_modules() if id(module) in wanted}
    return {name: module for name, module in found.items() if role_of(f"{name}.weight") == "language_model"}


def _block_of(layer: str, blocks: Mapping[str, nn.Module]) -> str:
    block = next((name for name in blocks if layer.startswith(f"{name}.")), None)
    if block is None:
        raise StudyError(
            at("adapter.target"),
            f"{layer} lies outside of the decoder's blocks, whose inputs gates read; use target: language_model, and "
            "target_modules inside of its layers",
        )
    return block


def _put_gate(model: Any, name: str, block: nn.Module, mole: Mole) -> Gate:
    width = model.config.get_text_config().hidden_size
    gate = Gate(mole.settings, width=width, scene=mole.scene, block=name)
    gate.to(next(block.parameters()).device).train(block.training)
    setattr(block, ROUTER, gate)
    block.register_forward_pre_hook(gate.before_block, with_kwargs=True)
    return gate
