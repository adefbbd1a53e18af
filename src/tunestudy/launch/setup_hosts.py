"""`tunestudy setup-hosts`: the same Python, packages, code and files on every host of a hostfile.

Prints the shell lines that make each host equal to this machine, for what differs and nothing else. With `--yes` they
are run, and the hosts looked at again. Whatever is equal already costs nothing: running it twice changes nothing.
"""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.preflight.facts import SOURCE
from tunestudy.preflight.hosts import SSH, Difference, compared, files_named
from tunestudy.study.load import LoadedStudy

PIP = "-m pip --disable-pip-version-check"


def set_up(loaded: LoadedStudy, *, carry_out: bool) -> list[str]:
    """The lines to print: a script, or with `carry_out` what became of it.

    Raises StudyError without a hostfile, and for a host that cannot be reached, lacks GPUs or is not equal afterwards.
    """
    if loaded.study.resources.hostfile is None:
        raise StudyError(at("resources.hostfile"), "is not set: there are no hosts to set up")
    found = compared(loaded)
    hopeless = [(host.name, one) for host, of in found for one in of if one.kind in ("reach", "gpus")]
    if hopeless:
        name, difference = hopeless[0]
        raise StudyError(f"host {name}", difference.message, exit_code=Exit.PREFLIGHT_REFUSED)
    lines: list[str] = []
    for host, differing in found:
        script = list(script_for(host.name, differing, files_named(loaded)))
        lines += [f"# {host.name}: {one.message}" for one in differing] or [f"# {host.name}: nothing to do"]
        lines += script
        if carry_out and script:
            run(host.name, script)
    if carry_out and any(differing for _, differing in found):
        for host, differing in compared(loaded):
            if differing:
                raise StudyError(f"host {host.name}", f"still {differing[0].message}", exit_code=Exit.PREFLIGHT_REFUSED)
        lines.append("# all hosts are equal now")
    return lines


def script_for(host: str, differing: Sequence[Difference], files: Sequence[str]) -> Iterator[str]:
    """Shell lines, to be run here, that take the differences away."""
    kinds = {one.kind for one in differing}
    python, version = shlex.quote(sys.executable), f"python{sys.version_info.major}.{sys.version_info.minor}"
    if "python" in kinds:
        folder = shlex.quote(sys.prefix)
        yield there(host, f"test -x {python} || {version} -m venv {folder}")
        yield there(host, f"mkdir -p {shlex.quote(str(Path.cwd()))}")
    project = SOURCE.parents[1]
    is_checkout = (project / "pyproject.toml").is_file()
    if is_checkout and kinds & {"python", "code"}:
        yield copy(host, project, ["pyproject.toml", "README.md", str(SOURCE.relative_to(project).parts[0])])
    if kinds & {"python", "packages"}:
        yield from packages(host, python)
        if is_checkout:
            yield there(host, f"{python} {PIP} install --quiet --no-deps -e {shlex.quote(str(project))}")
    if "code" in kinds and not is_checkout:
        yield copy(host, SOURCE.parent, [SOURCE.name])
    if kinds & {"python", "files"}:
        yield copy(host, Path("/"), [name.lstrip("/") for name in files])


def packages(host: str, python: str) -> Iterator[str]:
    """Lines that install what is installed here. Files that packages came from go along; the name and version stand
    for a file that is gone."""
    local = from_files()
    if kept := sorted({path.lstrip("/") for _, _, path in local if Path(path).exists()}):
        yield copy(host, Path("/"), kept)
    gone = [(name, version) for name, version, path in local if not Path(path).exists()]
    renamed = [f"-e {shlex.quote(f's|^{name} @ file:.*|{name}=={version}|')}" for name, version in gone]
    frozen = [f"{python} {PIP} freeze --exclude-editable", *([" ".join(["sed", *renamed])] if renamed else [])]
    yield " | ".join([*frozen, there(host, f"{python} {PIP} install --quiet --no-deps -r /dev/stdin")])


def from_files() -> list[tuple[str, str, str]]:
    """Name, version and path of packages that were installed from a file or folder: `pip freeze` names those paths,
    which another host does not have, and which may be gone here, too, as conda's are."""
    found = []
    for package in importlib.metadata.distributions():
        told = json.loads(package.read_text("direct_url.json") or "{}")
        url = urlsplit(told.get("url", ""))
        if url.scheme == "file" and not told.get("dir_info", {}).get("editable"):
            found.append((package.name, package.version, unquote(url.path)))
    return sorted(found)


def there(host: str, command: str) -> str:
    return shlex.join([*SSH, host, command])


def copy(host: str, root: Path, names: Sequence[str]) -> str:
    """Files and folders below `root` to the same place on the host, with what lies there replaced."""
    folder = shlex.quote(str(root))
    packed = shlex.join(["tar", "-C", str(root), "--exclude=__pycache__", "-cf", "-", *names])
    return f"{packed} | " + there(host, f"mkdir -p {folder} && tar -C {folder} -xf -")


def run(host: str, script: Sequence[str]) -> None:
    """Carry out one host's lines; StudyError with the last words of the one that fails."""
    for line in script:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise StudyError(f"host {host}", f"`{line}` failed: {said}", exit_code=Exit.PREFLIGHT_REFUSED)
