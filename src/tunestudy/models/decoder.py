"""Running a causal model up to its last hidden states, with the arguments that a batch's layout needs."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.config.errors import StudyError, at
from tunestudy.config.world import WORLD_PIXELS
from tunestudy.data.batch import Batch
from tunestudy.models.components.world_projector import world_images
from tunestudy.models.mole_gates import Scene, tokens_of
from tunestudy.models.vision import module_of

SEGMENT_ATTENTION = "tunestudy_segments"
"""The name of `models.attention.segment_attention` among transformers' attention functions."""


class Segments:
    """Borders of the samples of one row; passed through a model's forward as `segments=`."""

    def __init__(self, borders: Tensor) -> None:
        """borders: (S+1,) int32, from 0 to the number of positions."""
        self.borders = borders

    @classmethod
    def even(cls, count: int, length: int) -> "Segments":
        """Of equal lengths that are known without looking at the borders."""
        segments = cls(torch.arange(0, (count + 1) * length, length, dtype=torch.int32))
        segments.lengths = [length] * count
        return segments

    @cached_property
    def lengths(self) -> list[int]:
        """(S,) On a GPU, reading them waits for the device: the variable-length kernel does without."""
        return [int(length) for length in self.borders.diff().tolist()]

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """(number, length) of neighbours of equal length, which attention takes as one batch."""
        return [(sum(1 for _ in same), length) for length, same in groupby(self.lengths)]


def base_model_of(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def last_hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """(B, T, D), on the batch's device: what the head would get. Logits are not formed."""
    base = base_model_of(model)
    output: Tensor = called(base.base_model, base, batch).last_hidden_state
    return output.to(batch.input_ids.device)


def called(module: Any, base: Any, batch: Batch) -> Any:
    """What `module`, the model `base` or a part of it, gives for a batch; images of a world part go in beside, and
    gates of a mixture of experts get to know whose tokens these are."""
    with world_images(base, batch.pixels.get(WORLD_PIXELS)), batch_told(base, batch):
        return module(**forward_arguments(base, batch))


def batch_told(base: Any, batch: Batch) -> AbstractContextManager[None]:
    """Gates of a mixture of experts know inside which token is of which sample; nothing for other models.

    Around the backward pass too where activations are formed again there.
    """
    mole = vars(base).get("mole")
    if mole is None:
        return nullcontext()
    scene: Scene = mole.scene
    return scene.of(tokens_of(batch, by_sample=mole.settings.gate == "sequence"))


def forward_arguments(base: Any, batch: Batch) -> dict[str, Any]:
    """Of the model's own forward pass. Samples that share a row restart their positions, which is how transformers
    knows them apart where segment attention is off."""
    arguments: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.cu_seqlens is not None or batch.segment_ids is not None:
        arguments["position_ids"] = batch.position_ids
    elif not sees_only_the_past(base):
        arguments["attention_mask"] = batch.attention_mask
    arguments |= {name: tensor for name, tensor in batch.pixels.items() if name != WORLD_PIXELS}
    eyes = module_of(base.config.model_type)
    if eyes is not None:
        arguments |= eyes.arguments(base, batch)
    if batch.cu_seqlens is not None and base.config.get_text_config()._attn_implementation == SEGMENT_ATTENTION:
        arguments["segments"] = Segments(batch.cu_seqlens)
        # A mask that is already 4-D is passed on as it is, so none of tokens × tokens is built; nobody reads this one.
        arguments["attention_mask"] = torch.empty(1, 1, 0, 0, device=batch.input_ids.device)
    return arguments


def sees_only_the_past(base: Any) -> bool:
    """Whether padding on the right can never reach a real token, so that it needs no mask."""
    config = base.config.get_text_config()
    looks_ahead = getattr(config, "use_bidirectional_attention", None) or not getattr(config, "is_causal", True)
    return not (looks_ahead or base.config.is_encoder_decoder)


@contextmanager
def trial_run(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside; afterwards every module is in the mode it was in, and nobody knows of it.

    A model with weights of several types runs in the shortest of them, as it does in training.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    weights = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    shortest = min((weight.dtype for weight in weights), key=lambda dtype: torch.finfo(dtype).bits)
    mixed = any(weight.dtype != shortest for weight in weights)
    mole = vars(base_model_of(model)).get("mole")
    try:
        with (
            nullcontext() if mole is None else mole.scene.unseen(),
            torch.no_grad(),
            torch.autocast(weights[0].device.type, dtype=shortest, enabled=mixed),
        ):
            yield
    finally:
        for module in training:
            module.training = True


def nearly_equal(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding in the type they were computed in."""
    half = torch.finfo(a.dtype).bits < 32 or torch.is_autocast_enabled(a.device.type)
    a, b = a.float(), b.float()
    return bool((a - b).norm() <= (5e-2 if half else 1e-4) * b.norm())


def blocks_of(model: nn.Module) -> Sequence[nn.Module]:
    """The modules that transformers calls indivisible: a decoder's layers, a vision tower's."""
    base = base_model_of(model)
    names = set(getattr(base, "_no_split_modules", None) or ())
    found = [module for module in base.modules() if type(module).__name__ in names]
    if not found:
        cure = "it can neither be sliced (use engine: ddp) nor compiled"
        raise StudyError(at("engine"), f"{type(base).__name__} does not name its blocks: {cure}")
    return found
