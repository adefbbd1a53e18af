"""Commands that must succeed: one that does not shows what it said."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def succeed(command: Sequence[str | Path], *, timeout: float = 300, **options: Any) -> str:
    """Run to the end; returns the standard output."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, **options)
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
