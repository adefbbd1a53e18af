"""What commands share: the application they register with, their common arguments, and how they end."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

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
Results = Annotated[Path, typer.Option("--results", metavar="DIR", file_okay=False, help="Where results go.")]
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
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only what went wrong.")]
TrainedVariant = Annotated[str, typer.Option("--variant", help="Default: the first that trains the stage.")]
TrainedStage = Annotated[str, typer.Option("--stage", help="Default: the last that the variant trains.")]
_INDENTED_JOBS = 1000
"""JSON of more jobs comes in one line: indenting it would take longer than finding it out."""
DEFAULT_RESULTS = Path("results")


def load(study: Path, overrides: list[str] | None, tiny: bool) -> Any:
    """The study that a command is about; spellings of other programs that were understood are told."""
    from tunestudy.study.load import load_study

    loaded = load_study(study, overrides or (), tiny=tiny)
    for line in loaded.translations:
        print(f"understood {line}", file=sys.stderr)
    return loaded


def load_what_ran(study: Path, overrides: list[str] | None, tiny: bool, results: Path) -> Any:
    """`load`, for a command about what has run; tells where that was the study's other form, small or whole."""
    from tunestudy.study.tiny import other_form

    loaded = load(study, overrides, tiny)
    if loaded.has_tiny and (note := other_form(loaded.study.study, results, small=tiny)):
        print(note, file=sys.stderr)
    return loaded


def seeds_of(text: str | None) -> list[int]:
    """`1,2` → [1, 2]; none for None. Raises StudyError."""
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise StudyError("--seeds", f"must be numbers with commas between, e.g. --seeds 1,2; got `{text}`") from None


def refuse_choice(command: str, only: list[str] | None, seeds: str | None) -> None:
    """Raises StudyError where --only or --seeds was given beside --model, which is one."""
    if only or seeds:
        raise StudyError(command, "--only and --seeds choose among a study's results; --model names one by itself")


def leave(code: Exit) -> NoReturn:
    """End the command with this exit code."""
    raise typer.Exit(int(code))


def print_lines(lines: Any) -> None:
    print("\n".join(lines))


def print_json(value: Any) -> None:
    import json

    many = isinstance(value, dict) and len(value.get("jobs") or ()) > _INDENTED_JOBS
    print(json.dumps(value, indent=None if many else 1, ensure_ascii=False))
