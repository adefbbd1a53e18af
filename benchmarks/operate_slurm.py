"""How much later a job's worker starts when SLURM places it: from its submission, against a local start.

    python benchmarks/operate_slurm.py [--jobs 6]

Stands up a SLURM here (as root, with slurm-wlm) and runs the same fake jobs locally and by SLURM, one by one.
Local: from the launcher's start of its loop to the worker's first line. SLURM: from sbatch to the same line, which
holds SLURM's own scheduling (about a second here) and the start of the loop inside of the submission. Exit code 1: the
difference is beyond its limit. Nothing is written but stdout.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / "lab"), str(TESTS / "launch")]

MOST_S = 2.0
"""More than locally, per job."""


def slurm_overhead(folder: Path, jobs: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds until the first line, per job: of the worker locally, of the worker by SLURM, of an empty submission."""
    from fake_launcher import launch
    from slurm import slurm
    from slurm_study import OnSlurm

    from tunestudy.config.resources import Resources

    local, by_slurm, empty = [], [], []
    with slurm(folder / "slurm", nodes=1) as environment:
        os.environ.update({name: environment[name] for name in ("PATH", "SLURM_CONF")})
        for number in range(jobs):
            study = OnSlurm(folder / f"s{number}", seeds=[1])
            study.run(only=["short"])
            by_slurm.append(_started(study.dir.root) - study.events("slurm_submitted")[0]["t"])
            root = folder / f"local{number}"
            launch(root, [job for job in study.jobs if job.stage == "base"], Resources(slots=1))
            local.append(_started(root) - _begun(root))
            empty.append(_empty_submission(folder / f"empty{number}"))
    return local, by_slurm, empty


def _empty_submission(path: Path) -> float:
    sent = time.time()
    subprocess.run(["sbatch", "-o", str(path), "--wrap", "date +%s.%N"], check=True, capture_output=True)
    while not path.exists() or not path.read_text().strip():
        time.sleep(0.05)
    return float(path.read_text()) - sent


def _started(root: Path) -> float:
    """When the fake worker of the only job began, by the name of the file that it wrote then."""
    return float(next(root.glob("jobs/*/starts/*")).name.partition("-")[0])


def _begun(root: Path) -> float:
    from tunestudy.records.events import read_events

    return float(next(event["t"] for event in read_events(root / "events") if event["event"] == "run_started"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=6)
    asked = parser.parse_args()
    output = sys.stdout
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sys.stdout:
        local, by_slurm, empty = slurm_overhead(Path(folder), asked.jobs)
    sys.stdout = output
    here_s, there_s = statistics.median(local), statistics.median(by_slurm)
    more = there_s - here_s
    print(f"worker's first line after {here_s:.2f} s locally, {there_s:.2f} s by SLURM")
    print(f"of which SLURM itself takes {statistics.median(empty):.2f} s, by submissions that are empty")
    print(f"{more:.2f} s more per job (median of {asked.jobs}); limit {MOST_S:g}")
    return int(more > MOST_S)


if __name__ == "__main__":
    sys.exit(main())
