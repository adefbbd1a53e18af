"""How fast the ranks of a job talk to each other: latency and bandwidth by size and by pair.

    torchrun … -m tunestudy.train.netcheck FOLDER     FOLDER holds request.json; netcheck.json is written into it

Collectives are timed as the slowest rank sees them. Bus bandwidth is what a link would have to carry for a perfect
ring, so that it can be held against the hardware's figure whatever the number of ranks: size ÷ time × 2(n-1)/n for
all-reduce, × (n-1)/n for all-gather (size: bytes that every rank ends up with). Source: nccl-tests, doc/PERFORMANCE.md.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.host import host_name
from tunestudy.records.layout import NETCHECK, REQUEST
from tunestudy.train.world import World, open_world

WARM_UP = 2
LATENCY_BYTES = 8
LONG_S = 1.0
"""Sizes that take longer than this are the last ones."""


def main(folder: str) -> None:
    """Measure on this rank; rank 0 writes."""
    root = Path(folder)
    wanted = read_json(root / REQUEST)
    with open_world() as world:
        if world.size == 1:
            sys.exit("one rank has nobody to talk to")
        hosts = world.gather_objects(host_name())
        found = {
            "backend": dist.get_backend(),
            "hosts": hosts,
            "interfaces": world.gather_objects(interconnects()),
            "collectives": collectives(world, wanted["sizes"], wanted["repeats"]),
            "pairs": pairs(world, wanted["pair_bytes"], wanted["repeats"]),
        }
        if world.rank == 0:
            write_json(root / NETCHECK, found)


def collectives(world: World, sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Rows of op, bytes, seconds (median), and bus bandwidth in bytes per second."""
    rows: list[dict[str, Any]] = []
    share = (world.size - 1) / world.size
    for size in [LATENCY_BYTES, *sizes]:
        numbers = max(world.size, size // 4 // world.size * world.size)
        whole = torch.ones(numbers, device=world.device)
        part = whole[: numbers // world.size].clone()
        operations: dict[str, tuple[float, Callable[[], Any]]] = {
            "all_reduce": (2 * share, partial(dist.all_reduce, whole)),
            "all_gather": (share, partial(dist.all_gather_into_tensor, whole, part)),
        }
        for name, (factor, operation) in operations.items():
            seconds = timed(world, operation, repeats)
            bandwidth = numbers * 4 * factor / seconds
            rows.append({"op": name, "bytes": numbers * 4, "seconds": seconds, "bus_bytes_per_s": bandwidth})
        if rows[-1]["seconds"] + rows[-2]["seconds"] > LONG_S:  # a larger size would tell nothing new
            break
    return rows


def pairs(world: World, size: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of two ranks, their latency in seconds (half a round trip of 8 bytes), and bytes per second one way."""
    rows = []
    for low in range(world.size):
        for high in range(low + 1, world.size):
            tensors = [torch.ones(count // 4, device=world.device) for count in (LATENCY_BYTES, size)]
            few, many = (round_trip(world, (low, high), tensor, repeats) / 2 for tensor in tensors)
            rows.append({"ranks": [low, high], "latency_s": few, "bytes_per_s": size / many})
    return rows


def round_trip(world: World, ends: tuple[int, int], tensor: Tensor, repeats: int) -> float:
    """Seconds (median) of there and back, known to all ranks; the others wait."""
    low, high = ends

    def ping() -> None:
        if world.rank == low:
            dist.send(tensor, high)
            dist.recv(tensor, high)
        elif world.rank == high:
            dist.recv(tensor, low)
            dist.send(tensor, low)

    return timed(world, ping, repeats)


def timed(world: World, operation: Callable[[], Any], repeats: int) -> float:
    """Median over repeats of the slowest rank's seconds."""
    seconds = []
    for repeat in range(WARM_UP + repeats):
        world.barrier()
        world.wait_for_device()
        began = time.perf_counter()
        operation()
        world.wait_for_device()
        took = torch.tensor(time.perf_counter() - began, dtype=torch.float64, device=world.device)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        if repeat >= WARM_UP:
            seconds.append(float(took))
    return statistics.median(seconds)


def interconnects() -> list[str]:
    """InfiniBand and RoCE devices that this host shows."""
    folder = Path("/sys/class/infiniband")
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


if __name__ == "__main__":
    main(sys.argv[1])
