"""Which hosts a job takes, and whether they can run it together: reachable, with the same packages and files.

Each host is asked over ssh, or by srun, to tell its own facts, all at once; they are held against this machine's.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunestudy.config.data import DatacompDataset, FileDataset, SynthDataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.paths import located
from tunestudy.config.resources import Resources
from tunestudy.preflight.facts import facts
from tunestudy.preflight.slurm import node_names
from tunestudy.study.hosts import Host, read_hostfile
from tunestudy.study.load import LoadedStudy

_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
SSH = ("ssh", *(word for option in _OPTIONS for word in ("-o", option)))
"""Never asks for a password: it fails instead. A host that is silent for 15 s counts as lost."""
SRUN = ("srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--unbuffered", "--quiet")
"""One process on a node, beside the step that may run tunestudy itself, with all the node has in the allocation."""
PATIENCE_S = 60.0
MARK = "tunestudy-facts "
"""Before the line that counts: shells greet, modules chatter."""

Facts = Mapping[str, Any]

CURE = "tunestudy setup-hosts"


@dataclass(frozen=True)
class Difference:
    """Why a host cannot take part as it is."""

    kind: Literal["reach", "python", "packages", "code", "files", "gpus"]
    message: str


def hosts_of(resources: Resources, base: Path) -> list[Host]:
    """The hosts of a spread job: those of the hostfile, which is relative to `base`, or of the SLURM allocation.

    Raises StudyError for a hostfile that is wrong, outside of an allocation, and where ranks do not divide by nodes.
    """
    if resources.hostfile is not None:
        return read_hostfile(located(base, resources.hostfile))
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    if nodes is None:
        cure = "srun spreads over an allocation, and this is none: salloc --nodes=2 tunestudy run …, or within sbatch"
        raise StudyError(at("resources.launcher"), cure, exit_code=Exit.PREFLIGHT_REFUSED)
    names = node_names(nodes)
    if resources.ranks % len(names):
        message = f"{resources.ranks} ranks do not divide by the allocation's {len(names)} nodes"
        raise StudyError(at("resources.ranks"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    return [Host(name, resources.ranks // len(names)) for name in names]


def on_host(launcher: str, host: str, module: str, *arguments: str) -> list[str]:
    """ssh or srun that runs one of our modules on a host, with this Python, in this folder."""
    words = [sys.executable, "-u", "-m", module, *arguments]
    if launcher == "srun":
        return [*SRUN, f"--nodelist={host}", f"--chdir={Path.cwd()}", *words]
    return [*SSH, host, f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(words)}"]


def compared(loaded: LoadedStudy) -> list[tuple[Host, list[Difference]]]:
    """What keeps each host from working as this machine does, all asked at once."""
    return [(host, found) for host, _, found in told_and_compared(loaded)]


def told_and_compared(loaded: LoadedStudy) -> list[tuple[Host, Facts | Difference, list[Difference]]]:
    """The same with what each host told. StudyError as of `hosts_of`."""
    here = facts(files_named(loaded))
    return [(host, answer, against(host, here, answer)) for host, answer in answers(loaded)]


def answers(loaded: LoadedStudy) -> list[tuple[Host, Facts | Difference]]:
    """What each host tells of itself, all asked at once."""
    launcher = loaded.study.resources.launcher
    hosts = hosts_of(loaded.study.resources, loaded.path.parent)
    files = files_named(loaded)
    with ThreadPoolExecutor(len(hosts)) as threads:
        told = list(threads.map(lambda host: ask(launcher, host, files), hosts))
    return list(zip(hosts, told, strict=True))


def against(host: Host, here: Facts, answer: Facts | Difference) -> list[Difference]:
    """A host's answer held against this machine's facts."""
    return [answer] if isinstance(answer, Difference) else list(differences(host, here, answer))


def files_named(loaded: LoadedStudy) -> list[str]:
    """Files that every host must see alike: the study, its hostfile, its data."""
    base = loaded.path.parent
    datasets = loaded.study.datasets.values()
    data = [one.path for one in datasets if isinstance(one, FileDataset | DatacompDataset) and one.path is not None]
    fonts = [one.font for one in loaded.study.datasets.values() if isinstance(one, SynthDataset) and one.font]
    hostfile = loaded.study.resources.hostfile
    named = [loaded.path.name, *([hostfile] if hostfile else []), *data, *fonts]
    return [str(located(base, name).resolve()) for name in named]


def ask(launcher: str, host: Host, files: Sequence[str]) -> Facts | Difference:
    """The host's facts, or what kept it from telling them. Added: `ahead_s`, its clock's lead over this machine's."""
    command = on_host(launcher, host.name, "tunestudy.preflight.facts", *files)
    began = time.time()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",  # shells greet in whatever encoding
            check=False,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Difference("reach", f"did not answer within {PATIENCE_S:.0f} s; try `{launcher} … true` there")
    except FileNotFoundError:
        return Difference("reach", f"there is no {launcher} on this machine")
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is not None:
        found: dict[str, Any] = json.loads(line.removeprefix(MARK))
        return {**found, "ahead_s": found.get("clock", time.time()) - (began + time.time()) / 2}
    said = (done.stderr.strip().splitlines() or ["no word"])[-1]
    if done.returncode == 255 and launcher == "ssh":
        message = f"cannot be reached by ssh: {said}; `ssh {host.name} true` must work without a password"
        return Difference("reach", message)
    where = f"has no {sys.executable} with tunestudy in {Path.cwd()}: {said}"
    return Difference("python", f"{where}; install the same there, under the same path ({CURE})")


def differences(host: Host, here: Facts, there: Facts) -> Iterator[Difference]:
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
        told = f"has other packages: {', '.join(differing)}; make them equal, or results depend on the host"
        yield Difference("packages", f"{told} ({CURE})")
    if here["code"] != there["code"]:
        yield Difference("code", f"has another tunestudy of the same version; make them equal ({CURE})")
    for path, seen in here["files"].items():
        if there["files"].get(path) != seen:
            state = "does not see" if there["files"].get(path) is None else "sees another"
            yield Difference("files", f"{state} {path}; all hosts must share the study's folder ({CURE})")
    if there["gpus"] and host.slots > there["gpus"]:
        yield Difference("gpus", f"has {there['gpus']} GPUs, the hostfile gives it {host.slots} slots")
