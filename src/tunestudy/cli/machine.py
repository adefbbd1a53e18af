"""Commands on machines: their packages, hosts, network."""

from pathlib import Path
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
    load,
    print_json,
    print_lines,
)


@app.command()
def check(
    study: StudyArgument,
    overrides: Overrides = None,
    tiny: Tiny = False,
    results: Results = DEFAULT_RESULTS,
    as_json: AsJson = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also import torch and give every GPU a little work.")] = False,
) -> None:
    """Look at all that a study needs, in seconds: packages, GPUs, disk, data, hosts, tokens; code 3 if it lacks."""
    from tunestudy.launch.check import check_study

    leave(check_study(load(study, overrides, tiny), results, deep=deep, as_json=as_json))


@app.command()
def netcheck(
    study: StudyArgument, overrides: Overrides = None, tiny: Tiny = False, results: Results = DEFAULT_RESULTS
) -> None:
    """Measure how fast the ranks of a job talk to each other, and what that means for a step."""
    from tunestudy.launch.requests.netcheck import check_network

    print_lines(check_network(load(study, overrides, tiny), results))


@app.command("setup-hosts")
def setup_hosts(
    study: StudyArgument,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Run the script, too.")] = False,
) -> None:
    """Print the script that gives all hosts of a hostfile the same packages, code and files; run it with --yes."""
    from tunestudy.launch.setup_hosts import set_up

    print_lines(set_up(load(study, overrides, False), carry_out=yes))


@app.command()
def env(
    folder: Annotated[Path, typer.Argument(help="A folder whose git state is wanted.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Show this machine, its packages and its git state, as jobs record them."""
    from tunestudy.records.snapshot import snapshot

    facts = snapshot(folder)
    print_json(facts) if as_json else print_lines(f"{key}: {value}" for key, value in facts.items())
