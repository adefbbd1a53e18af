"""Measure every figure anew and write them, with machine and date, to benchmarks/RESULTS.md.

make benchmarks                       # all
python benchmarks/all.py plan kills   # some; the other sections of RESULTS.md stay as they are
"""

import datetime as dt
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"

SECTIONS = {
    "plan": ("Start of the command line and planning", [["plan_speed.py"]]),
    "throughput": (
        "Training throughput against TRL",
        [
            ["throughput.py", "--samples", "64"],
            ["throughput.py", "--vocabulary", "4000", "--width", "1024", "--samples", "64"],
        ],
    ),
    "adapters": ("Cost of the adapters against PEFT's LoRA", [["adapters.py"]]),
    "mole": ("A mixture of LoRA experts against one LoRA and a loop", [["mole.py"]]),
    "fetch": ("Fetching images by their URLs", [["fetch.py"]]),
    "pruning": ("Accuracy of a pruned adapter", [["pruning.py"]]),
    "distributed": ("A model in slices over ranks", [["distributed.py"]]),
    "vision": ("Images", [["vision.py"]]),
    "contamination": ("Overlap of training and evaluation", [["contamination.py"]]),
    "evaluation": ("Evaluation", [["evaluation.py"]]),
    "estimates": ("Estimates against the truth", [["operate_estimates.py"]]),
    "engines": ("Engines against one rank", [["engines.py"]]),
    "merge": ("Merging against mergekit", [["merge.py"]]),
    "slow_network": ("Two hosts on a slow line", [["slow_network.py"]]),
    "operate": ("Carrying a study out", [["operate.py"]]),
    "gradients": ("Gradient equality", [["gradient_equality.py"]]),
    "kills": ("Exact resume after SIGKILL", [["kills.py"]]),
    "slurm_kills": ("Kills amid training under SLURM", [["slurm_kills.py"]]),
    "checkpoints": ("Cost of checkpoints", [["checkpoints.py"]]),
}

LIMIT_MISSED = 1
"""Exit code of a script that measured, and found a figure beyond its limit: that is a result, too."""

HEAD = """# Measured figures

Every section is the output of a script in this folder, written by `benchmarks/all.py`. Ratios compare two programs in
one run of the script, by process time, since the machine is shared; absolute times are of that machine and that day.
"""


def machine() -> str:
    """This machine and the versions that matter, in one line."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", lines)
    memory_gib = psutil.virtual_memory().total / 2**30
    names = ("torch", "transformers", "peft", "trl")
    processor = found.group(1) if found else platform.processor()
    software = ", ".join(["Python " + platform.python_version(), *(f"{name} {version(name)}" for name in names)])
    return f"{processor}, {psutil.cpu_count()} cores, {memory_gib:.0f} GiB, no GPU; {software}"


def measured(title: str, commands: list[list[str]]) -> str:
    """The section of one benchmark: what was run, where, when, and what it printed."""
    parts = [f"## {title}", f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, {machine()}"]
    for script, *options in commands:
        print(f"benchmarks/{script} {' '.join(options)} …", flush=True)
        done = subprocess.run([sys.executable, HERE / script, *options], capture_output=True, text=True, check=False)
        if done.returncode not in (0, LIMIT_MISSED) or not done.stdout.strip():
            sys.exit(f"{script} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        command = f"python benchmarks/{script} {' '.join(options)}".strip()
        parts += [f"`{command}`", f"```\n{done.stdout.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def written() -> dict[str, str]:
    """The sections that stand in RESULTS.md, by title."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {section.splitlines()[0].removeprefix("## "): section.rstrip() + "\n" for section in sections}


def main(wanted: list[str]) -> None:
    """Measure the wanted sections (default: all), one after the other, and rewrite the file after each."""
    if unknown := set(wanted) - set(SECTIONS):
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    for name in wanted or SECTIONS:
        title, commands = SECTIONS[name]
        sections = {**written(), title: measured(title, commands)}
        ordered = [sections[title] for title, _ in SECTIONS.values() if title in sections]
        RESULTS.write_text("\n".join([HEAD, *ordered]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
