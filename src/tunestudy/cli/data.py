"""Commands on data."""

from pathlib import Path
from typing import Annotated

import typer

from tunestudy.cli.words import DEFAULT_RESULTS, AsJson, Overrides, Results, StudyArgument, Tiny, app, leave, load


@app.command()
def fetch(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    dataset: Annotated[str, typer.Option(metavar="NAME", help="Only this data set.")] = "",
    limit_shards: Annotated[int | None, typer.Option(min=1, help="Images: only the first N shards of records.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again for images that failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to fetch.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Hash again what is here of the hub.")] = False,
    update: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Lock what the hub has now of this id, or of `all`; repeatable."),
    ] = None,
) -> None:
    """Fetch and lock the models, data sets and images that a study names; again: go on where it stopped."""
    from tunestudy.launch.requests.fetch_study import Wish, fetch_study

    wish = Wish(
        dataset=dataset,
        limit_shards=limit_shards,
        retry_failed=retry_failed,
        dry_run=dry_run,
        verify=verify,
        update=update or (),
    )
    leave(fetch_study(load(study, overrides, tiny), results, wish))


@app.command("data")
def data(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    dataset: Annotated[str, typer.Option(metavar="NAME", help="Only this data set; also NAME@held_out.")] = "",
    stage: Annotated[str, typer.Option(help="As this stage sees them. Default: the first that trains on them.")] = "",
    variant: Annotated[str, typer.Option(help="As this variant sees them.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="How many to show.")] = 3,
    records: Annotated[int, typer.Option(min=1, help="Tokenise and count the first N of each data set.")] = 1000,
    everything: Annotated[bool, typer.Option("--all", help="Tokenise and count all records.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page in place of printing.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show samples as the model sees them: learnt tokens in colour, masked ones dim, images counted."""
    from tunestudy.launch.requests.show_data import show_data

    leave(
        show_data(
            load(study, overrides, tiny),
            results,
            dataset=dataset,
            stage=stage,
            variant=variant,
            num_samples=samples,
            num_records=None if everything else records,
            html=html,
            as_json=as_json,
        )
    )


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
    from tunestudy.launch.requests.synth import make_synth

    given = [f"seed={seed}", f"language={language}", *(options or ())]
    leave(
        make_synth(
            out, kinds=kind or (), count=count, shape=shape, file_format=file_format, workers=workers, options=given
        )
    )
