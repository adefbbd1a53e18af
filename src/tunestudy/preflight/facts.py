"""What a host tells of itself before it may take part in a job: `python -m tunestudy.preflight.facts FILE …`."""

import hashlib
import json
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunestudy.records.snapshot import gpus, packages

SOURCE = Path(__file__).parents[1]
"""The package tunestudy."""
_LISTENING = re.compile(r"\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A ")
PART = 1 << 20
"""Bytes at either end of a file that are hashed, with its size: enough to tell two versions of a data set apart."""


def facts(files: Sequence[str]) -> dict[str, Any]:
    """python, packages {name: version}, code (hash of tunestudy's own), gpus (their number), files {path: fingerprint,
    null where it is not there}, listening (TCP ports), clock (unix seconds; nothing relies on it)."""
    return {
        "python": platform.python_version(),
        "code": code(),
        "packages": packages(),
        "gpus": len(gpus()),
        "files": {name: fingerprint(Path(name)) for name in files},
        "listening": listening(),
        "clock": time.time(),
    }


def listening() -> list[int]:
    """TCP ports on which some process of this host listens; none where the system does not tell as Linux does."""
    found: set[int] = set()
    for name in ("tcp", "tcp6"):
        table = Path("/proc/net") / name
        lines = table.read_text(encoding="ascii").splitlines()[1:] if table.is_file() else []
        found |= {int(match[1], 16) for line in lines if (match := _LISTENING.match(line))}
    return sorted(found)


def code() -> str:
    """Hash of tunestudy's source files: two checkouts of one version can differ."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(str(path.relative_to(SOURCE)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def fingerprint(path: Path) -> str | None:
    """Size and hash of both ends of a file; of a folder, of what it lists."""
    try:
        if path.is_dir():
            listed = "\n".join(sorted(f"{one.name} {one.stat().st_size}" for one in path.iterdir()))
            return hashlib.sha256(listed.encode()).hexdigest()[:16]
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(PART))
            file.seek(max(0, size - PART))
            digest.update(file.read(PART))
    except OSError:
        return None
    return f"{size}-{digest.hexdigest()[:16]}"


if __name__ == "__main__":
    print("tunestudy-facts " + json.dumps(facts(sys.argv[1:])), flush=True)
