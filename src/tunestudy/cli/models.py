"""Commands on models and adapters as files."""

from pathlib import Path
from typing import Annotated

import typer

from tunestudy.cli.words import (
    DEFAULT_RESULTS,
    Overrides,
    Results,
    Seeds,
    Tiny,
    app,
    leave,
    load_what_ran,
    refuse_choice,
    seeds_of,
)
from tunestudy.config.errors import StudyError

OnlyResults = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="VARIANT[@STAGE]", help="This variant's result, or that stage's; repeatable."),
]


@app.command(
    "merge",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def merge(context: typer.Context) -> None:
    """Merge models or adapters: --method dare_ties --base DIR --models en=DIR ko=DIR --density 0.1 --output OUT."""
    from tunestudy.launch.without_study.merge_words import sorted_out

    asked = sorted_out(context.args)
    from tunestudy.launch.without_study.merge import merge_models

    leave(merge_models(asked))


@app.command()
def push(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="The study file; or --model.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    only: OnlyResults = None,
    seeds: Seeds = None,
    model: Annotated[Path | None, typer.Option(metavar="DIR", help="Push this model's or adapter's folder.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="NAME", help="USER/NAME; of a study with {study} {variant} {seed} {stage}.")
    ] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Of a new repository.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Push to this branch.")] = None,
    download: Annotated[bool, typer.Option("--download-all", help="Compare large files by download, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go where.")] = False,
) -> None:
    """Push a study's results to the Hugging Face hub, with their cards, and compare what arrived."""
    if (study is None) == (model is None):
        raise StudyError("push", "give either a study file or --model DIR")
    from tunestudy.launch.push import Wish, push_folder, push_study

    wish = Wish(
        to=to,
        private=private,
        revision=revision,
        only=only or (),
        seeds=seeds_of(seeds),
        download_all=download,
        dry_run=dry_run,
    )
    if model is not None:
        refuse_choice("push", only, seeds)
        leave(push_folder(model, wish))
    assert study is not None
    leave(push_study(load_what_ran(study, overrides, tiny, results), results, wish))


@app.command()
def export(
    where: Annotated[Path, typer.Argument(metavar="JOB|STUDY", help="A job's folder, or the study file with --only.")],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="A new folder.  [required]")] = None,
    form: Annotated[
        str, typer.Option(help="folded (adapter), merged (whole model) or quantised (few bits).  [required]")
    ] = "",
    only: Annotated[str, typer.Option(metavar="VARIANT[@STAGE]", help="Which result of a study.")] = "",
    seed: Annotated[int | None, typer.Option(help="Of several seeds.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Default: the study's.")] = None,
    bits: Annotated[int | None, typer.Option(help="4 or 8, of --form quantised.")] = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Write a result in another form, which stock classes load, and compare its outputs."""
    from tunestudy.launch.requests.export import export as exported

    leave(exported(where, results, to=to, form=form, only=only, seed=seed, dtype=dtype, bits=bits, tiny=tiny))
