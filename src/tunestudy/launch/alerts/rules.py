"""What is wrong with a job, by its figures alone."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tunestudy.config.alerts import Band, Expected
from tunestudy.config.job import Job

LEAST_STEPS = 3
"""Steps whose times must be known before a job can be called stalled, and rows before a rank can be called slow."""
RECENT = 50


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something that a person should look at."""

    job: str
    """Empty: about the study."""
    kind: str
    message: str
    step: int | None = None
    cause: str = ""
    """One alert for each."""
    stop: bool = False
    """Whether the job is to be stopped for it."""


def high_loss(job: Job, step: int, loss: float | None, vocabulary: int | None, margin: float | None) -> Alert | None:
    """A loss far above that of guessing blindly."""
    if loss is None or vocabulary is None or margin is None or not loss > math.log(vocabulary) + margin:
        return None
    blind = math.log(vocabulary)
    why = "targets or labels may be wrong, or the model may come apart"
    guessing = f"guessing blindly among {vocabulary:,} tokens gives {blind:.2f}"
    told = f"train_loss is {loss:.2f} at step {step}; {guessing}: {why}"
    return Alert(job=job.id, kind="high_loss", message=told, step=step)


def outside_bands(
    job: Job, expected: Expected, row: Mapping[str, float | None], step: int, before: int
) -> Iterator[Alert]:
    """Figures of one row that the user did not expect. `before`: the step of the row before, -1 for none."""
    for metric, bands in expected.items():
        value = row.get(metric)
        for band in bands if value is not None else ():
            assert value is not None
            if concerns(band, job) and _is_due(band, step, before) and not band.holds(value):
                told = f"{metric} is {value:.4g} at step {step}, expected {band.in_words}"
                yield Alert(
                    job=job.id,
                    kind="expect",
                    message=told,
                    step=step,
                    cause=f"{metric} {band.in_words}",
                    stop=band.stop,
                )


def outside_benchmark(job: Job, expected: Expected, benchmark: str, score: float) -> Iterator[Alert]:
    """The same for a score."""
    for variant in (*job.variants, "*"):
        name = f"{variant}.{benchmark}"
        for band in expected.get(name, ()):
            if concerns(band, job) and not band.holds(score):
                told = f"{name} is {score:.4g}, expected {band.in_words}"
                yield Alert(job=job.id, kind="expect", message=told, cause=f"{name} {band.in_words}")


def concerns(band: Band, job: Job) -> bool:
    """Whether a band is about the job."""
    by_variant = not band.variants or bool(set(band.variants) & set(job.variants))
    return by_variant and (not band.stages or job.stage in band.stages)


def _is_due(band: Band, step: int, before: int) -> bool:
    if band.at_step is not None:
        return before < band.at_step <= step
    return (band.from_step or 0) <= step <= (math.inf if band.until_step is None else band.until_step)


def slow_rank(
    job: Job, seconds: Mapping[int, Sequence[float]], hosts: Mapping[int, str], factor: float
) -> Alert | None:
    """A rank whose own work takes `factor` times as long as the others'. `seconds`: of recent rows, by rank."""
    if len(seconds) < 2 or any(len(rows) < LEAST_STEPS for rows in seconds.values()):
        return None
    typical = {rank: statistics.median(rows) for rank, rows in seconds.items()}
    slowest = max(typical, key=lambda rank: typical[rank])
    others = statistics.median(value for rank, value in typical.items() if rank != slowest)
    if others <= 0 or typical[slowest] < factor * others or min(seconds[slowest]) < others:
        return None
    where = f"rank {slowest} on {hosts.get(slowest, 'an unknown host')}"
    told = (
        f"{where} needs {typical[slowest]:.3g} s for its own part of a step, the others {others:.3g} s: all wait for it"
    )
    return Alert(job=job.id, kind="slow_rank", message=told, cause=f"rank {slowest}")


@dataclass
class Pace:
    """When steps were seen to be taken. Clocks of other machines are not asked."""

    step: int | None = None
    since: float = 0.0
    times: tuple[float, ...] = ()
    """Seconds per step, the latest ones."""

    def see(self, step: int, now: float) -> None:
        """`step` stands in the job's last sign of life."""
        if self.step is not None and step > self.step:
            self.times = (*self.times, (now - self.since) / (step - self.step))[-RECENT:]
        if step != self.step:
            self.step, self.since = step, now

    def rest(self, now: float) -> None:
        """Something else than training went on until now."""
        self.since = now

    def stalled(self, job: Job, now: float, *, factor: float, least_s: float) -> Alert | None:
        """Whether the next step takes much too long."""
        if self.step is None or len(self.times) < LEAST_STEPS:
            return None
        typical, waited = statistics.median(self.times), now - self.since
        if waited <= max(factor * typical, least_s):
            return None
        told = f"no step since step {self.step} for {waited:.0f} s; steps took {typical:.3g} s"
        return Alert(job=job.id, kind="stalled", message=told, step=self.step, cause=f"step {self.step}")


def little_disk(free: int, total: int, next_bytes: int, share: float) -> Alert | None:
    """Whether the file system of the results is about to be full."""
    if free < next_bytes:
        told = f"the next checkpoint needs about {next_bytes / 1e9:.2g} GB, {free / 1e9:.2g} GB are free"
    elif free < share * total:
        told = f"{free / 1e9:.3g} GB are free, {free / total:.1%} of the file system with the results"
    else:
        return None
    return Alert(job="", kind="disk", message=f"{told}; make room (`tunestudy clean` lists what can go)")
