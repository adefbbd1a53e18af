"""A real time limit, waited for: a job of 80 s in submissions of one minute. Takes about five minutes.

    python tests/lab/slurm_limit.py

Stands up a SLURM here (as root, with slurm-wlm) and tells what its submissions wrote down. Exit code 1: steps differ.
"""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from slurm import slurm
from slurm_study import OnSlurm

from tunestudy.records.atomic import read_json

STEPS = 160


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        slurm(Path(folder) / "slurm", nodes=1) as environment,
    ):
        os.environ.update({name: environment[name] for name in ("PATH", "SLURM_CONF")})
        study = OnSlurm(Path(folder) / "s", seeds=[1], time="1m", signal_s=20)
        study.behave(base={"steps": STEPS, "step_s": 0.5})
        code, output = study.run(only=["short"])
        print(output)
        began = study.events("slurm_submitted")[0]["t"]
        for event in sorted(study.events("slurm_started") + study.events("slurm_left"), key=lambda one: one["t"]):
            told = {name: event.get(name) for name in ("event", "slurm_id", "restart", "why", "reason", "steps")}
            print(f"{event['t'] - began:6.1f} s", {name: value for name, value in told.items() if value is not None})
        value = ""
        for step in range(1, STEPS + 1):
            value = hashlib.sha256(f"{value}/1/{step}".encode()).hexdigest()
        same = (read_json(study.job("base").result_json) or {}).get("value") == value
        print(f"exit code {code}; {'no step was lost or done twice' if same else 'steps differ'}")
    return int(code != 0 or not same)


if __name__ == "__main__":
    sys.exit(main())
