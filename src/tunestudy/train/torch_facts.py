"""What torch finds on this machine: `python -m tunestudy.train.torch_facts`, a line of JSON for `check --deep`.

Every GPU multiplies two matrices, in a process of its own: what a broken driver does to it harms nobody.
"""

import importlib
import importlib.util
import json
from typing import Any

import torch

SIDE = 256
TRIED = ("flash_attn", "bitsandbytes", "torchvision")
"""Packages of compiled code that are made for one torch, tried where they are installed."""


def facts() -> dict[str, Any]:
    """torch, cuda, nccl (versions or None), broken {package: error}, gpus [{index, name, problem or None, …}]."""
    has_cuda = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": nccl_version() if has_cuda else None,
        "broken": {name: error for name in TRIED if (error := import_error(name))},
        "gpus": [tried(index) for index in range(torch.cuda.device_count())] if has_cuda else [],
    }


def nccl_version() -> str:
    """The NCCL that torch brings along."""
    found: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return ".".join(map(str, found))


def import_error(package: str) -> str:
    """What importing an installed package says; empty where it works or is not installed."""
    if importlib.util.find_spec(package) is None:
        return ""
    try:
        importlib.import_module(package)
    except Exception as error:  # noqa: BLE001 - compiled code fails in many ways
        return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
    return ""


def tried(index: int) -> dict[str, Any]:
    """One GPU, with what went wrong when it multiplied."""
    found: dict[str, Any] = {"index": index, "name": torch.cuda.get_device_name(index), "problem": None}
    try:
        ones = torch.ones(SIDE, SIDE, device=f"cuda:{index}")
        if not torch.equal((ones @ ones).cpu(), torch.full((SIDE, SIDE), float(SIDE))):
            found["problem"] = "multiplies wrongly"
        found["free_bytes"], found["total_bytes"] = torch.cuda.mem_get_info(index)
        found["bf16"] = torch.cuda.get_device_capability(index) >= (8, 0)
    except RuntimeError as error:
        found["problem"] = str(error).splitlines()[0]
    return found


if __name__ == "__main__":
    print("torch-facts " + json.dumps(facts()), flush=True)
