"""Commands on models and adapters as files."""

import typer

from tunestudy.cli.words import app, leave


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

    leave(merge_models(asked))
