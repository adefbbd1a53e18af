"""A real SLURM that takes two submissions of a user at a time, and a study of six; the jobs' workers are fake."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm import Cluster, slurm
from slurm_accounting import accounting

from tunestudy.config.errors import Exit
from tunestudy.records.atomic import read_object

LIMIT = 2
SEEDS = (1, 2, 3)
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.accounting, pytest.mark.usefixtures("this_cluster")]


@pytest.fixture(scope="module")
def real_cluster() -> Iterator[Cluster]:
    """With limits, which only accounting knows. The database's user must be able to enter its folder."""
    with tempfile.TemporaryDirectory() as path:
        (folder := Path(path)).chmod(0o755)
        with accounting(folder / "accounting") as lines, slurm(folder / "slurm", 1, accounting=lines) as found:
            limited = ["sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={LIMIT}"]
            subprocess.run(limited, env=found, check=True)
            yield found


def test_what_a_full_queue_does_not_take_is_sent_as_others_end(on_slurm, until):
    study = on_slurm(seeds=SEEDS)
    study.behave(base={"steps": 5, "step_s": 0.2})
    code, output = study.run(detach=True)
    assert code == Exit.DONE and "which takes no more for now (AssocMaxSubmitJobLimit" in output, output
    assert len(study.events("slurm_submitted")) == LIMIT
    code, output = study.run()  # beside the process that was left to send the rest
    assert code == Exit.DONE, output
    assert len(study.events("slurm_submitted")) == 2 * len(SEEDS)
    assert [len(study.starts(stage, seed)) for stage in ("base", "adapt") for seed in SEEDS] == [1] * 6
    assert len(read_object(study.dir.slurm.accounting)) == 2 * len(SEEDS), "as sacct has them"
