"""Going on after the terminal is gone: a process of its own session whose output goes to run.log."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.logs import scrub, write_output_to
from tunestudy.study.load import LoadedStudy


def detach(work: Callable[[], Exit], log: Path) -> int:
    """Run `work` in a detached process and return its process id at once.

    Two forks: the first child leads a new session, so no hang-up of this terminal reaches it; the second is no
    session leader, so it can never acquire a terminal again.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become(work, log, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as answer:
        return int(answer.read())


def typed_again(loaded: LoadedStudy, results: Path) -> str:
    """The study and where its results go, as they are typed after a command that looks at it later."""
    return loaded.typed + (f" --results {results}" if results != Path("results") else "")


def _become(work: Callable[[], Exit], log: Path, writer: int) -> NoReturn:
    """The detached process: never returns into the caller's code."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(writer, str(os.getpid()).encode())
    os.close(writer)
    code = 1
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        write_output_to(log)
        code = work()
    except StudyError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - nobody is left to see it but the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        scrub(log)
        os._exit(code)
