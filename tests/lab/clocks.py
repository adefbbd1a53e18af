"""Processes whose clock is wrong, beside others whose clock is right: `wrong_clock.c`, loaded into them."""

import subprocess
from pathlib import Path


def wrong_clock(folder: Path) -> Path:
    """Build the library in `folder`."""
    library = folder / "wrong_clock.so"
    source = Path(__file__).with_name("wrong_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


def ahead_by(library: Path, hours: float) -> dict[str, str]:
    """What has to be added to a process's environment for its clock, and that of all it starts, to be ahead."""
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD_S": f"{hours * 3600:.0f}"}
