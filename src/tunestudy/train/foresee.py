"""How much memory a stage will need on a rank, by term, before anything is loaded.

    python -m tunestudy.train.foresee RANKS cpu|cuda FOLDER …     each FOLDER holds job.json; leaves foresee.json there

Weights, gradients and the optimiser's state are counted on the model's real architecture; activations come from running
a few of its blocks with tensors that pretend to be there (`pretend.py`). Needs the model's configuration, not its
weights, and no GPU. `cuda`: foresee for one although this machine has none.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.stage import TrainStage
from tunestudy.models.attention import switch_untried
from tunestudy.models.decoder import base_model_of
from tunestudy.models.hollow import hollow_start
from tunestudy.models.quantize import num_values
from tunestudy.models.roles import role_of
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import FORESEEN, JobDir
from tunestudy.records.progress import Progress
from tunestudy.records.stop import StopRequest
from tunestudy.records.untrained import MEBIBYTE
from tunestudy.train.batching import plan_batches
from tunestudy.train.holdings import few_bit_weights, holdings_of
from tunestudy.train.linear_ce import chunk_rows
from tunestudy.train.precision import Precision
from tunestudy.train.pretend import Passed, drop_as_gpus_do, peak_of_tower, peaks_of_decoder
from tunestudy.train.question import job_in
from tunestudy.train.run import Task
from tunestudy.train.stage import make_trainable
from tunestudy.train.world import World

CONTEXT_MB = 500.0
"""Of CUDA on a GPU that nobody asked: what it takes before the first tensor."""
NCCL_MB = 1000.0
"""Its buffers, where several ranks talk."""
PER_TOKEN_AND_WIDTH = 34
"""Bytes in half precision of a plain block's activations. Source: Korthikanti et al. 2022, arXiv:2205.05198, §4.1."""
CROPPED = 12
"""Tiles that InternVL's processor cuts an image into at most, unless told otherwise; a thumbnail comes with them."""
PATCHES_PER_TOKEN = 4
"""Of a vision tower: what projectors merge into one token."""


def main(ranks: int, per_host: int, device: str, *folders: str) -> None:
    """Count, and leave what was counted, or why it could not be."""
    constants = constants_mb(ranks) if device == "cuda" else {}
    for folder in folders:
        job_dir = JobDir(Path(folder).resolve())
        job = job_in(job_dir)
        try:
            found = foresee(job, job_dir, ranks=ranks, per_host=per_host, device=torch.device(device))
            found.setdefault("constants_mb", constants)
        except StudyError as error:
            found = {"missing": error.message}
        write_json(job_dir.root / FORESEEN, found)


