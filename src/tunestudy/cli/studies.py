"""Commands that plan a study and carry it out."""

from pathlib import Path
from typing import Annotated

import typer

from tunestudy.cli.words import (
    DEFAULT_RESULTS,
    AsJson,
    Estimate,
    Only,
    Overrides,
    Quiet,
    Results,
    Seeds,
    StudyArgument,
    Tiny,
    TrainedStage,
    TrainedVariant,
    app,
    leave,
    load,
    load_what_ran,
    print_json,
    print_lines,
    refuse_choice,
    seeds_of,
)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("study.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, take every default.")] = False,
) -> None:
    """Ask a few questions and write a study file to start from."""
    from tunestudy.study.init import write_new_study

    write_new_study(path, ask=not yes)


@app.command("import-config")
def import_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML, JSON or a training script.", show_default=False)],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]...", help="More of that program's, after --.")
    ] = None,
    program: Annotated[
        str | None, typer.Option("--from", metavar="PROGRAM", help="llamafactory, ms-swift, axolotl or trl.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="STUDY", help="The file to write.")] = Path(
        "study.yaml"
    ),
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="GPUs that it was meant for.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 if any key is impossible.")] = False,
) -> None:
    """Turn a configuration of LLaMA-Factory, ms-swift, axolotl or TRL into a study file."""
    from tunestudy.study.importing.finish import import_config as imported

    leave(imported(file, arguments or [], program=program, output=output, gpus=gpus, force=force, strict=strict))


@app.command()
def validate(study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False) -> None:
    """Check a study file and say what was understood."""
    from tunestudy.study.show import validation_lines

    print_lines(validation_lines(load(study, overrides, tiny)))


@app.command()
def schema() -> None:
    """Print the JSON schema of study files, for editors."""
    from tunestudy.study.schema import study_schema

    print_json(study_schema())


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
    from tunestudy.launch.estimates.tell import show_plan

    show_plan(load(study, overrides, tiny), results, estimate=estimate, as_json=as_json)


@app.command()
def run(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    only: Only = None,
    seeds: Seeds = None,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background; `watch` shows it.")] = False,
    quiet: Quiet = False,
    estimate: Estimate = False,
) -> None:
    """Do what is missing and nothing twice: the first start and every resume."""
    from tunestudy.launch.run import run_study

    loaded = load(study, overrides, tiny)
    code = run_study(
        loaded, results, only=only or (), seeds=seeds_of(seeds), detach=detach, quiet=quiet, estimate=estimate
    )
    leave(code)


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
    quiet: Quiet = False,
) -> None:
    """Score what is trained and not scored yet; or a model by itself: --model PATH --benchmarks A B --output CSV."""
    from tunestudy.launch.without_study import eval_words

    options = {"data": data, "batch_size": batch_size, "limit": limit, "compat": compat, "dtype": dtype}
    asked = eval_words.sorted_out(words or (), benchmarks or (), model=model, options=options, num_gpus=num_gpus)
    if asked.study is None:
        refuse_choice("eval", only, seeds)
        from tunestudy.launch.without_study.evaluate_model import evaluate_model

        leave(evaluate_model(model, asked.wanted(tiny=tiny), results, output=output, quiet=quiet))
    from tunestudy.launch.evaluate import evaluate_study

    loaded = load_what_ran(asked.study, list(asked.overrides), tiny, results)
    named = asked.benchmarks
    leave(
        evaluate_study(
            loaded, results, only=only or (), seeds=seeds_of(seeds), benchmarks=named, output=output, quiet=quiet
        )
    )


@app.command("lr-find")
def lr_find(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    variant: TrainedVariant = "",
    stage: TrainedStage = "",
    low: Annotated[float, typer.Option("--from", help="First learning rate.")] = 1e-7,
    high: Annotated[float, typer.Option("--to", help="Last learning rate.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps of the sweep.")] = 100,
) -> None:
    """Sweep the learning rate of one stage and suggest one; nothing of the study is touched."""
    from tunestudy.launch.requests.lr_find import find_rate

    print_lines(
        find_rate(load(study, overrides, tiny), results, variant=variant, stage=stage, low=low, high=high, steps=steps)
    )


@app.command("tune-batch")
def tune_batch(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    variant: TrainedVariant = "",
    stage: TrainedStage = "",
    minutes: Annotated[float, typer.Option(help="No new try once this time would be over.")] = 5.0,
    memory_gb: Annotated[
        float | None, typer.Option("--memory-gb", help="As if the card (or a CPU rank) had this much memory.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is known.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try micro-batches, activation checkpointing and workers at the same effective batch: what fits, how fast."""
    from tunestudy.launch.requests.tune_batch import tune_batch as tune

    loaded = load(study, overrides, tiny)
    tune(
        loaded,
        results,
        variant=variant,
        stage=stage,
        minutes=minutes,
        memory_gb=memory_gb,
        fresh=fresh,
        print_json=as_json,
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

    print_lines(command_lines(load(study, overrides, tiny), results, only=only or (), seeds=seeds_of(seeds)))
