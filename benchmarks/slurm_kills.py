"""A study killed well inside its training under a real SLURM ends with the weights of the one that was left alone.

    python benchmarks/slurm_kills.py [--mode allocation|jobs] [--seed 1] [--only VARIANT …]

Stands up a SLURM here (as root, with slurm-wlm) and carries out studies/qwen3vl_curriculum.yaml in small: once on this
machine undisturbed, once by SLURM with three kills, each while a job stands between 20 % and 80 % of its steps: the
signal that comes before a time limit (a checkpoint, and queued again), -9 to a worker, and `scancel`. Exit code 1: an
adapter, a logged value that does not depend on the clock, or the table differs. Nothing is written but stdout.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lab"))

STUDY = ROOT / "studies" / "qwen3vl_curriculum.yaml"
NAME = "qwen3vl_curriculum-tiny"
EARLIEST, LATEST = 0.2, 0.8
CLOCKS = {"tokens_per_s"}
PATIENCE_S = 900.0


class Study:
    """The study in small, in a folder of its own."""

    def __init__(self, folder: Path, *settings: str) -> None:
        folder.mkdir()
        self.folder, self.results, self.settings = folder, folder / NAME, settings

    def run(self, *options: str) -> None:
        words = ["run", STUDY, "--tiny", "--results", self.folder, *options, *self.settings]
        done = subprocess.run([Path(sys.executable).with_name("tunestudy"), *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def progress(self) -> dict[str, dict[str, Any]]:
        """What each job told last, by its id."""
        return {file.parent.name: json.loads(file.read_text()) for file in self.results.glob("jobs/*/progress.json")}

    def left(self) -> dict[str, str]:
        """Digests of adapters and of logs without clocks, and of the table."""
        found = {}
        for job in sorted(path.parent for path in self.results.glob("jobs/*/result.json")):
            found[f"{job.name} adapter"] = _sha256((job / "model" / "adapter_model.safetensors").read_bytes())
            for log in ("loss_log.csv", "eval_log.csv"):
                with open(job / log, encoding="utf-8", newline="") as file:
                    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]
                found[f"{job.name} {log}"] = _sha256(json.dumps(rows).encode())
        return found | {"table": _sha256((self.results / "report" / "results.csv").read_bytes())}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def waited(look: Callable[[], Any], what: str) -> Any:
    """What `look` finds, once it finds something."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise TimeoutError(what)


def amid(study: Study, share: float, avoid: set[str]) -> Callable[[], tuple[str, dict[str, Any]] | None]:
    """Looks for a job in training that was not killed yet and stands beyond `share` of its steps, but not too far."""

    def look() -> tuple[str, dict[str, Any]] | None:
        for job, told in study.progress().items():
            trains = job not in avoid and told["phase"] == "train" and told.get("step") and told.get("total_steps")
            if trains and share <= told["step"] / told["total_steps"] <= LATEST:
                return job, told
        return None

    return look


def submissions(state: str = "") -> dict[str, str]:
    """State by number of what is in the queue."""
    told = subprocess.run(["squeue", "-h", "-o", "%i %T"], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in told.splitlines()]
    return {number: now for number, now in rows if now.startswith(state)}


def holder(study: Study, job: str) -> str:
    """The submission that carries the job out."""
    lines = [line for file in study.results.glob("events/*.jsonl") for line in file.read_text().splitlines()]
    started = [e for e in map(json.loads, lines) if e["event"] == "slurm_started" and job in e["jobs"]]
    return str(max(started, key=lambda event: event["t"])["slurm_id"])


def near_its_limit(study: Study, job: str, _told: dict[str, Any]) -> None:
    """The signal before a time limit. What SLURM queues again starts two minutes later; here, at once."""
    number = holder(study, job)
    subprocess.run(["scancel", "--signal=USR1", "--batch", number], check=True)
    waited(lambda: number in submissions("PENDING"), f"{number} in the queue again")
    time.sleep(1.5)  # a node does not take a job again within the second in which it ended it
    subprocess.run(["scontrol", "update", f"jobid={number}", "StartTime=now"], check=True)


def killed(_study: Study, _job: str, told: dict[str, Any]) -> None:
    """The worker is gone without a word; the loop inside of the submission starts it again."""
    os.kill(told["pid"], signal.SIGKILL)


def cancelled(study: Study, job: str, _told: dict[str, Any]) -> None:
    """`scancel` from outside; a `run` that follows submits what is missing."""
    number = holder(study, job)
    subprocess.run(["scancel", number], check=True)
    waited(lambda: number not in submissions(), f"the end of {number}")
    study.run("--detach")


KILLS = {"USR1, queued again": near_its_limit, "kill -9 of a worker": killed, "scancel, run again": cancelled}


def carry_out_with_kills(study: Study, draw: random.Random) -> None:
    study.run("--detach")
    hit: set[str] = set()
    for name, kill in KILLS.items():
        job, told = waited(amid(study, draw.uniform(EARLIEST, 0.6), hit), f"a job to hit by {name}")
        kill(study, job, told)
        hit.add(job)
        waited(lambda job=job, pid=told["pid"]: study.progress()[job]["pid"] != pid, f"another life of {job}")
        waited(lambda job=job: study.progress()[job].get("step"), f"steps of {job}")
        print(
            f"{name:22} {job:28} at step {told['step']:3} of {told['total_steps']}, {resumed(study, job)}", flush=True
        )
    study.run()


def resumed(study: Study, job: str) -> str:
    """What the job's last life says of where it began."""
    log = "".join(file.read_text() for file in sorted((study.results / "jobs" / job / "logs").iterdir()))
    said = [line for line in log.splitlines() if line.startswith(("resuming after", "starting again"))]
    return said[-1] if said else "from its beginning"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("allocation", "jobs"), default="allocation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="variants; default: all")
    asked = parser.parse_args()
    from slurm import slurm

    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        only = [word for name in asked.only for word in ("--only", name)]
        quiet = Study(folder / "quiet", *only)
        quiet.run()
        with slurm(folder / "slurm", nodes=1) as environment:
            os.environ.update({name: environment[name] for name in ("PATH", "SLURM_CONF")})
            options = (f"resources.slurm.mode={asked.mode}", "resources.slurm.cpus_per_task=2", "resources.slots=2")
            disturbed = Study(folder / "disturbed", *only, "resources.executor=slurm", *options)
            carry_out_with_kills(disturbed, random.Random(asked.seed))
        one, other = quiet.left(), disturbed.left()
    differ = [name for name in sorted(one | other) if one.get(name) != other.get(name)]
    print(f"{len(one)} digests of adapters, logs and the table; {len(differ)} differ: {', '.join(differ) or 'none'}")
    return int(bool(differ) or not one)


if __name__ == "__main__":
    sys.exit(main())
