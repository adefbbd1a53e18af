"""How a study's jobs lie on a Ray cluster: what one job asks for, and how many fit at once. Pure arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.resources import Resources

Amounts = Mapping[str, float]
"""CPU and GPU, of a machine or of a bundle."""
_PRECISION = 1e-4
"""Ray counts resources in ten-thousandths."""


@dataclass(frozen=True)
class Wish:
    """What one job asks Ray for: a placement group of these bundles. One bundle holds several ranks where they must
    share a machine: then a torchrun on that machine is all there is."""

    bundles: tuple[dict[str, float], ...]
    strategy: str
    ranks: int

    @property
    def in_words(self) -> str:
        total = {name: sum(bundle.get(name, 0.0) for bundle in self.bundles) for name in ("GPU", "CPU")}
        amounts = [f"{_count(amount)} {name}{'s' * (amount > 1)}" for name, amount in total.items() if amount]
        return " and ".join(amounts) + (f" in {len(self.bundles)} parts" if len(self.bundles) > 1 else "")


def wish_for(resources: Resources, machines: Sequence[Amounts]) -> Wish:
    """What a job asks for on this cluster.

    PACK means one machine wherever the cluster has one that could hold the job: ranks that meet over the network are
    slower, and Ray's own PACK would scatter them as soon as that machine is busy.
    """
    rank = _of_a_rank(resources, has_gpus=any(machine.get("GPU", 0) for machine in machines))
    together = {name: amount * resources.ranks for name, amount in rank.items()}
    strategy = resources.ray.strategy
    if strategy == "PACK" and any(_holds(machine, together) for machine in machines):
        strategy = "STRICT_PACK"
    if strategy == "STRICT_PACK" or resources.ranks == 1:
        return Wish((together,), "STRICT_PACK", resources.ranks)
    return Wish((rank,) * resources.ranks, strategy, resources.ranks)


def jobs_at_once(resources: Resources, wish: Wish, machines: Sequence[Amounts]) -> int:
    """How many jobs the cluster holds, nobody else on it; `resources.slots` and `resources.gpus` are limits.

    StudyError when it cannot hold one.
    """
    room = [_how_often(machine, wish.bundles[0]) for machine in machines]
    if wish.strategy == "STRICT_SPREAD":
        fitting = _spread_strictly(room, len(wish.bundles))
    else:
        fitting = sum(room) // len(wish.bundles)
    if fitting == 0:
        raise StudyError(at("resources"), _too_small(wish, machines), exit_code=Exit.PREFLIGHT_REFUSED)
    if resources.gpus is not None and (gpus := sum(bundle.get("GPU", 0.0) for bundle in wish.bundles)):
        fitting = min(fitting, int(resources.gpus / gpus + _PRECISION))
        if fitting == 0:
            message = f"a job takes {wish.in_words}, the study may hold {resources.gpus}; set resources.gpus={gpus:g}"
            raise StudyError(at("resources.gpus"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    return fitting if resources.slots == "auto" else min(fitting, resources.slots)


def machines_in_words(machines: Sequence[Amounts]) -> str:
    """`2 machines with 8 GPUs and 64 CPUs in all`."""
    gpus, cpus = (sum(machine.get(name, 0.0) for machine in machines) for name in ("GPU", "CPU"))
    amounts = (f"{_count(gpus)} GPU{'s' * (gpus > 1)} and " if gpus else "") + f"{_count(cpus)} CPU{'s' * (cpus != 1)}"
    return f"{len(machines)} machine{'s' * (len(machines) != 1)} with {amounts} in all"


def _of_a_rank(resources: Resources, *, has_gpus: bool) -> dict[str, float]:
    cpu = {"CPU": resources.ray.cpus_per_rank}
    if not has_gpus:
        return cpu
    if isinstance(resources.share_gpus, int) and resources.share_gpus > 1 and resources.gpus_per_rank == 1:
        return {**cpu, "GPU": int(1 / _PRECISION) // resources.share_gpus * _PRECISION}
    return {**cpu, "GPU": float(resources.gpus_per_rank)}


def _holds(machine: Amounts, wanted: Amounts) -> bool:
    return _how_often(machine, wanted) > 0


def _how_often(machine: Amounts, wanted: Amounts) -> int:
    return min(int(machine.get(name, 0.0) / amount + _PRECISION) for name, amount in wanted.items())


def _spread_strictly(room: Sequence[int], parts: int) -> int:
    """Groups of `parts` bundles, each on another machine: the emptiest machines first."""
    left, groups = sorted(room, reverse=True), 0
    while len(left) >= parts and left[parts - 1] > 0:
        left = sorted([*(one - 1 for one in left[:parts]), *left[parts:]], reverse=True)
        groups += 1
    return groups


def _too_small(wish: Wish, machines: Sequence[Amounts]) -> str:
    has = machines_in_words(machines)
    largest = max(machines, key=lambda machine: (machine.get("GPU", 0.0), machine.get("CPU", 0.0)), default={})
    where = " on one machine" if len(wish.bundles) == 1 else ""
    if wish.strategy == "STRICT_SPREAD":
        where = f", each on another machine ({wish.ranks} machines)"
    told = f"a job of {wish.ranks} ranks needs {wish.in_words}{where}; the Ray cluster has {has}"
    if len(machines) > 1 and len(wish.bundles) == 1:
        told += f", its largest {_count(largest.get('GPU', 0.0))} GPUs and {_count(largest.get('CPU', 0.0))} CPUs"
    return f"{told}; take fewer ranks, fewer resources.ray.cpus_per_rank, or add machines"


def _count(amount: float) -> str:
    return f"{amount:g}"
