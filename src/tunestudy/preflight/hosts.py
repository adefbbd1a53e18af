"""Whether the hosts of a hostfile can run a job together: reachable, with the same packages, seeing the same files.

Each host is asked over ssh to tell its own facts, all at once; they are held against this machine's.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tunestudy.config.data import FileDataset
from tunestudy.config.errors import StudyError
from tunestudy.preflight.facts import facts
from tunestudy.study.hosts import Host, read_hostfile
from tunestudy.study.load import LoadedStudy

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
"""Never asks for a password: it fails instead."""
PATIENCE_S = 60.0
MARK = "tunestudy-facts "
"""Before the line that counts: shells greet, modules chatter."""

Facts = Mapping[str, Any]


def on_host(host: str, module: str, *arguments: str) -> list[str]:
    """ssh that runs one of our modules on a host, with this Python, in this folder."""
    words = shlex.join([sys.executable, "-u", "-m", module, *arguments])
    return [*SSH, host, f"cd {shlex.quote(str(Path.cwd()))} && exec {words}"]


def host_problems(loaded: LoadedStudy) -> Iterator[StudyError]:
    """Everything that keeps the hosts from working together, in the hostfile's order."""
    if loaded.study.resources.hostfile is None:
        return
    hosts = read_hostfile(loaded.path.parent / loaded.study.resources.hostfile)
    files = files_named(loaded)
    here = facts(files)
    with ThreadPoolExecutor(len(hosts)) as threads:
        told = list(threads.map(lambda host: ask(host, files), hosts))
    for host, answer in zip(hosts, told, strict=True):
        messages = [answer] if isinstance(answer, str) else differences(host, here, answer)
        yield from (StudyError(f"host {host.name}", message) for message in messages)


def files_named(loaded: LoadedStudy) -> list[str]:
    """Files that every host must see alike: the study, its hostfile, its data."""
    base = loaded.path.parent
    data = [one.path for one in loaded.study.datasets.values() if isinstance(one, FileDataset)]
    named = [loaded.path.name, str(loaded.study.resources.hostfile), *data]
    return [str((base / name).resolve()) for name in named]


def ask(host: Host, files: Sequence[str]) -> Facts | str:
    """The host's facts, or what kept it from telling them."""
    command = on_host(host.name, "tunestudy.preflight.facts", *files)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"did not answer within {PATIENCE_S:.0f} s; try `ssh {host.name} true`"
    except FileNotFoundError:
        return "there is no ssh on this machine"
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is not None:
        found: Facts = json.loads(line.removeprefix(MARK))
        return found
    said = (done.stderr.strip().splitlines() or ["no word"])[-1]
    if done.returncode == 255:
        return f"cannot be reached by ssh: {said}; `ssh {host.name} true` must work without a password"
    return (
        f"has no {sys.executable} with tunestudy in {Path.cwd()}: {said}; install the same there, under the same path"
    )


def differences(host: Host, here: Facts, there: Facts) -> Iterator[str]:
    """What differs between this machine and a host in a way that matters."""
    names = sorted({*here["packages"], *there["packages"]})
    differing = [
        f"{name} {there['packages'].get(name, 'missing')} (here {here['packages'].get(name, 'missing')})"
        for name in names
        if here["packages"].get(name) != there["packages"].get(name)
    ]
    if here["python"] != there["python"]:
        differing.insert(0, f"Python {there['python']} (here {here['python']})")
    if differing:
        yield f"has other packages: {', '.join(differing)}; make them equal, or results depend on the host"
    for path, seen in here["files"].items():
        if there["files"].get(path) != seen:
            state = "does not see" if there["files"].get(path) is None else "sees another"
            yield f"{state} {path}; all hosts must share the study's folder"
    if there["gpus"] and host.slots > there["gpus"]:
        yield f"has {there['gpus']} GPUs, the hostfile gives it {host.slots} slots"
