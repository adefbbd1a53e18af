"""Arms that drew other samples are named; orders, stages along the way and declared differences are not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from studies import make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect
from tunestudy.report.readiness import checklist
from tunestudy.report.samples import unequal_samples

POINT = "the same training samples in all variants that do not declare other data"


@pytest.fixture
def study(tmp_path: Path) -> StudyDir:
    """`untrained`, `full` and two LoRAs, of which all drew sample 5 in the base stage and sample 7 in the other."""
    study_dir = make_study(tmp_path)
    for path in study_dir.jobs.glob("*/data.json"):
        tell(path, 5 if path.parent.name.startswith("base") else 7)
    return study_dir


def tell(path: Path, epoch: int, stage: int | None = None) -> None:
    report = json.loads(path.read_text())
    drawn = {"epoch_sha256": f"{epoch:064x}", "samples_sha256": f"{epoch if stage is None else stage:064x}"}
    path.write_text(json.dumps({**report, "drawn": drawn}))


def jobs_of(study_dir: StudyDir, variant: str) -> list[Path]:
    found = sorted(study_dir.jobs.glob("adapt-*/data.json"))
    return [p for p in found if variant in json.loads((p.parent / "job.json").read_text())["variants"]]


def declare(study_dir: StudyDir, variant: str, **changes: Any) -> None:
    resolved = json.loads(study_dir.resolved_yaml.read_text())
    resolved["variants"][variant] |= changes
    study_dir.resolved_yaml.write_text(json.dumps(resolved))


def found(study_dir: StudyDir) -> list[str]:
    return list(unequal_samples(collect(study_dir)))


def test_the_same_samples_are_no_finding(study: StudyDir) -> None:
    assert found(study) == []
    assert (True, POINT) in checklist(collect(study))


def test_other_samples_are_told_once_over_all_seeds(study: StudyDir) -> None:
    for path in jobs_of(study, "lora_r4"):
        tell(path, 8)
    (line,) = found(study)
    assert line.startswith("not on equal footing: lora_r4 drew other training samples than full, counting all stages")
    assert (False, POINT) in checklist(collect(study))
    declare(study, "lora_r4", intends=["data"])
    assert found(study) == []


def test_the_same_samples_more_often(study: StudyDir) -> None:
    for path in jobs_of(study, "full"):
        tell(path, 7, 14)
    (line,) = found(study)
    assert "lora_r4" in line and "drew the same training samples, but not as often each, as full" in line
    declare(study, "full", intends=["steps"])
    assert found(study) == []


def test_stages_count_together_whatever_they_are_called(study: StudyDir) -> None:
    """`full` draws 5 and 7; an arm whose stages draw 5 and, under other names, 3 and 4 is its equal."""
    resolved = json.loads(study.resolved_yaml.read_text())
    stages = resolved["variants"]["lora_r4"]["stages"]
    declare(study, "lora_r4", stages={"base": stages["base"], "easy": stages["adapt"], "hard": stages["adapt"]})
    plan = json.loads(study.plan_json.read_text())
    for path in jobs_of(study, "lora_r4"):
        entry = next(entry for entry in plan["jobs"] if entry["id"] == path.parent.name)
        twin = path.parent.with_name(path.parent.name.replace("adapt", "hard"))
        shutil.copytree(path.parent, twin)
        plan["jobs"].append({**entry, "id": twin.name, "stage": "hard"})
        entry["stage"] = "easy"
        tell(path, 3)
        tell(twin / "data.json", 4)
        for folder, stage in ((path.parent, "easy"), (twin, "hard")):
            job = json.loads((folder / "job.json").read_text())
            (folder / "job.json").write_text(json.dumps({**job, "id": folder.name, "stage": stage}))
    study.plan_json.write_text(json.dumps(plan))
    assert found(study) == []
    tell(twin / "data.json", 5)
    (line,) = found(study)
    assert "lora_r4 drew other training samples than full" in line


@pytest.mark.parametrize("broken", [None, "no digest", 3, "f" * 63])
def test_what_is_not_known_is_not_compared(study: StudyDir, broken: Any) -> None:
    for path in jobs_of(study, "lora_r4"):
        report = json.loads(path.read_text())
        path.write_text(json.dumps({**report, "drawn": {"epoch_sha256": broken, "samples_sha256": broken}}))
    assert found(study) == []


def test_a_stage_that_only_installs_a_part_draws_nothing(study: StudyDir) -> None:
    for path in jobs_of(study, "lora_r4"):
        tell(path, 8)
    stages = json.loads(study.resolved_yaml.read_text())["variants"]["lora_r4"]["stages"]
    declare(study, "lora_r4", stages={"part": {"world": {"tokens": 4}, "train": "none"}, **stages})
    (line,) = found(study)
    assert "lora_r4 drew other training samples than full" in line
