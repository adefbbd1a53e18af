"""GPU-hours of submissions to SLURM: by our own journal, and by the cluster's accounting where it has one."""

from dataclasses import dataclass

from tunestudy.report.facts import StudyFacts
from tunestudy.report.values import mapping, number


@dataclass(frozen=True, kw_only=True)
class GpuHours:
    """What was held, idle or not."""

    submissions: int
    ours_h: float
    """From the start of each submission's loop to its end."""
    without_end: int
    """Lives that ended without a word, such as those of a lost node: not in `ours_h`."""
    told_h: float | None
    """By sacct; None where there is none."""

    @property
    def in_words(self) -> str:
        lost = f", {self.without_end} lives without an end not counted" if self.without_end else ""
        told = f"; {self.told_h:.2f} by sacct" if self.told_h is not None else ""
        several = "s" * (self.submissions != 1)
        return f"{self.ours_h:.2f} GPU-hours in {self.submissions} submission{several} to SLURM{lost}{told}"


def gpu_hours(facts: StudyFacts) -> GpuHours | None:
    """None for a study that SLURM had no part in."""
    starts = {_life(event): event for event in facts.events if event.get("event") == "slurm_started"}
    if not starts:
        return None
    ends = {_life(event): event for event in facts.events if event.get("event") == "slurm_left"}
    ours = sum((ends[life]["t"] - begin["t"]) * begin["gpus"] for life, begin in starts.items() if life in ends)
    told = [mapping(life) for lives in facts.accounting.values() if isinstance(lives, list) for life in lives]
    seconds = sum((number(life.get("elapsed_s")) or 0.0) * (number(life.get("gpus")) or 0.0) for life in told)
    return GpuHours(
        submissions=len({slurm_id for slurm_id, _ in starts}),
        ours_h=ours / 3600,
        without_end=len(starts) - len(starts.keys() & ends.keys()),
        told_h=seconds / 3600 if told else None,
    )


def _life(event: dict[str, object]) -> tuple[object, object]:
    return event.get("slurm_id"), event.get("restart")
