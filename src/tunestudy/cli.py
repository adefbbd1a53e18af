"""The command line. No logic here: each command is one call into a room, imported only when it is used."""

import io
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tunestudy import __version__
from tunestudy.config.errors import Exit, StudyError

app = typer.Typer(
    help="One study file in, one defensible table out: fine-tuning studies on language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings to change, e.g. seeds=[1].", show_default=False),
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where results go.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="VARIANT[@STAGE]", help="Only this variant (up to that stage); repeatable."),
]
Tiny = Annotated[bool, typer.Option("--tiny", help="The small form that the file's `tiny:` describes.")]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="1,2", help="Only these seeds of the study.")]
Estimate = Annotated[
    bool, typer.Option("--estimate", help="First time a few real steps of every stage that has no evidence yet.")
]
DEFAULT_RESULTS = Path("results")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, take every default.")] = False,
) -> None:
    """Ask a few questions and write a study file to start from."""
    from tunestudy.study.init import write_new_study

    write_new_study(path, ask=not yes)


@app.command()
def validate(study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False) -> None:
    """Check a study file and say what was understood."""
    from tunestudy.study.show import validation_lines

    _print(validation_lines(_load(study, overrides, tiny)))


@app.command()
def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from tunestudy.study.schema import study_schema

    _print_json(study_schema())


@app.command()
def plan(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
    estimate: Estimate = False,
) -> None:
    """Show the jobs of a study: what is shared, what is done, what an edit changed, how long it takes."""
    from tunestudy.launch.estimate import show_plan

    show_plan(_load(study, overrides, tiny), results, estimate=estimate, as_json=as_json)


@app.command()
def run(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    only: Only = None,
    seeds: Seeds = None,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background; `watch` shows it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what went wrong.")] = False,
    estimate: Estimate = False,
) -> None:
    """Do what is missing and nothing twice: the first start and every resume."""
    from tunestudy.launch.run import run_study

    loaded = _load(study, overrides, tiny)
    code = run_study(
        loaded, results, only=only or (), seeds=_seeds(seeds), detach=detach, quiet=quiet, estimate=estimate
    )
    _leave(code)


