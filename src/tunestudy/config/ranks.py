"""Environment variables by which a process knows its rank: whoever starts the ranks sets them, and nobody else."""

_OF_RANKS = frozenset(
    {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"}
    | {"WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"}
)
_OF_RANKS_BEGIN = ("TORCHELASTIC_", "PET_")


def is_of_ranks(name: str) -> bool:
    """Whether torchrun tells a process its rank with this variable, or is told its own options by it."""
    return name in _OF_RANKS or name.startswith(_OF_RANKS_BEGIN)
