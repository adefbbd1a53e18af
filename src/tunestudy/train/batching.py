"""How an optimiser step is cut into micro-batches on the ranks at hand."""

from dataclasses import asdict, dataclass

from tunestudy.config.errors import StudyError, at
from tunestudy.config.stage import TrainStage
from tunestudy.records.adjusted import Adjusted

TOKENS_PER_MICRO_BATCH = 8192
"""What an unset per_device_train_batch_size aims at: rows × max_length."""
DEFAULT_MICRO_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """effective = micro_batch × accumulation × world_size; rows are samples, or packs when packing."""

    micro_batch: int
    accumulation: int
    world_size: int

    @property
    def effective(self) -> int:
        return self.micro_batch * self.accumulation * self.world_size

    def at_most(self, micro_batch: int | None) -> "BatchPlan":
        """The same effective batch in micro-batches of so many rows or fewer; None changes nothing."""
        if micro_batch is None or micro_batch >= self.micro_batch:
            return self
        share = self.micro_batch * self.accumulation
        micro = _fitting_divisor(share, micro_batch)
        return BatchPlan(micro_batch=micro, accumulation=share // micro, world_size=self.world_size)

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def eval_rows(settings: TrainStage, batches: BatchPlan, adjusted: Adjusted) -> int:
    """Rows of one batch of an evaluation on one rank."""
    wanted = settings.per_device_eval_batch_size or batches.micro_batch
    return min(wanted, adjusted.per_device_eval_batch_size or wanted)


def plan_batches(settings: TrainStage, world_size: int, *, stage: str) -> BatchPlan:
    """Solve for what the settings leave open; StudyError where they contradict each other or do not divide."""
    micro, accumulation = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    if settings.effective_batch_size is None:
        return BatchPlan(
            micro_batch=micro or DEFAULT_MICRO_BATCH, accumulation=accumulation or 1, world_size=world_size
        )
    per_rank = _divided(settings.effective_batch_size, world_size, f"{world_size} ranks", stage)
    if accumulation is not None:
        quotient = _divided(per_rank, accumulation, f"{accumulation} accumulation steps × {world_size} ranks", stage)
        if micro not in (None, quotient):
            raise _wrong(stage, f"{settings.effective_batch_size} is not {micro} × {accumulation} × {world_size} ranks")
        return BatchPlan(micro_batch=quotient, accumulation=accumulation, world_size=world_size)
    if micro is None:
        micro = _fitting_divisor(per_rank, TOKENS_PER_MICRO_BATCH // settings.max_length)
    rest = _divided(per_rank, micro, f"{micro} per device × {world_size} ranks", stage)
    return BatchPlan(micro_batch=micro, accumulation=rest, world_size=world_size)


def _divided(size: int, by: int, words: str, stage: str) -> int:
    quotient, rest = divmod(size, by)
    if rest:
        lower, upper = size - rest, size - rest + by
        nearest = f"{lower}, {upper}" if lower else str(upper)
        raise _wrong(stage, f"{size} does not divide by {words}; nearest that do: {nearest}")
    return quotient


def _fitting_divisor(size: int, limit: int) -> int:
    """The largest divisor of `size` that is at most `limit` (at least 1)."""
    return max(divisor for divisor in range(1, size + 1) if size % divisor == 0 and divisor <= max(1, limit))


def _wrong(stage: str, message: str) -> StudyError:
    return StudyError(at(f"stages.{stage}.effective_batch_size"), message)
