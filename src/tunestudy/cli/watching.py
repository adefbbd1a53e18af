"""Commands that look at a study, stop it, report it and clean up after it."""

from typing import Annotated

import typer

from tunestudy.cli.words import (
    DEFAULT_RESULTS,
    AsJson,
    Overrides,
    Results,
    StudyArgument,
    Tiny,
    app,
    leave,
    load_what_ran,
    print_json,
    print_lines,
)


@app.command()
def stop(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Let running jobs save and leave; `run` continues them."""
    from tunestudy.launch.stop import stop_study

    leave(stop_study(results / load_what_ran(study, overrides, tiny, results).study.study))


@app.command()
def status(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 4 if jobs failed, else with 75 if any is not done.")
    ] = False,
) -> None:
    """Show how far every job is."""
    import gc

    gc.disable()  # a fifth of the time with 10,000 jobs, and nothing here lives long enough to be collected
    from tunestudy.launch import status as telling

    state = telling.status(load_what_ran(study, overrides, tiny, results), results, brief=not as_json)
    print_json(state) if as_json else telling.print_status(state)
    gc.freeze()  # nor does the interpreter look through it once more as it leaves
    if exit_code:
        leave(telling.code_of(state))


@app.command()
def watch(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Follow a running study in a live table."""
    from tunestudy.launch import watch as watching

    leave(watching.watch(load_what_ran(study, overrides, tiny, results), results))


@app.command()
def logs(
    study: StudyArgument,
    job: Annotated[str, typer.Argument(help="A job's name or the beginning of it; default: all.")] = "",
    overrides: Overrides = None,
    results: Results = DEFAULT_RESULTS,
    tiny: Tiny = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing as the log grows.")] = False,
) -> None:
    """Print the logs of jobs."""
    from tunestudy.launch.logs import show

    if "=" in job:  # all jobs, of a study with other settings
        job, overrides = "", [job, *(overrides or [])]
    leave(show(results / load_what_ran(study, overrides, tiny, results).study.study, job, follow))


@app.command()
def sync(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Send trackers (`report_to`) what they have not been told yet."""
    from tunestudy.launch.trackers.sync import sync_study

    leave(sync_study(load_what_ran(study, overrides, tiny, results), results))


@app.command()
def report(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Write the report from what is there, and print the table."""
    from tunestudy.records.layout import StudyDir
    from tunestudy.report.build import build_report
    from tunestudy.report.stale import stale_lines

    loaded = load_what_ran(study, overrides, tiny, results)
    code = build_report(StudyDir(results / loaded.study.study), settings=loaded.study.report)
    for line in stale_lines(loaded, results):
        print(line)
    leave(code)


@app.command()
def clean(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    yes: Annotated[bool, typer.Option("--yes", help="Delete jobs that the study no longer has.")] = False,
    caches: Annotated[bool, typer.Option("--caches", help="With --yes: caches that no job reads, too.")] = False,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="With --yes: superseded ones, too.")] = False,
    leftovers: Annotated[bool, typer.Option("--leftovers", help="With --yes: what killed processes left.")] = False,
) -> None:
    """List with sizes what the study no longer has or needs; delete it with --yes."""
    from tunestudy.launch.slurm.status import queued_jobs
    from tunestudy.records.layout import StudyDir
    from tunestudy.study.clean import clean_lines

    loaded = load_what_ran(study, overrides, tiny, results)
    queued = queued_jobs(StudyDir(results / loaded.study.study))
    kinds = {"caches": caches, "checkpoints": checkpoints, "leftovers": leftovers}
    print_lines(clean_lines(loaded, results, delete=yes, queued=queued, **kinds))


@app.command()
def serve(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    host: Annotated[
        str, typer.Option("--host", metavar="NAME", help="Address to listen on; others can reach all but this one.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", help="0: any free one. Default: 8765, or the next free one.", min=0),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let everyone on this machine read it, without the token in the address.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Show a live page of the study in a browser, fed from its files."""
    from tunestudy.web import serve as serving

    folder = results / load_what_ran(study, overrides, tiny, results).study.study
    leave(serving.serve(folder, host=host, port=port, with_token=not no_token, open_page=open_page))