def foresee(
    job: Job, folder: JobDir, *, ranks: int, device: torch.device, per_host: int | None = None
) -> dict[str, Any]:
    """Bytes by term of one rank. `activations`: at two numbers of tokens in a micro-batch, between which they are
    nearly linear. StudyError where the model's configuration is not at hand."""
    settings = job.training
    assert settings is not None, "only a training stage has steps"
    task = Task(
        job=job,
        settings=settings,
        folder=folder,
        world=World(),
        stop=StopRequest(),
        progress=Progress(folder, writes=False),
    )
    loaded = hollow_start(job, folder)
    if isinstance(settings.adapter, MoleAdapter):
        where = at(f"stages.{job.stage}.adapter")
        raise StudyError(where, "a mixture of LoRA experts is made of what earlier stages learn")
    model = make_trainable(loaded, task)
    process = {} if device.type == "cuda" else {"constants_mb": {"process": resident_mb()}}
    if device.type == "cuda":
        drop_as_gpus_do(model)
    if settings.padding != "right" and job.model.attn_implementation == "sdpa":
        switch_untried(model)
    holdings = holdings_of(model, settings, ranks, per_host)
    notes = list(_notes(settings))
    batches = plan_batches(settings, ranks, stage=job.stage)
    dtype = Precision(settings, job.model, torch.device("cpu")).dtype
    lengths = (settings.max_length, max(1, settings.max_length // 2))
    unpacking = _largest_packed(model, settings)
    head = [logits_bytes(model, batches.micro_batch * length, dtype, device) for length in lengths]
    held_on_host = host_copies(model, settings) if device.type == "cpu" else 0
    activations = [
        bytes_ + unpacking for bytes_ in _activations(model, job, batches.micro_batch, lengths, dtype, notes)
    ]
    return {
        "device": device.type,
        "ranks": ranks,
        "micro_batch": batches.micro_batch,
        "tokens": [batches.micro_batch * length for length in lengths],
        "activations": activations,
        "logits": head,
        "copies": held_on_host,
        "values_that_learn": sum(num_values(p) for p in model.parameters() if p.requires_grad),
        "values": sum(num_values(p) for p in model.parameters()),
        **holdings.as_json(),
        **process,
        "notes": notes,
    }


def resident_mb() -> float:
    """Memory (MiB) of this process once libraries are loaded that a stage needs: with a model of shapes alone, after a
    small step of real numbers."""
    layer = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    nn.functional.scaled_dot_product_attention(*[layer(torch.ones(1, 1, 4, 8))] * 3).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(round(psutil.Process().memory_info().rss / MEBIBYTE, 1))


def _notes(settings: TrainStage) -> Iterator[str]:
    if settings.world is not None:
        yield "the world part's encoder is not counted"
    if settings.init == "stack":
        yield "the frozen adapters below are not counted"


def _activations(
    model: nn.Module, job: Job, rows: int, lengths: tuple[int, int], dtype: torch.dtype, notes: list[str]
) -> list[int]:
    learning = {role_of(name) for name, p in model.named_parameters() if p.requires_grad}
    inputs_learn = bool(learning & {"vision_tower", "projector", "world_projector"})
    text_config = base_model_of(model).config.get_text_config()
    try:
        size = {"rows": rows, "lengths": lengths, "dtype": dtype, "inputs_learn": inputs_learn}
        text = _of_text(model, job, notes, size)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
        notes.append(f"activations are a rule of thumb ({reason})")
        text = [_rule_of_thumb(text_config, rows * length, dtype) for length in lengths]
    if not {role_of(name) for name, _ in model.named_parameters()} & {"vision_tower", "projector"}:
        return text
    towers = _of_images(model, job, rows, lengths, dtype, "vision_tower" in learning, notes)
    return [max(passed.peak, of_text + passed.kept) for of_text, passed in zip(text, towers, strict=True)]


def _of_text(model: nn.Module, job: Job, notes: list[str], size: dict[str, Any]) -> list[int]:
    """Of compiled blocks where the stage has them. With checkpoints, one block's tensors at a time hardly matter."""
    settings = job.training
    if settings is not None and settings.torch_compile and not settings.activation_checkpointing:
        try:
            return peaks_of_decoder(model, compiled=True, **size)
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
            notes.append(f"counted as if not compiled, which keeps more ({type(error).__name__})")
    return peaks_of_decoder(model, **size)


def _of_images(
    model: nn.Module,
    job: Job,
    rows: int,
    lengths: tuple[int, int],
    dtype: torch.dtype,
    learns: bool,
    notes: list[str],
) -> list[Passed]:
    """Of the images of a micro-batch: counted where they are tiles of one size, else as if all tokens were images."""
    tile = _tile_of(base_model_of(model).config)
    if tile is not None:
        tokens, size = tile
        per_row = [max(1, min(length // tokens, most_tiles(job))) for length in lengths]
        try:
            found = {count: peak_of_tower(model, tiles=rows * count, size=size, dtype=dtype) for count in set(per_row)}
            notes.append(f"the vision tower is counted at {tiles_in_words(max(per_row))} of a row's images")
            return [found[count] for count in per_row]
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            notes.append(f"the vision tower cannot be run on shapes alone ({type(error).__name__})")
    notes.append("the vision tower's activations are a rule of thumb")
    sizes = [_of_tower(model, rows * length, dtype, learns) for length in lengths]
    return [Passed(size, size) for size in sizes]


def tiles_in_words(tiles: int) -> str:
    return f"{tiles} tiles" if tiles > 1 else "1 tile"


def _tile_of(config: Any) -> tuple[int, tuple[int, int]] | None:
    """Tokens and pixels of a tile, for models whose images are tiles of one size."""
    tokens = getattr(config, "image_seq_length", None) or getattr(config, "mm_tokens_per_image", None)
    size = getattr(getattr(config, "vision_config", None), "image_size", None)
    if not isinstance(tokens, int) or size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return tokens, (height, width)


def most_tiles(job: Job) -> int:
    """Of a row, however long: a sample has one image; a pack as many as it may hold."""
    settings = job.training
    assert settings is not None, "only a training stage has rows"
    if settings.packing:
        return settings.max_images_per_pack or sys.maxsize
    options = job.model.image_processor
    cropped = options.get("crop_to_patches", "internvl" in (job.model.architecture or ""))
    return int(options.get("max_patches", CROPPED)) + 1 if cropped else 1


def _rule_of_thumb(config: Any, tokens: int, dtype: torch.dtype) -> int:
    return int(PER_TOKEN_AND_WIDTH * dtype.itemsize // 2 * tokens * config.hidden_size * config.num_hidden_layers)


def _of_tower(model: nn.Module, tokens: int, dtype: torch.dtype, learns: bool) -> int:
    """As if all tokens were an image's: of all its blocks where it learns, else of one that is at work."""
    config = getattr(base_model_of(model).config, "vision_config", None)
    width = getattr(config, "hidden_size", None)
    blocks = getattr(config, "num_hidden_layers", None) or getattr(config, "depth", None)
    if not isinstance(width, int) or not isinstance(blocks, int):
        return 0
    of_block = PER_TOKEN_AND_WIDTH * dtype.itemsize // 2 * tokens * PATCHES_PER_TOKEN * width
    return of_block * (blocks if learns else 1)


def logits_bytes(model: nn.Module, tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """What the loss holds beside the hidden states: a chunk of logits in its buffers, the slope of every hidden state,
    and the gradient of a head that learns, as `linear_ce.py` does it."""
    head = base_model_of(model).get_output_embeddings()
    if head is None:
        return int(tokens * base_model_of(model).config.get_text_config().vocab_size * (dtype.itemsize + 4))
    vocabulary, width = head.weight.shape
    rows = min(tokens, chunk_rows(vocabulary, device))
    buffers = rows * vocabulary * (4 + (dtype.itemsize if dtype is not torch.float32 else 0))
    states = 2 * tokens * width * dtype.itemsize
    cast = head.weight.numel() * dtype.itemsize if head.weight.dtype is not dtype else 0
    gradient = 4 * head.weight.numel() if head.weight.requires_grad else 0
    return int(buffers + states + cast + gradient)


def host_copies(model: nn.Module, settings: TrainStage) -> int:
    """Buffers in the host's memory from which checkpoints are written; on a CPU rank they count as its own."""
    values = sum(num_values(p) for p in model.parameters() if p.requires_grad)
    lite = settings.save_steps or settings.full_save_steps or settings.save_on_epoch_end
    moments = 0 if settings.optim in ("sgd", "adafactor") else 2
    return 4 * values * (bool(lite) + (moments if settings.writes_full else 0))


def _largest_packed(model: nn.Module, settings: TrainStage) -> int:
    """A linear layer in few bits is unpacked while it computes."""
    if settings.quantization is None:
        return 0
    weights: list[Any] = [module.weight for module in few_bit_weights(model).values()]
    return max((weight.numel() * 2 for weight in weights), default=0)


def constants_mb(ranks: int) -> dict[str, float]:
    """What a process takes of a GPU before its first tensor, measured where that can be."""
    found = {"context": CONTEXT_MB}
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")
        free, total = torch.cuda.mem_get_info()
        used = (total - free - torch.cuda.memory_reserved()) / MEBIBYTE
        if 0 < used < 4 * CONTEXT_MB:  # more is another program's
            found["context"] = round(used, 1)
    if ranks > 1:
        found["nccl"] = NCCL_MB
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
