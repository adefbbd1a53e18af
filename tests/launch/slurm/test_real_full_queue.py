"""A real SLURM that takes two jobs of a user at a time, and a study of six. Takes about a minute.

    python tests/lab/slurm_full_queue.py

Stands up SLURM and its accounting here (as root, with slurm-wlm, slurmdbd and mariadb-server), runs the study, and
tells what was submitted when. Exit code 1: a job did not run once.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from slurm import slurm
from slurm_accounting import accounting
from slurm_study import OnSlurm

from tunestudy.launch.slurm import follow

LIMIT = 2
SEEDS = (1, 2, 3)


def main() -> int:
    follow.LAST_POLL_S = 1.0
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        folder.chmod(0o755)
        with accounting(folder / "accounting") as lines, slurm(folder / "slurm", 1, accounting=lines) as environment:
            os.environ.update({name: environment[name] for name in ("PATH", "SLURM_CONF")})
            subprocess.run(["sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={LIMIT}"], check=True)
            study = OnSlurm(folder / "s", seeds=list(SEEDS))
            study.behave(base={"steps": 5, "step_s": 0.2})
            code, output = study.run(detach=True)
            print(output)
            first = len(study.events("slurm_submitted"))
            code, output = study.run()
            print(output)
            sent = study.events("slurm_submitted")
            for event in sent:
                print(f"{event['t'] - sent[0]['t']:6.1f} s  {event['slurm_id']:>4}  {', '.join(event['jobs'])}")
            starts = [len(study.starts(stage, seed)) for stage in ("base", "adapt") for seed in SEEDS]
    whole = code == 0 and first == LIMIT and starts == [1] * len(starts) and len(sent) == len(starts)
    print(f"exit code {code}; {first} of {len(sent)} taken at once; every job ran once: {starts == [1] * len(starts)}")
    return int(not whole)


if __name__ == "__main__":
    sys.exit(main())
