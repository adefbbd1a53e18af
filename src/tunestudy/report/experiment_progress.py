"""EXPERIMENT.md, section 4: losses, key checkpoints and the use of GPUs."""

from tunestudy.report.facts import Checkpoint, JobFacts, StudyFacts, mean
from tunestudy.report.format import MISSING, listing, memory_mb, percent, sig, size
from tunestudy.report.markdown import code, escape, table
from tunestudy.report.notes import block
from tunestudy.report.overfit import finite_points, trial_fit

_MOST_ROWS = 200


def training_progress(facts: StudyFacts) -> str:
    """Section 4 of the document."""
    return "\n\n".join(
        [
            "## 4. Training progress",
            "### Loss",
            _losses(facts),
            "### Key checkpoints",
            _checkpoints(facts),
            "### GPU use",
            _gpu_use(facts),
            block("training"),
        ]
    )


def _losses(facts: StudyFacts) -> str:
    rows = []
    for job in facts.jobs:
        train = finite_points(job.train_log, "train_loss")
        fit = trial_fit(job)
        if train or fit:
            best = f"{sig(fit.best_loss)} (step {fit.best_step})" if fit else MISSING
            last = sig(fit.last_loss) if fit else MISSING
            first, final = (sig(train[0][1]), sig(train[-1][1])) if train else (MISSING, MISSING)
            rows.append((escape(listing(job.variants, 3)), escape(job.stage), job.seed, first, final, best, last))
    heads = ("variant", "stage", "seed", "first train loss", "last train loss", "best val loss", "last val loss")
    return table(heads, rows[:_MOST_ROWS], "No step was logged yet.")


def _checkpoints(facts: StudyFacts) -> str:
    rows = [_checkpoint_row(job, checkpoint) for job in facts.jobs for checkpoint in job.checkpoints]
    rows += [_final_row(job) for job in facts.jobs if job.training and not job.checkpoints]
    heads = ("variant", "stage", "seed", "step", "train loss", "val loss", "val metric", "saved")
    return table(heads, rows[:_MOST_ROWS], "None was saved yet.")


def _checkpoint_row(job: JobFacts, checkpoint: Checkpoint) -> tuple[object, ...]:
    marks = f", {listing(checkpoint.marks)}" if checkpoint.marks else ""
    saved = f"{code(checkpoint.name)} ({checkpoint.kind}, {size(checkpoint.size_bytes)}{marks})"
    return (*_who(job), checkpoint.step, *_losses_at(job, checkpoint.step), _scores(job, checkpoint.step), saved)


def _final_row(job: JobFacts) -> tuple[object, ...]:
    steps = job.training.steps or 0 if job.training else 0
    saved = "`model/`" if job.has_model else MISSING
    return (*_who(job), steps, *_losses_at(job, steps), _scores(job, steps), saved)


def _who(job: JobFacts) -> tuple[object, ...]:
    return escape(listing(job.variants, 3)), escape(job.stage), job.seed


def _losses_at(job: JobFacts, step: int) -> tuple[str, str]:
    """Training and held-out loss last logged at or before a step."""

    def last(points: list[tuple[float, float]]) -> str:
        known = [value for at, value in points if at <= step]
        return sig(known[-1]) if known else MISSING

    return last(list(finite_points(job.train_log, "train_loss"))), last(list(finite_points(job.eval_log, "eval_loss")))


def _scores(job: JobFacts, step: int) -> str:
    """Benchmarks score the published result, so only the last step has them."""
    if job.training is None or job.training.steps != step or not job.scores:
        return MISSING
    return escape(listing([f"{name} {sig(score.metrics[score.primary])}" for name, score in job.scores.items()]))


def _gpu_use(facts: StudyFacts) -> str:
    uses = [job.gpu for job in facts.jobs if job.gpu]
    if not uses:
        return "No GPU was sampled: these jobs ran on CPU, or too briefly."
    peak = max((use.peak_memory_mb for use in uses if use.peak_memory_mb is not None), default=None)
    utilisation = mean([use.mean_utilisation_percent for use in uses])
    return "\n".join(
        [
            f"- Average utilisation: {percent(None if utilisation is None else utilisation / 100)}",
            f"- Average memory: {memory_mb(mean([use.mean_memory_mb for use in uses]))}",
            f"- Peak memory: {memory_mb(peak)}",
        ]
    )
