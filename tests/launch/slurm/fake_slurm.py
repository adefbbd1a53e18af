"""A SLURM of files, for texts and decisions: sbatch, squeue, scancel, sinfo and scontrol as links to this script.

$FAKE_SLURM holds `queue.json` (number → {name, comment, state, reason, nodes, after}), `calls.txt`, and, to go wrong on
purpose, `fail-<program>`: `<how often>\\n<what it says>`.
"""

import json
import os
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_SLURM"])
QUEUE = HOME / "queue.json"


def main(program: str, *words: str) -> int:
    with open(HOME / "calls.txt", "a") as calls:
        calls.write(" ".join([program, *words]) + "\n")
    trouble = HOME / f"fail-{program}"
    if trouble.exists():
        times, said = trouble.read_text().split("\n", 1)
        trouble.write_text(f"{int(times) - 1}\n{said}") if int(times) > 1 else trouble.unlink()
        if said.startswith("arrived "):  # the answer alone was lost
            sbatch(*words)
            said = said.removeprefix("arrived ")
        print(f"{program}: error: {said}", file=sys.stderr)
        return 1
    queue = json.loads(QUEUE.read_text()) if QUEUE.exists() else {}
    if program == "sbatch":
        print(sbatch(*words))
    elif program == "squeue":
        for number, one in queue.items():
            print("|".join([number, *(one[key] for key in ("name", "state", "nodes", "comment", "reason"))]))
    elif program == "sinfo":
        print("lab*|up|infinite|2|gpu:2\nshort|up|30:00|2|gpu:2\ncpus|drain|2-00:00:00|1|(null)")
    elif program == "scancel":
        queue.pop(words[-1], None)
        QUEUE.write_text(json.dumps(queue))
    else:
        return 1
    return 0


def sbatch(*words: str) -> str:
    queue = json.loads(QUEUE.read_text()) if QUEUE.exists() else {}
    text = Path(words[-1]).read_text()
    options = dict(
        line[8:].split("=", 1) for line in text.splitlines() if line.startswith("#SBATCH --") and "=" in line
    )
    number = str(len((HOME / "calls.txt").read_text().splitlines()))
    after = next((word for word in words if word.startswith("--dependency")), "")
    facts = {"name": options["--job-name"], "comment": options["--comment"], "nodes": "", "after": after}
    elements = int(options["--array"].split("-")[1].split("%")[0]) + 1 if "--array" in options else 0
    for element in [f"{number}_{n}" for n in range(elements)] or [number]:
        queue[element] = {**facts, "state": "PENDING", "reason": "Dependency" if after else "Priority"}
    QUEUE.write_text(json.dumps(queue))
    return number


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, *sys.argv[1:]))
