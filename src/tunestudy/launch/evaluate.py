"""`tunestudy eval STUDY`: score what is not scored yet of results that are there, and train nothing."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.launch.carry_out import carry_out
from tunestudy.launch.outcome import is_trained
from tunestudy.launch.placing import place_for
from tunestudy.launch.prepare import prepare
from tunestudy.launch.select import select
from tunestudy.launch.slurm.run import run_by_slurm
from tunestudy.launch.table import write_table
from tunestudy.launch.torchrun import Command
from tunestudy.preflight.checks import check
from tunestudy.records.launchers import launchers
from tunestudy.records.layout import StudyDir
from tunestudy.report.build import ReportBusyError, build_report
from tunestudy.study.benchmarks import benchmark_named
from tunestudy.study.load import LoadedStudy
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.problems import raise_all
from tunestudy.study.state import is_running, missing_evaluations


def evaluate_study(
    loaded: LoadedStudy,
    results: Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    benchmarks: Sequence[str] = (),
    output: Path | None = None,
    quiet: bool = False,
    command: Command | None = None,
) -> Exit:
    """Score trained jobs and the untouched model, report, and say what was left out and why.

    `only`, `seeds`: as of `run`; `benchmarks`: names of the study's, default all.
    `output`: also write the table there. `command` starts one job (tests
    replace it). Raises StudyError when the study, the machine or the results folder cannot do it.
    """
    wanted = wanted_benchmarks(loaded.study, benchmarks)
    plan = make_plan(loaded, results)
    folder, jobs = plan.folder, [planned.job for planned in plan.jobs]
    there, left_out = sort_out(select(jobs, only, seeds), folder)
    for line in () if quiet else left_out:
        print(line, flush=True)
    if benchmarks and (others := launchers(folder)):
        cure = "wait for it, or leave --benchmarks out"
        busy = f"the study runs as {others[0]}, which wants all benchmarks; {cure}"
        raise StudyError("--benchmarks", busy, exit_code=Exit.PREFLIGHT_REFUSED)
    by_slurm = loaded.study.resources.executor == "slurm" and command is None
    place = None if by_slurm else place_for(loaded, command)
    asked = [with_benchmarks(job, wanted, folder) for job in there]
    check(loaded, [job for job in asked if any(missing_evaluations(folder.job(job.id), job))], folder)
    code = Exit.INTERRUPTED
    try:
        _write(loaded, plan, asked)
        alone = [job.model_copy(update={"parents": (), "inputs": {}}) for job in asked]  # what they need is in them
        if place is None:
            code = run_by_slurm(loaded, results, alone, detach=False, quiet=quiet, finish=lambda ended: ended)
        else:
            code = carry_out(loaded.study, alone, folder, place=place, quiet=quiet)
    finally:
        if not (by_slurm and code == Exit.INTERRUPTED):  # what is submitted goes on, with what was asked for
            _write(loaded, plan, ())
    if code == Exit.INTERRUPTED:
        return code
    try:
        met = build_report(folder, quiet=quiet)
    except ReportBusyError as busy:  # the scores are there all the same
        print(busy, file=sys.stderr)
        met = Exit.DONE
    if output is not None:
        write_table(folder, output)
    return code if left_out or only or seeds or benchmarks else max(code, met)


def wanted_benchmarks(study: Study, asked: Sequence[str]) -> tuple[str, ...]:
    """The benchmarks that are meant, all when none is named. StudyError for one that the study does not have."""
    if not study.benchmarks:
        raise StudyError("benchmarks", "the study has none; name some, e.g. `benchmarks: [chartqa, mmbench_en]`")
    known = {name: name if name in study.benchmarks else benchmark_named(name) for name in asked}
    raise_all(
        [
            StudyError("--benchmarks", f"the study has no benchmark `{name}`; {did_you_mean(name, study.benchmarks)}")
            for name, found in known.items()
            if found not in study.benchmarks
        ]
    )
    return tuple(dict.fromkeys(filter(None, known.values()))) or tuple(study.benchmarks)


def sort_out(jobs: Iterable[Job], folder: StudyDir) -> tuple[list[Job], list[str]]:
    """The jobs that can be scored, and a line for those that cannot: nothing is trained here."""
    there: list[Job] = []
    missing: dict[tuple[str, tuple[str, ...], str], int] = {}
    for job in jobs:
        place = folder.job(job.id)
        if not job.evaluations:
            continue
        if job.settings is None or is_trained(job, place):
            there.append(job)
            continue
        why = "is running" if is_running(place) else "is not trained yet"
        missing[job.stage, job.variants, why] = missing.get((job.stage, job.variants, why), 0) + 1
    lines = [
        f"left out: {stage} ({', '.join(variants[:3])}{' …' * (len(variants) > 3)}), "
        f"{count} job{'s' * (count > 1)}: {why}"
        for (stage, variants, why), count in missing.items()
    ]
    return there, [*lines, "`tunestudy run` trains what is missing"] if lines else []


def with_benchmarks(job: Job, wanted: Sequence[str], folder: StudyDir) -> Job:
    """The job with these benchmarks and those that are scored already; without the others the worker is done."""
    unscored = {name.partition(" of ")[0] for name in missing_evaluations(folder.job(job.id), job)}
    kept = {name: one for name, one in job.evaluations.items() if name in wanted or name not in unscored}
    return job.model_copy(update={"evaluations": kept})


def _write(loaded: LoadedStudy, plan: Plan, asked: Sequence[Job]) -> None:
    """The study on disk, with `asked` in place of the plan's jobs of the same names."""
    changed = {job.id: job for job in asked}
    jobs = [changed.get(planned.job.id, planned.job) for planned in plan.jobs]
    prepare(loaded.study, loaded.path.read_bytes(), jobs, plan.as_json(), plan.folder)
