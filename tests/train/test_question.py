"""What is asked of a worker beside training."""

from pathlib import Path

import pytest
from tinyjob import make_job

from tunestudy.records.atomic import read_json, write_json
from tunestudy.train import question
from tunestudy.train.question import opened_task


def test_whoever_is_asked_about_a_locked_job_asks_the_hub_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path)
    told: list[bool] = []
    monkeypatch.setattr(question, "stay_offline", lambda: told.append(True))
    with opened_task(folder, tells=False) as task:
        assert task.job.training is task.settings and not told
    write_json(folder.job_json, {**read_json(folder.job_json), "offline": True})
    with opened_task(folder, tells=False):
        assert told == [True]
