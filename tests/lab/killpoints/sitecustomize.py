"""Kills a Python process at a chosen durable step. Put this folder first on PYTHONPATH and set:

KILL_EVENTS   audit events that count, with commas: tunestudy.fsync, tunestudy.manifest, tunestudy.append,
              tunestudy.publish, tunestudy.prune (see records/atomic.py), os.rename, os.remove, os.link, …
KILL_AT       SIGKILL at the n-th of them, counted from 1, before it happens; 0 or unset never kills
KILL_PATH     optional: only events one of whose arguments contains this text
KILL_PROCESS  optional: only processes whose command line contains this text (others inherit the environment)
KILL_LOG      optional: a file to which every counted event is appended, to learn how many there are
"""

import importlib.machinery
import importlib.util
import os
import signal
import sys


def _install() -> None:
    events = set(filter(None, os.environ.get("KILL_EVENTS", "").split(",")))
    if not events or os.environ.get("KILL_PROCESS", "") not in " ".join(sys.orig_argv):
        return
    at, path, log = int(os.environ.get("KILL_AT", "0")), os.environ.get("KILL_PATH", ""), os.environ.get("KILL_LOG")
    seen = 0
    busy = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen, busy
        if event not in events or busy or not any(path in str(argument) for argument in arguments):
            return
        busy = True
        seen += 1
        if log:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{event} {arguments[0]}\n")
        busy = False
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _run_the_one_behind() -> None:
    """Another sitecustomize further down the path would have been found without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    rest = [folder for folder in sys.path if os.path.abspath(folder) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_run_the_one_behind()
_install()
