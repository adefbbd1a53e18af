"""The five studies of `studies/` as their users run them: by the command line, with `--tiny`, in a folder apart."""

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.job import Job

STUDIES = Path(__file__).parents[2] / "studies"
FIVE = ("tbi_mllm", "theworld_datacomp", "qwen3vl_curriculum", "adapter_sparsity", "glm_air_fsdp")
LEAST_STEPS = 20
RUN_S = 1500
"""A study needs less than ten minutes on two cores of its own; a machine that does other things needs longer."""

Shape = Counter[tuple[Any, ...]]


def tunestudy(*words: str | Path, cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command line's answer, whatever it is."""
    program = Path(sys.executable).with_name("tunestudy")
    return subprocess.run(
        [program, *words], cwd=cwd, env=dict(os.environ), capture_output=True, text=True, timeout=timeout
    )


def shape_of(plan: dict[str, Any]) -> Shape:
    """What two plans of one study have in common where they are isomorphic: per job its stage, its seed, its variants,
    and the same of its parents. `plan`: what `plan --json` says."""
    names = {job["id"]: (job["stage"], job["seed"], tuple(sorted(job["variants"]))) for job in plan["jobs"]}
    return Counter((names[job["id"]], tuple(sorted(names[one] for one in job["parents"]))) for job in plan["jobs"])


@dataclass(frozen=True)
class Learnt:
    """What a training job says of itself."""

    steps: int
    first_loss: float
    """Of the held-out rows, before the first step."""
    last_loss: float


@dataclass(frozen=True)
class Finished:
    """A study that `run --tiny` carried out whole."""

    name: str
    folder: Path
    """results/<study>-tiny"""
    said: str
    took_s: float

    @property
    def jobs(self) -> dict[str, Job]:
        """Every job by its id, as its worker read it."""
        found = [Job.model_validate_json(path.read_text()) for path in self.folder.glob("jobs/*/job.json")]
        return {job.id: job for job in found}

    def learnt(self, job: Job) -> Learnt:
        """Of a job that trains. Fails where it was not evaluated before its first and after its last step."""
        with open(self.folder / "jobs" / job.id / "eval_log.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        state = json.loads((self.folder / "jobs" / job.id / "trainer_state.json").read_text())
        steps = [int(row["step"]) for row in rows]
        assert steps[0] == 0, f"{job.id} was not evaluated before its first step: `eval_on_start` in `tiny:`"
        assert steps[-1] == state["global_step"], f"{job.id} was not evaluated after its last step"
        return Learnt(steps[-1], float(rows[0]["eval_loss"]), float(rows[-1]["eval_loss"]))

    def table(self) -> list[dict[str, str]]:
        """The rows of results.csv: variant, benchmark, metric, mean, std, …"""
        with open(self.folder / "report" / "results.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def carry_out(name: str, folder: Path) -> Finished:
    """The whole study in small, from its first job to its report."""
    begun = time.monotonic()
    done = tunestudy("run", STUDIES / f"{name}.yaml", "--tiny", "--results", folder, cwd=folder, timeout=RUN_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Finished(name, folder / f"{name}-tiny", done.stdout, time.monotonic() - begun)
