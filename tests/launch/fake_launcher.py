"""`run` in a process of its own with the fake worker: fake_launcher.py STUDY_DIR [resources as JSON]."""

import json
import os
import sys
from pathlib import Path

from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.config.study import Study
from tunestudy.launch.carry_out import carry_out
from tunestudy.launch.local import find_slots
from tunestudy.launch.place import ThisMachine
from tunestudy.launch.prepare import prepare
from tunestudy.records.layout import StudyDir

FAKE = Path(__file__).with_name("fake_worker.py")


def launch(root: Path, jobs: list[Job], resources: Resources) -> int:
    architecture = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}}
    study = Study(study="s", seeds=(1,), model=architecture, variants={"v": {"stages": {}}}, resources=resources)
    prepare(study, b"study: s\n", jobs, {"jobs": []}, StudyDir(root))
    command = lambda folder, _ranks: [sys.executable, str(FAKE), str(folder.root)]  # noqa: E731
    place = ThisMachine(find_slots(resources), command)
    return carry_out(study, jobs, StudyDir(root), place=place, quiet=False, remakes="CUT_JOBS" not in os.environ)


def main() -> int:
    root, resources = Path(sys.argv[1]), Resources(**json.loads(sys.argv[2]))
    jobs = [Job.model_validate(job) for job in json.loads((root.parent / f"{root.name}-jobs.json").read_text())]
    return launch(root, jobs, resources)


if __name__ == "__main__":
    sys.exit(main())
