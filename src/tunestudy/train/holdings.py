"""What a stage holds from its first step to its last: weights, gradients, the optimiser's state, buffers of engines.

Bytes of one rank, from the shapes of a model that need not be there.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from tunestudy.config.deepspeed import zero_stage
from tunestudy.config.stage import Quantization, TrainStage
from tunestudy.models.decoder import base_model_of, blocks_of
from tunestudy.models.roles import is_gate

MASTER = 4
"""Bytes of a number that learns, of its gradient, of each of its moments: float32 under every engine."""
SMALLEST_8BIT = 4096
"""bitsandbytes keeps the moments of smaller tensors in 32 bits."""
ABSMAX_BLOCK, MOMENT_BLOCK, NESTED_BLOCK = 64, 256, 256
"""Values that share a scale in bitsandbytes: of NF4 and FP4, of 8-bit moments, and scales of scales."""
BUCKET = 500_000_000
"""Numbers that DeepSpeed gathers before it reduces them, by default."""


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """Bytes of one rank."""

    frozen: int
    trainable: int
    gradients: int
    optimizer: int
    gather: int
    """Weights of other ranks while they are needed, and buffers of gradients on their way."""
    pages: int
    """Of the optimiser, the part that may move to the host (`paged_…`)."""

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def holdings_of(model: nn.Module, settings: TrainStage, ranks: int, per_host: int | None = None) -> Holdings:
    """model: with its adapter, its learning weights unfrozen and held in float32; on any device, `meta`, too."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    values = sum(p.numel() for _, p in learning)
    gates = sum(p.numel() for name, p in learning if is_gate(name))
    frozen = frozen_bytes(model, settings.quantization)
    moments = sum(moment_bytes(name, p, settings.optim, settings.momentum) for name, p in learning)
    sliced = _shares(settings, ranks, per_host or ranks)
    offload = settings.engine == "fsdp2" and settings.fsdp2.cpu_offload and ranks > 1

    def part(whole: int, name: str) -> int:
        return 0 if offload else -(-whole // sliced[name])

    optimizer = part(moments, "optimizer")
    if settings.engine == "deepspeed" and ranks > 1:  # a flat float32 copy of this rank's part
        optimizer += MASTER * values // ranks
    return Holdings(
        frozen=part(frozen, "frozen"),
        trainable=part(MASTER * (values - gates), "trainable") + MASTER * gates,
        gradients=part(MASTER * (values - gates), "gradients") + MASTER * gates,
        optimizer=optimizer,
        gather=gather_bytes(model, settings, ranks),
        pages=optimizer if settings.optim.startswith("paged") else 0,
    )


def _shares(settings: TrainStage, ranks: int, per_host: int) -> dict[str, int]:
    """Into how many parts each term is cut."""
    whole = {"frozen": 1, "trainable": 1, "gradients": 1, "optimizer": 1}
    if settings.engine == "fsdp2" and ranks > 1:
        parts = per_host if settings.fsdp2.within_node else ranks
        return {**dict.fromkeys(whole, parts), "frozen": parts if settings.fsdp2.shard == "all" else 1}
    if settings.engine == "deepspeed" and ranks > 1:
        stage = zero_stage(settings.deepspeed)
        cut = {"optimizer": 1, "gradients": 2, "trainable": 3, "frozen": 3}
        return {name: ranks if stage >= least else 1 for name, least in cut.items()}
    return whole


def frozen_bytes(model: nn.Module, bits: Quantization | None) -> int:
    """Of weights that do not learn, and of buffers; of linear layers in few bits where those are asked for."""
    packed = few_bit_weights(model) if bits is not None else {}
    total = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    for parameter in model.parameters():
        if parameter.requires_grad:
            continue
        if bits is not None and id(parameter) in packed:
            total += packed_bytes(parameter, bits)
        else:
            total += parameter.numel() * parameter.element_size()
    return total


def few_bit_weights(model: nn.Module) -> dict[int, nn.Module]:
    """Weights that transformers puts into few bits, by `id`: of all linear layers but the output head."""
    head = base_model_of(model).get_output_embeddings()
    return {
        id(module.weight): module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad
    }


def packed_bytes(weight: Tensor, bits: Quantization) -> int:
    """Of a weight in few bits with its scales."""
    values = weight.numel()
    if bits.load_in_8bit:
        return values + MASTER * weight.shape[0]
    blocks = -(-values // ABSMAX_BLOCK)
    scales = blocks + MASTER * (-(-blocks // NESTED_BLOCK)) if bits.bnb_4bit_use_double_quant else MASTER * blocks
    return values // 2 + scales


def moment_bytes(name: str, parameter: Tensor, optim: str, momentum: float) -> int:
    """Of the optimiser's state for one tensor."""
    values = parameter.numel()
    if optim == "sgd":
        return MASTER * values if momentum else 0
    if optim == "adafactor":
        rows = values // parameter.shape[-1] if parameter.ndim > 1 else 0
        return MASTER * (rows + values // parameter.shape[-2]) if parameter.ndim > 1 else MASTER * values
    if optim.endswith("8bit") and values >= SMALLEST_8BIT and not is_gate(name) and "embed" not in name:
        return 2 * values + 2 * MASTER * (-(-values // MOMENT_BLOCK))
    return 2 * MASTER * values


def gather_bytes(model: nn.Module, settings: TrainStage, ranks: int) -> int:
    """Whole weights that a rank has beside its slices at one time."""
    if ranks == 1:
        return 0
    learns = MASTER * sum(p.numel() for p in model.parameters() if p.requires_grad)
    if settings.engine == "deepspeed":
        bucket = min(learns, MASTER * BUCKET)
        return bucket + (_largest_blocks(model, 2) if zero_stage(settings.deepspeed) == 3 else 0)
    if settings.engine != "fsdp2":
        return 0  # DDP's buckets are the gradients
    if settings.fsdp2.shard == "gradients":
        return learns
    return _largest_blocks(model, 1 + settings.fsdp2.prefetch) + _outside_blocks(model)


def _largest_blocks(model: nn.Module, count: int) -> int:
    sizes = sorted((_bytes_of(block.parameters()) for block in blocks_of(model)), reverse=True)
    return sum(sizes[:count])


def _outside_blocks(model: nn.Module) -> int:
    """Embeddings, last norm and head stay gathered from the forward to the backward pass."""
    inside = {id(p) for block in blocks_of(model) for p in block.parameters()}
    return _bytes_of(p for p in model.parameters() if id(p) not in inside)


def _bytes_of(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
