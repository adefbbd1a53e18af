"""Which tensors train, at which rate, in which role; and the proof after the first step that they do."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunestudy.config.stage import TrainStage
from tunestudy.models.roles import decays, is_adapter_parameter, is_gate, is_mixture_gate, role_of
from tunestudy.train.world import World

_LAYER = re.compile(r"\.(?:layers|layer|h|blocks)\.(\d+)\.")
"""Where parameter names count a stack's blocks."""

NAMED = 8
"""Tensors that an error names; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """One tensor that the optimiser moves."""

    name: str
    parameter: nn.Parameter
    role: str
    learning_rate: float
    """Peak."""
    decays: bool

    @property
    def is_gate(self) -> bool:
        """Whether it is the gates of a sparse adapter."""
        return is_gate(self.name)


class UntrainedError(RuntimeError):
    """Tensors are marked trainable but nothing in the model's forward pass uses them."""


class UnequalError(RuntimeError):
    """Ranks begin with other weights than each other."""


def require_alike(model: nn.Module, world: World) -> None:
    """Raise UnequalError when an adapter does not begin alike on every rank, before slices of it are put together.

    Adapters are made on every rank, not sent: by seed and name, or from the weights' own factors, which another kind of
    processor may compute otherwise. Weights that come from a file are its bytes on every rank.
    """
    if world.size == 1:
        return
    digests = {
        name: hashlib.blake2b(parameter.detach().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        for name, parameter in model.named_parameters()
        if is_adapter_parameter(name) and parameter.dtype is torch.float32
    }
    for rank, others in enumerate(world.gather_objects(digests)):
        differing = [name for name, digest in digests.items() if others.get(name) != digest]
        if differing or others.keys() != digests.keys():
            raise UnequalError(
                f"the adapter begins otherwise on rank {rank} than on rank {world.rank}: "
                f"{len(differing)} tensors differ, such as {', '.join(differing[:1])}"
            )


def find_trainables(model: nn.Module, settings: TrainStage) -> list[Trainable]:
    """Every tensor that requires a gradient, in the model's order."""
    found = []
    decay, depth = settings.layer_lr_decay or 1.0, num_layers(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype is torch.float32, f"{name} trains in {parameter.dtype}"
            role = role_of(name)
            rate = settings.learning_rates.get(role, settings.learning_rate)
            if is_gate(name) or is_mixture_gate(name):
                rate = getattr(settings.adapter, "gate_learning_rate", None) or rate
            rate *= decay ** layers_above(name, depth)
            # Decay would pull a mixture's gates to equal shares, which is for its balance loss to do.
            shrinks = decays(parameter) and not is_mixture_gate(name)
            found.append(Trainable(name=name, parameter=parameter, role=role, learning_rate=rate, decays=shrinks))
    return found


def num_layers(model: nn.Module) -> int:
    """Blocks of the deepest stack."""
    found = (_LAYER.search(name) for name, _ in model.named_parameters())
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def layers_above(name: str, depth: int) -> int:
    """How many blocks lie above a parameter: none for the last one, the final norm and the head, all for embeddings.
    A world part learns at the full rate, as a projector does, though it hangs at the embeddings."""
    match = _LAYER.search(name)
    if match:
        return depth - 1 - int(match[1])
    return depth if "embed" in name and role_of(name) != "world_projector" else 0


def as_text(table: Sequence[Mapping[str, Any]]) -> str:
    """The table of roles for people."""
    lines = [f"{'role':<16}{'parameters':>14}{'trainable':>14}{'learning rate':>15}  adapter"]
    for row in table:
        rate = "frozen" if row["learning_rate"] is None else f"{row['learning_rate']:g}"
        lines.append(f"{row['role']:<16}{row['params']:>14,}{row['trainable']:>14,}{rate:>15}  {row['adapter'] or '-'}")
    return "\n".join(lines)


def require_gradients(
    trainables: Sequence[Trainable], world: World, has_gradient: Callable[[nn.Parameter], bool]
) -> None:
    """Raise UntrainedError naming every tensor without a gradient on all ranks. A gradient of zeros is fine."""
    present = torch.tensor([has_gradient(t.parameter) for t in trainables], dtype=torch.int64, device=world.device)
    counts = world.all_reduce_sum(present).tolist()
    absent = [trainable.name for trainable, count in zip(trainables, counts, strict=True) if count == 0]
    if absent:
        more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
        raise UntrainedError(
            f"{len(absent)} trainable tensors got no gradient in the first step, so they would never train: "
            f"{', '.join(absent[:NAMED])}{more}"
        )