@app.command("eval")
def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY] [KEY.PATH=VALUE]... [BENCHMARK]...", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(help="In place of a study: a folder, an adapter, a checkpoint, a hub id.")] = "",
    benchmarks: Annotated[
        list[str] | None, typer.Option(metavar="A B …", help="Only these; without a study file all that are wanted.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="CSV", help="Also write the table there.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --model: records in place of the hub's.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", "--batch-size", help="With --model.")] = None,
    num_gpus: Annotated[int, typer.Option("--num_gpus", "--num-gpus", min=1, help="With --model: ranks.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="With --model: at most that many questions.")] = None,
    compat: Annotated[str | None, typer.Option(help="With --model: official, lmms-eval or strict.")] = None,
    dtype: Annotated[str | None, typer.Option(help="With --model: float32, bfloat16 or float16.")] = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    only: Only = None,
    seeds: Seeds = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what went wrong.")] = False,
) -> None:
    """Score what is trained and not scored yet; or a model by itself: --model PATH --benchmarks A B --output CSV."""
    from tunestudy.launch import eval_words

    options = {"data": data, "batch_size": batch_size, "limit": limit, "compat": compat, "dtype": dtype}
    asked = eval_words.sorted_out(words or (), benchmarks or (), model=model, options=options, num_gpus=num_gpus)
    if asked.study is None:
        from tunestudy.launch.evaluate_model import evaluate_model

        _leave(evaluate_model(model, asked.wanted(tiny=tiny), results, output=output, quiet=quiet))
    from tunestudy.launch.evaluate import evaluate_study

    loaded = _load(asked.study, list(asked.overrides), tiny)
    named = asked.benchmarks
    _leave(
        evaluate_study(
            loaded, results, only=only or (), seeds=_seeds(seeds), benchmarks=named, output=output, quiet=quiet
        )
    )


@app.command(
    "merge",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def merge(context: typer.Context) -> None:
    """Merge models or adapters: --method dare_ties --base DIR --models en=DIR ko=DIR --density 0.1 --output OUT."""
    from tunestudy.launch.merge_words import sorted_out

    asked = sorted_out(context.args)
    from tunestudy.launch.merge import merge_models

    _leave(merge_models(asked))


@app.command("lr-find")
def lr_find(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    variant: Annotated[str, typer.Option(help="Default: the first that trains.")] = "",
    stage: Annotated[str, typer.Option(help="Default: the variant's last.")] = "",
    low: Annotated[float, typer.Option("--from", help="First learning rate.")] = 1e-7,
    high: Annotated[float, typer.Option("--to", help="Last learning rate.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps of the sweep.")] = 100,
) -> None:
    """Sweep the learning rate of one stage and suggest one; nothing of the study is touched."""
    from tunestudy.launch.lr_find import find_rate

    _print(
        find_rate(_load(study, overrides, tiny), results, variant=variant, stage=stage, low=low, high=high, steps=steps)
    )


@app.command()
def fetch(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    dataset: Annotated[str, typer.Option(metavar="NAME", help="Only this data set.")] = "",
    limit_shards: Annotated[int | None, typer.Option(min=1, help="Only the first N shards of records.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again for images that failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to fetch.")] = False,
) -> None:
    """Fetch the images that data sets name by URL; again: go on where it stopped."""
    from tunestudy.launch.fetch import fetch_images

    loaded = _load(study, overrides, tiny)
    _leave(
        fetch_images(
            loaded, results, dataset=dataset, limit_shards=limit_shards, retry_failed=retry_failed, dry_run=dry_run
        )
    )


@app.command()
def netcheck(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Measure how fast the ranks of a job talk to each other, and what that means for a step."""
    from tunestudy.launch.netcheck import check_network

    _print(check_network(_load(study, overrides, tiny), results))


@app.command("setup-hosts")
def setup_hosts(
    study: StudyArgument,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run the script, too.")] = False,
) -> None:
    """Print the script that gives all hosts of a hostfile the same packages, code and files; run it with --yes."""
    from tunestudy.launch.setup_hosts import set_up

    _print(set_up(_load(study, overrides, False), carry_out=yes))


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.", show_default=False)],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Other options of `type: synth`, e.g. image_size=224."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="chart, document, table or shapes; repeatable. Default: all that fit.")
    ] = None,
    count: Annotated[int, typer.Option(help="Records in all.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed gives another set.")] = 0,
    language: Annotated[str, typer.Option(help="en, ko or both.")] = "en",
    shape: Annotated[str, typer.Option(help="Columns: plain, chartqa, docvqa, wtq, tabfact or kdtc.")] = "plain",
    file_format: Annotated[str, typer.Option("--format", help="jsonl or parquet.")] = "jsonl",
    workers: Annotated[int, typer.Option(help="Processes that draw.")] = 1,
) -> None:
    """Draw images with questions and exact answers into a folder: charts, documents, tables, shapes."""
    from tunestudy.launch.synth import make_synth

    given = [f"seed={seed}", f"language={language}", *(options or ())]
    _leave(
        make_synth(
            out, kinds=kind or (), count=count, shape=shape, file_format=file_format, workers=workers, options=given
        )
    )


@app.command("commands")
def commands(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    only: Only = None,
    seeds: Seeds = None,
) -> None:
    """Print what `run` would start, a line per host and job, for terminals of your own."""
    from tunestudy.launch.terminals import command_lines

    _print(command_lines(_load(study, overrides, tiny), results, only=only or (), seeds=_seeds(seeds)))


@app.command()
def stop(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Let running jobs save and leave; `run` continues them."""
    from tunestudy.launch.control import stop_study

    _leave(stop_study(results / _load(study, overrides, tiny).study.study))


@app.command()
def status(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
) -> None:
    """Show how far every job is."""
    from tunestudy.launch import control

    state = control.status(_load(study, overrides, tiny), results)
    _print_json(state) if as_json else control.print_status(state)


@app.command()
def watch(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Follow a running study in a live table."""
    from tunestudy.launch import watch as watching

    _leave(watching.watch(_load(study, overrides, tiny), results))


@app.command()
def logs(
    study: StudyArgument,
    job: Annotated[str, typer.Argument(help="A job's name or the beginning of it; default: all.")] = "",
    results: Results = DEFAULT_RESULTS,
    tiny: Tiny = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing as the log grows.")] = False,
) -> None:
    """Print the logs of jobs."""
    from tunestudy.launch.logs import show

    _leave(show(results / _load(study, None, tiny).study.study, job, follow))


@app.command()
def report(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Write the report from what is there, and print the table."""
    from tunestudy.records.layout import StudyDir
    from tunestudy.report.build import build_report

    _leave(build_report(StudyDir(results / _load(study, overrides, tiny).study.study)))


@app.command()
def clean(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them.")] = False,
) -> None:
    """List jobs that the study no longer has, with sizes; delete them with --yes."""
    from tunestudy.study.clean import clean_lines

    _print(clean_lines(_load(study, overrides, tiny), results, delete=yes))


@app.command()
def env(
    folder: Annotated[Path, typer.Argument(help="A folder whose git state is wanted.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Show this machine, its packages and its git state, as jobs record them."""
    from tunestudy.records.snapshot import snapshot

    facts = snapshot(folder)
    _print_json(facts) if as_json else _print(f"{key}: {value}" for key, value in facts.items())


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tunestudy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """The console script: StudyErrors are told in words, anything else is a bug and says so."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × or – shows ? in their place
    debug = "--debug" in sys.argv[1:]
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except StudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        print(f"a bug in tunestudy: {type(error).__name__}: {error}", file=sys.stderr)
        print("the same command with --debug shows where; please report it", file=sys.stderr)
        sys.exit(1)


def _load(study: Path, overrides: list[str] | None, tiny: bool) -> Any:
    from tunestudy.study.load import load_study

    loaded = load_study(study, overrides or (), tiny=tiny)
    for line in loaded.translations:
        print(f"understood {line}", file=sys.stderr)
    return loaded


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise StudyError("--seeds", f"must be numbers with commas between, e.g. --seeds 1,2; got `{text}`") from None


def _leave(code: Exit) -> NoReturn:
    raise typer.Exit(int(code))


def _print(lines: Any) -> None:
    print("\n".join(lines))


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
