"""The command line. No logic here: each command is one call into a room, imported only when it is used.

Commands register with `words.app` as their module is imported, which is the order in which the help lists them.
"""

import errno
import signal
import sys
from typing import Annotated

import typer

from tunestudy import __version__

from tunestudy.cli import studies  # isort: skip
from tunestudy.cli import watching  # isort: skip
from tunestudy.cli import models  # isort: skip
from tunestudy.cli import data  # isort: skip
from tunestudy.cli import machine  # isort: skip
from tunestudy.cli.words import app
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.streams import go_on_unheard, last_words, may_close

__all__ = ["app", "data", "machine", "main", "models", "studies", "watching"]


_DISK = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)
"""What a disk or its rights refuse, or a file where a folder belongs, can meet any command; none of it is a bug."""

_LOOKS = {"validate", "schema", "plan", "commands", "status", "watch", "logs", "data", "check", "env"}
"""Commands that only print: they end with their reader (`| head`), and all others carry on what they do."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tunestudy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand not in _LOOKS:
        go_on_unheard()


def main() -> None:
    """The console script: StudyErrors are told in words, anything else is a bug and says so."""
    may_close()
    debug = "--debug" in sys.argv[1:]
    if debug:
        sys.argv.remove("--debug")
    try:
        _app_to_its_end()
    except StudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in _DISK:
            print(f"{error.filename or 'a file'}: cannot be written or read: {error.strerror}", file=sys.stderr)
            sys.exit(Exit.PREFLIGHT_REFUSED)
        print(f"a bug in tunestudy: {type(error).__name__}: {error}", file=sys.stderr)
        print("the same command with --debug shows where; please report it", file=sys.stderr)
        sys.exit(1)


_INTERRUPTED_BY_SHELLS = 128 + signal.SIGINT


def _app_to_its_end() -> None:
    try:
        app()
    except SystemExit as error:
        if error.code == _INTERRUPTED_BY_SHELLS:  # Typer's code for Ctrl-C
            raise KeyboardInterrupt from error
        raise
    finally:
        last_words()
