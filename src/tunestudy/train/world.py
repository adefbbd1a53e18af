"""The ranks of one job, as torchrun set them up, and the few things they say to each other.

One rank alone opens no process group: everything here then answers at once and locally.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tunestudy.records.progress import Progress
from tunestudy.train.roll_call import RanksLostError, RollCall

T = TypeVar("T")

TIMEOUT_S = 300.0
"""A rank that is silent for this long counts as dead (the default of gloo would be 30 minutes)."""


_OPENED: list[object] = []
"""Process groups that this process has opened, held until it ends.

Were DDP's reducer the last to hold one, it would wait, GIL in hand, for gloo's thread, which may wait for the GIL to
let go of a gradient (torch 2.13: one exit in eight hung). Python's own handle releases the GIL first.
"""


@dataclass
class World:
    """This process among its job's ranks."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    """Ranks on this host."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    roll_call: RollCall | None = None
    num_reductions: int = 0
    """How many all-reduces this rank has made: tests count them."""

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Where ranks wait for each other: the others are told that this one has come, should it come no further."""
        if self.roll_call is None:
            yield
            return
        self.roll_call.here(place)
        try:
            yield
        finally:
            self.roll_call.end()

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """`tensor` summed over all ranks, in place."""
        self.num_reductions += 1
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_of(self, *values: float) -> list[float]:
        """Each value summed over all ranks in one fp64 all-reduce; integers up to 2⁵³ stay exact."""
        if self.size == 1:
            self.num_reductions += 1
            return [float(value) for value in values]
        summed: list[float] = self.all_reduce_sum(
            torch.tensor(values, dtype=torch.float64, device=self.device)
        ).tolist()
        return summed

    def any(self, wanted: bool) -> bool:
        """Whether any rank says yes; all ranks get the same answer."""
        return self.sum_of(float(wanted))[0] > 0

    def from_rank_0(self, value: int) -> int:
        """Rank 0's integer, known to all ranks."""
        return int(self.sum_of(value if self.rank == 0 else 0)[0])

    def gather_objects(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank. For small Python objects."""
        if self.size == 1:
            return [value]
        gathered: list[T | None] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered  # type: ignore[return-value]

    def after_rank_0(self) -> None:
        """Wait until rank 0 is here, too, which may have files to write."""
        if self.roll_call is not None:
            self.roll_call.after_rank_0()

    def meet(self, progress: Progress | None = None) -> None:
        """Wait until every rank is here, without the patience of collectives: before one, after work of unlike size.

        progress: moves on rank 0 while those that are missing do.
        """
        if self.roll_call is not None:
            self.roll_call.meet(progress)

    def wait_for_device(self) -> None:
        """Until the GPU has done what it was given: it works behind the caller's back."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def record_collectives(logs: Path) -> None:
    """Have NCCL's flight recorder keep the last collectives and write them there when one of them times out.

    `torchfrtrace` reads the files `collectives-<rank>`. What the environment says already stays. Older torch reads the
    second name of each pair.
    """
    kept, file = "2000", str(logs / "collectives-")
    for name, value in {
        "TORCH_FR_BUFFER_SIZE": kept,
        "TORCH_NCCL_TRACE_BUFFER_SIZE": kept,
        "TORCH_FR_DUMP_TEMP_FILE": file,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": file,
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def open_world(logs: Path | None = None) -> Iterator[World]:
    """The world that torchrun's environment describes; its process group is closed on the way out.

    logs: a folder for what a GPU's flight recorder saw, should ranks wait in vain.
    """
    size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    world = World(
        rank=int(os.environ.get("RANK", "0")),
        local_rank=local_rank,
        size=size,
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        device=device_of_rank(local_rank),
    )
    if size == 1:
        yield world
        return
    if world.device.type == "cuda" and logs is not None:
        record_collectives(logs)
    patience = timedelta(seconds=float(os.environ.get("TUNESTUDY_TIMEOUT_S", TIMEOUT_S)))
    open_group(world, patience)
    world.roll_call = RollCall(rank=world.rank, size=size, patience_s=patience.total_seconds())
    try:
        yield world
        world.roll_call.leave_together()
    except RuntimeError as error:
        raise world.roll_call.explain(error) from error
    finally:
        world.roll_call.end()
        dist.destroy_process_group()


def open_group(world: World, patience: timedelta) -> None:
    """Meet the other ranks. RanksLostError where not all of them come."""
    on_gpu = world.device.type == "cuda"
    device = world.device if on_gpu else None
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=patience, device_id=device)
    except dist.DistStoreError as error:
        waited = f"within {patience.total_seconds():g} s (resources.timeout_s)"
        raise RanksLostError(f"not all of the {world.size} ranks came to their start {waited}: {error}") from error
    _OPENED.append(dist.group.WORLD)


def device_of_rank(local_rank: int) -> torch.device:
    """This rank's GPU, made the current one, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
