"""`tunestudy lr-find`: sweep the learning rate of one stage, tell what it can bear, and draw it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.launch.local import find_slots
from tunestudy.launch.requests.by_worker import one_at_a_time
from tunestudy.launch.spread import command_for
from tunestudy.launch.torchrun import job_environment, last_line, start, wait_for
from tunestudy.preflight.checks import check
from tunestudy.records.atomic import read_json, remove_tree, write_json, write_text
from tunestudy.records.layout import LR_FIND, LR_PICTURE, LR_TABLE, REQUEST, JobDir
from tunestudy.records.tables import read_table
from tunestudy.report.lr_plot import lr_plot
from tunestudy.study.load import LoadedStudy
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.plan import Plan, PlannedJob, make_plan

SWEEP = "tunestudy.train.lr_find"
FEWEST_STEPS = 20


def find_rate(
    loaded: LoadedStudy, results: Path, *, variant: str, stage: str, low: float, high: float, steps: int
) -> list[str]:
    """Sweep and return the lines to print. `variant`, `stage`: see `chosen_job`.

    Trials, checkpoints and plans stay as they are; files go to `lr-find/` in the study's results.
    """
    if not 0 < low < high or steps < FEWEST_STEPS:
        raise StudyError("command line", f"the rates must rise from above 0, in at least {FEWEST_STEPS} steps")
    plan = make_plan(loaded, results)
    planned = chosen_job(plan, variant, stage)
    require_parents(plan, planned.job)
    check(loaded, [], plan.folder, starts=True)
    folder = plan.folder.lr_find(f"{planned.job.variants[0]}-{planned.job.id}")
    with one_at_a_time(plan.folder, "lr-find", folder.root.name):
        remove_tree(folder.root)
        write_json(folder.job_json, planned.job.model_copy(update={"evaluations": {}}).model_dump(mode="json"))
        write_json(folder.root / REQUEST, {"from": low, "to": high, "steps": steps})
        sweep(plan, loaded.path.parent, folder)
        return result_lines(folder, planned.job, planned.job.training.learning_rate if planned.job.training else 0.0)


def chosen_job(plan: Plan, variant: str, stage: str) -> PlannedJob:
    """The job at the study's first seed whose stage is to be swept.

    Empty `variant`: the first that trains the stage; empty `stage`: the last that the variant trains.
    """
    variants = plan.study.variants
    learns = {
        name: [each for each, settings in one.stages.items() if not settings.trains_nothing]
        for name, one in variants.items()
    }
    trained = [name for name, stages in learns.items() if stages]
    if not trained:
        raise StudyError("variants", "no variant of this study trains anything")
    having = [name for name in trained if not stage or stage in learns[name]]
    name = variant or (having or trained)[0]
    if name not in trained:
        raise StudyError("--variant", f"there is no variant `{name}` that trains; {did_you_mean(name, trained)}")
    wanted = stage or learns[name][-1]
    if wanted in variants[name].stages and wanted not in learns[name]:
        raise StudyError("--stage", f"nothing learns in `{wanted}` of `{name}`")
    if wanted not in learns[name]:
        known = dict.fromkeys(each for one in ([variant] if variant else trained) for each in learns[one])
        whose = f"`{variant}` has" if variant else "the study has"
        raise StudyError("--stage", f"{whose} no stage `{wanted}`; {did_you_mean(wanted, known)}")
    seed = plan.study.seeds[0]
    return next(
        one for one in plan.jobs if name in one.job.variants and one.job.stage == wanted and one.job.seed == seed
    )


def require_parents(plan: Plan, job: Job) -> None:
    """A stage is swept from the weights that it will start from, so these must be there."""
    missing = [one.job for one in plan.jobs if one.job.id in job.needs and one.status not in ("done", "evaluate")]
    if missing:
        names = ", ".join(f"{parent.stage}" for parent in missing)
        cure = f"tunestudy run … --only {missing[0].variants[0]}@{missing[0].stage}"
        raise StudyError(
            job.stage, f"starts from {names}, which has not run yet; first `{cure}`", exit_code=Exit.PREFLIGHT_REFUSED
        )


def sweep(plan: Plan, base: Path, folder: JobDir) -> None:
    """Run the worker to its end; StudyError with its last words when it fails. `base` is where the study file lies."""
    slot = find_slots(plan.study.resources)[0]
    command = command_for(plan.study.resources, base, SWEEP)
    process: subprocess.Popen[bytes] = start(
        command(folder, slot.ranks),
        job_environment(plan.study.env, slot.environment, attempt=1),
        folder.launch_log,
    )
    if wait_for(process) != 0 or not (folder.root / LR_FIND).exists():
        raise StudyError(f"lr-find/{folder.root.name}", f"the sweep failed: {last_line(folder.launch_log)}")


def result_lines(folder: JobDir, job: Job, configured: float) -> list[str]:
    """What the sweep found, and where its files are; draws the picture."""
    found: dict[str, Any] = read_json(folder.root / LR_FIND)
    rows = read_table(folder.root / LR_TABLE)
    pick = found["suggested"]
    lines = [f"{job.variants[0]}, stage {job.stage}: {found['steps']} steps, each at a higher rate"]
    if pick is None:
        lines.append("no rate lowered the loss: try a wider range, or look at the data")
    else:
        lines.append(
            f"suggested learning_rate: {pick:.2g}   (steepest fall of the smoothed loss; now {configured:.2g})"
        )
        lines.append(f"lowest smoothed loss {found['lowest_loss']:.4g} at {found['lowest_loss_at']:.2g}")
    if found["diverged_at"] is not None:
        lines.append(f"diverged at {found['diverged_at']:.2g}")
    if rows:
        write_text(folder.root / LR_PICTURE, lr_plot(*_columns(rows), pick))
        lines.append(f"picture: {folder.root / LR_PICTURE}   numbers: {folder.root / LR_TABLE}")
    return lines


def _columns(rows: Sequence[dict[str, str]]) -> tuple[list[float], list[float], list[float]]:
    return tuple([float(row[name]) for row in rows] for name in ("learning_rate", "loss", "smoothed"))  # type: ignore[return-value]
