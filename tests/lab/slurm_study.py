"""A study for SLURM whose jobs are fake: `base` → `adapt`, per seed."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from tunestudy.config.job import Job
from tunestudy.launch.prepare import prepare
from tunestudy.launch.run import run_study
from tunestudy.records.atomic import read_json
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan

INSIDE = Path(__file__).parents[1] / "launch" / "slurm" / "fake_inside.py"

STUDY = """\
study: {name}
seeds: {seeds}
resources:
  executor: slurm
  slurm: {settings}
model: {{architecture: qwen3, config: {{hidden_size: 8}}, tokenizer: {{type: characters, alphabet: "01234567\\n="}}}}
datasets: {{digits: {{type: digits, trim: true}}}}
defaults: {{data: digits, max_steps: 3, effective_batch_size: 8, max_length: 80}}
stages: {{base: {{learning_rate: 1e-3}}, adapt: {{learning_rate: 1e-4}}}}
variants: {{short: {{stages: [base]}}, long: {{stages: [base, adapt]}}}}
"""


class OnSlurm:
    """A study in a folder of its own; commands run in this process, from that folder."""

    def __init__(self, folder: Path, *, seeds: list[int], **settings: Any) -> None:
        folder.mkdir(parents=True)
        python = folder / "python"
        python.write_text(f'#!/bin/bash\nexec {sys.executable} -u {INSIDE} "$4" "$5"\n')
        python.chmod(0o755)
        self.folder, self.file = folder, folder / "study.yaml"
        settings = json.dumps({"python": str(python), **settings})
        self.file.write_text(STUDY.format(name=folder.name, seeds=seeds, settings=settings))
        self.dir = StudyDir(folder / "results" / folder.name)

    @property
    def loaded(self) -> LoadedStudy:
        return load_study(self.file)

    @property
    def jobs(self) -> list[Job]:
        return [planned.job for planned in make_plan(self.loaded, self.folder / "results").jobs]

    def prepare(self) -> None:
        """What `run` writes before it submits."""
        prepare(self.loaded.study, self.file.read_bytes(), self.jobs, {"jobs": []}, self.dir)

    def behave(self, **by_stage: dict[str, Any]) -> None:
        self.dir.root.mkdir(parents=True, exist_ok=True)
        (self.dir.root / "behaviour.json").write_text(json.dumps(by_stage))

    def run(self, **options: Any) -> tuple[int, str]:
        """Exit code and output."""
        output = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(output):
            code = run_study(self.loaded, Path("results"), report=False, **options)
        return code, output.getvalue()

    def job(self, stage: str, seed: int = 1) -> JobDir:
        return self.dir.job(next(job.id for job in self.jobs if job.stage == stage and job.seed == seed))

    def starts(self, stage: str, seed: int = 1) -> list[dict[str, str]]:
        """The environment of every start of a job's processes."""
        folder = self.job(stage, seed).root / "starts"
        return [json.loads(file.read_text()) for file in sorted(folder.iterdir())] if folder.is_dir() else []

    def step(self, stage: str, seed: int = 1) -> int:
        return (read_json(self.job(stage, seed).progress_json) or {}).get("step") or 0

    def steps(self, stage: str, seed: int = 1) -> list[int]:
        return [int(line) for line in (self.job(stage, seed).root / "steps.txt").read_text().split()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.dir.events) if event["event"] == name]
