"""Random numbers of a tensor, which depend on its name and a seed and on nothing that ran before."""

import hashlib

import torch


def generator_of(name: str, seed: int) -> torch.Generator:
    """On the CPU, so that any device begins with the same numbers."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
