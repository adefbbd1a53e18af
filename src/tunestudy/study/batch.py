"""Solving effective batch = per device × accumulation × ranks."""

from dataclasses import dataclass

DEFAULT_EFFECTIVE = 8
"""A constant of the study, whatever the hardware: what one device holds at once is solved from it."""
LARGEST_DEFAULT_PER_DEVICE = 8


@dataclass(frozen=True)
class Batch:
    """All three numbers of one optimiser step; `effective == per_device × accumulation × ranks`."""

    effective: int
    per_device: int
    accumulation: int


class BatchError(ValueError):
    """The numbers contradict each other; `key` is the one to change."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def solve_batch(*, effective: int | None, per_device: int | None, accumulation: int | None, ranks: int) -> Batch:
    """The numbers that are not given.

    Only `effective_batch_size` (or nothing): per device becomes the largest divisor of a rank's share up to 8.
    Without it, a number that is missing is that of Hugging Face: 8 per device, 1 accumulation step.

    Raises BatchError, naming the nearest effective batch sizes that do divide.
    """
    if effective is None and (per_device or accumulation):
        per_device, accumulation = per_device or LARGEST_DEFAULT_PER_DEVICE, accumulation or 1
        return Batch(per_device * accumulation * ranks, per_device, accumulation)
    effective = effective or DEFAULT_EFFECTIVE
    given = (per_device or 1) * (accumulation or 1) * ranks
    share, rest = divmod(effective, given)
    if rest or share == 0 or (share > 1 and per_device and accumulation):
        raise BatchError("effective_batch_size", _contradiction(effective, per_device, accumulation, ranks))
    if per_device:
        return Batch(effective, per_device, accumulation or share)
    if accumulation:
        return Batch(effective, share, accumulation)
    per_device = max(size for size in range(1, LARGEST_DEFAULT_PER_DEVICE + 1) if share % size == 0)
    return Batch(effective, per_device, share // per_device)


def _contradiction(effective: int, per_device: int | None, accumulation: int | None, ranks: int) -> str:
    factors = [f"{per_device} per device"] if per_device else []
    factors += [f"{accumulation} accumulation steps"] if accumulation else []
    factors += [f"{ranks} rank{'s' if ranks != 1 else ''}"]
    unit = (per_device or 1) * (accumulation or 1) * ranks
    if per_device and accumulation:
        return f"effective batch {effective} is not {' × '.join(factors)} = {unit}; leave one out and it is solved"
    below = effective // unit * unit
    nearest = f"{below}, {below + unit}" if below else f"{unit}"
    return f"effective batch {effective} does not divide by {' × '.join(factors)}; nearest that do: {nearest}"
