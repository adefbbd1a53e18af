"""Figures of carrying a study out: packing, and what the loop loses between jobs.

    python benchmarks/operate.py [part …]      parts: packing

Each part is a module `operate_<part>.py` with `figures()`. Prints every figure beside its limit; exits with 1 when one
is missed.
"""

import importlib
import os
import platform
import sys
from datetime import date
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests" / "lab")]

PARTS = ("packing",)


def main(wanted: list[str]) -> int:
    """Measure the wanted parts (default: all) and print the table."""
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, Python {platform.python_version()}, {date.today()}\n")  # noqa: DTZ011
    print(f"{'figure':58}{'value':>10} {'':7}{'limit':>7}")
    missed = 0
    for part in wanted or PARTS:
        for figure in importlib.import_module(f"operate_{part}").figures():
            print(figure, flush=True)
            missed += not figure.is_met
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
