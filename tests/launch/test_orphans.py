"""Jobs whose launcher was killed: the next one watches them as its own."""

import os
from typing import Any

import pytest

from tunestudy.launch import orphans
from tunestudy.launch.hang import Patience, SignsOfLife
from tunestudy.launch.orphans import end_orphan_if_it_hangs
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.lease import Lease


@pytest.mark.alone
def test_one_that_stands_still_is_ended_told_and_started_again(study: Any, until: Any) -> None:
    study.keep("base")
    study.behave(base={"action": "freeze", "at": 2, "times": 1})
    process = study.launch()
    until(lambda: (read_json(study.folder("base").progress_json) or {}).get("step") == 1, "the job's first step")
    process.kill()
    process.communicate()
    code, output = study.run(timeout_s=0.4)
    assert code == 0 and study.steps("base") == [1, 2, 3] and study.starts("base") == 2, output
    (failed,) = study.events("job_failed")
    assert (failed["kind"], failed["attempt"], failed["step"]) == ("hang", 1, 1)
    assert "in phase train after step 1" in failed["message"]
    assert "failed (hang): rank 0 gave no sign of life" in output and "attempt 2" in output


@pytest.mark.alone
def test_one_that_hangs_at_the_same_step_again_is_given_up(study: Any, until: Any) -> None:
    study.keep("base")
    study.behave(base={"action": "freeze", "at": 2})
    process = study.launch()
    until(lambda: (read_json(study.folder("base").progress_json) or {}).get("step") == 1, "the job's first step")
    process.kill()
    process.communicate()
    code, output = study.run(timeout_s=0.4, retries={"hang": 9})
    assert code == 4 and study.starts("base") == 2, output
    assert "it failed at the same step before" in output


@pytest.mark.alone
def test_one_that_never_gave_a_sign_is_ended_and_started_again(study: Any, until: Any) -> None:
    study.keep("base")
    study.behave(base={"action": "mute", "times": 1})
    process = study.launch()
    until(lambda: study.starts("base") == 1, "the job's start")
    process.kill()
    process.communicate()
    code, output = study.run(start_timeout_s=0.4)
    assert code == 0 and study.steps("base") == [1, 2, 3] and study.starts("base") == 2, output
    (failed,) = study.events("job_failed")
    assert (failed["kind"], failed["attempt"], failed["step"]) == ("hang", 1, None)
    assert failed["message"].startswith("no sign of life since it was started ")


def test_a_job_with_a_launcher_is_left_to_it(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = study.folder("base"), []
    folder.root.mkdir(parents=True)
    write_json(folder.progress_json, {"attempt": 1, "phase": "train", "t": 1, "moved": 1, "pid": os.getpid()})
    monkeypatch.setattr(orphans, "end_if_it_hangs", lambda *facts: asked.append(facts[3]))
    with Lease.acquire(folder.claim):
        end_orphan_if_it_hangs(SignsOfLife(), folder, Patience(1.0, 1.0))
    assert asked == []
    write_json(folder.progress_json, {"attempt": 5, "phase": "train", "t": 1, "moved": 1, "pid": os.getpid()})
    with Lease.acquire(folder.lease):  # rank 0 alone, whose torchrun was killed
        end_orphan_if_it_hangs(SignsOfLife(), folder, Patience(1.0, 1.0))
    assert asked == [5], "it is the attempt that its progress.json tells of"
