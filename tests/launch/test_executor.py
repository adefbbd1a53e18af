"""The loop, with real processes that honour the file contract."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from tunestudy.records.atomic import read_object

pytestmark = pytest.mark.alone

ALL = ("base", "other", "adapt", "merge")


def test_runs_parents_first_and_everything_once(study):
    code, output = study.run()
    assert code == 0, output
    assert [study.steps(stage) for stage in ALL] == [[1, 2, 3]] * 4
    order = [event["job"].split("-")[0] for event in study.events("job_started")]
    assert order.index("base") < order.index("adapt") < order.index("merge")
    assert {event["event"] for event in study.events("run_finished")} == {"run_finished"}
    assert study.events("run_finished")[0]["status"] == "done"


@pytest.mark.slow
def test_a_second_run_starts_nothing(study):
    study.run()
    code, _ = study.run()
    assert code == 0
    assert [study.starts(stage) for stage in ALL] == [1] * 4


@pytest.mark.slow
def test_missing_score_runs_the_job_again_but_not_its_parents(study):
    study.run()
    study.folder("merge").eval_json("b").unlink()
    assert study.run()[0] == 0
    assert study.starts("merge") == 2 and study.starts("adapt") == 1


def test_failure_blocks_children_only_and_is_told(study):
    study.behave(adapt={"action": "raise", "at": 2})
    code, output = study.run(max_retries=0)
    assert code == 4
    assert study.folder("other").result_json.exists() and not study.folder("merge").root.joinpath("starts").exists()
    assert "failed: raise at 2" in output and "last step 2" in output and "rank-0.log" in output
    assert f"not run, because {study.folder('adapt').root.name} failed: merge-" in output


def test_retry_continues_and_succeeds(study):
    study.behave(adapt={"action": "raise", "at": 2, "times": 1})
    code, _ = study.run(max_retries=1)
    assert code == 0 and study.steps("adapt") == [1, 2, 3]
    assert [event["attempt"] for event in study.events("job_started") if event["job"].startswith("adapt")] == [1, 2]
    assert study.events("job_retried")[0]["reason"] == "raise at 2"
    assert not study.folder("adapt").failure_json.exists()


@pytest.mark.parametrize("action", ["raise", "sigkill", "nan", "disk"])
def test_the_same_step_failing_twice_stops_the_job_although_retries_are_left(study, action):
    study.keep("base")
    study.behave(base={"action": action, "at": 2})
    code, output = study.run(retries={"error": 9, "killed": 9, "nan": 9, "disk": 9, "wait_s": 0})
    assert code == 4 and study.starts("base") == 2
    assert "it failed at the same step before, so it was not started again" in output


def test_out_of_memory_at_the_same_step_stops_the_job_at_a_micro_batch_of_one(study):
    stage = {"data": ["d"], "learning_rate": 0.1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    study.jobs[0] = study.jobs[0].model_validate({**study.jobs[0].model_dump(), "settings": stage})
    study.keep("base")
    study.behave(base={"action": "oom", "at": 2})
    code, output = study.run(retries={"oom": 9})
    assert code == 4 and study.starts("base") == 3, output
    changes = [event["change"].partition(", so ")[2] for event in study.events("job_retried")]
    assert changes == [
        f"per_device_train_batch_size is {half} in place of {rows}; same effective batch"
        for rows, half in ((4, 2), (2, 1))
    ]
    assert "its micro-batch is one sample already" in output


def test_user_mistake_is_never_retried(study):
    study.keep("base")
    study.behave(base={"action": "user"})
    code, output = study.run(max_retries=9)
    assert code == 2 and study.starts("base") == 1 and "user at 1" in output


def test_each_kind_is_tried_again_as_often_as_the_study_says(study):
    study.behave(
        base={"action": "disk", "times": 1},
        other={"action": "preempt", "times": 3},
        adapt={"action": "nan", "at": 2, "times": 1},
    )
    code, output = study.run(retries={"wait_s": 0.3})
    assert code == 4 and [study.starts(stage) for stage in ALL] == [2, 4, 1, 0], output
    retried = study.events("job_retried")
    assert sorted((event["kind"], event["wait_s"]) for event in retried) == [("disk", 0.3), *[("preempted", 0.0)] * 3]
    assert "starts again in 0 s, as the last one failed (disk): disk at 1" in output
    assert "resources.retries.nan is 0" in output and "next: lower learning_rate" in output
    assert {event["kind"] for event in study.events("job_failed")} == {"disk", "preempted", "nan"}


def test_a_waiting_job_whose_folder_was_cleaned_away_starts_all_the_same(study, until):
    study.behave(base={"steps": 20, "step_s": 0.05})
    process = study.launch(slots=1)
    until(lambda: study.starts("base"), "the first job")
    shutil.rmtree(study.folder("other").root)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert study.steps("other") == [1, 2, 3]


def test_a_job_that_comes_without_its_parents_is_not_made_again(study, until):
    """As those of an allocation and of `eval` do: it would start from a model that nobody trained, and be believed."""
    study.behave(base={"steps": 20, "step_s": 0.05})
    process = study.launch(slots=1, env={"CUT_JOBS": "1"})
    until(lambda: study.starts("base"), "the first job")
    shutil.rmtree(study.folder("other").root)
    assert process.wait(30) == 4
    assert not study.folder("other").job_json.exists() and not study.folder("other").result_json.exists()


def test_a_pause_leaves_the_slot_to_others_and_ends_with_a_stop(study, until):
    study.behave(base={"action": "disk"})
    process = study.launch(slots=1, retries={"wait_s": 600})
    until(lambda: study.folder("other").result_json.exists(), "the other job")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and "1 paused" in output and "starts again in 600 s" in output


@pytest.mark.slow
def test_a_job_that_stands_still_is_ended_and_started_again(study):
    study.keep("base")
    study.behave(base={"action": "freeze", "at": 2, "times": 1})
    code, output = study.run(timeout_s=1.0)
    assert code == 0 and study.steps("base") == [1, 2, 3], output
    failed = study.events("job_failed")[0]
    assert failed["kind"] == "hang" and "rank 0 gave no sign of life for" in failed["message"]
    assert "in phase train after step 1" in failed["message"]


@pytest.mark.slow
def test_a_job_that_hangs_before_its_first_sign_of_life_is_ended_and_started_again(study):
    study.keep("base")
    study.behave(base={"action": "mute", "times": 1})
    code, output = study.run(start_timeout_s=1.0, timeout_s=60.0)
    assert code == 0 and study.starts("base") == 2, output
    (failed,) = study.events("job_failed")
    assert (failed["kind"], failed["step"]) == ("hang", None)
    assert failed["message"].startswith("no sign of life since it was started ")
    assert 'last line of its log: "importing something large"' in failed["message"]


def test_killed_job_names_the_signal_and_leaves_a_failure(study):
    study.keep("base")
    study.behave(base={"action": "sigkill", "at": 2})
    code, output = study.run(max_retries=0)
    assert code == 4 and "killed by signal 9 (SIGKILL)" in output
    event = study.events("job_failed")[0]
    assert (event["kind"], event["signal"], event["step"]) == ("killed", 9, 1)
    assert '"kind": "killed"' in study.folder("base").failure_json.read_text()


@pytest.mark.slow
def test_job_that_dies_without_a_word_is_told_by_its_last_line(study):
    study.keep("base")
    study.behave(base={"action": "cry"})
    code, output = study.run(max_retries=0)
    assert code == 4 and "exit code 3" in output
    study.behave()
    assert study.run()[0] == 0


def test_interrupt_lets_jobs_save_and_a_later_run_continues(study, until):
    study.keep("base")
    study.behave(base={"steps": 200, "step_s": 0.02})
    process = study.launch()
    until(lambda: study.folder("base").root.joinpath("state.json").exists(), "the first step")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and "run again to continue" in output
    assert re.search(
        r"stopping: 1 job may save, [0-9.]+ s at most; a second signal \(Ctrl-C\) kills what runs\n", output
    ), output
    saved = len(study.steps("base"))
    told = [event["step"] for event in study.events("job_interrupted") if event["job"].startswith("base")]
    assert told == [saved] and saved < 200
    study.behave(base={"steps": saved + 2})
    assert study.run()[0] == 0
    assert study.steps("base") == list(range(1, saved + 3))


@pytest.mark.slow
def test_hanging_job_is_killed_after_the_grace(study, until):
    study.keep("base")
    study.behave(base={"action": "hang"})
    process = study.launch(stop_grace_s=0.3)
    until(lambda: study.folder("base").root.joinpath("hangs").exists(), "the hang")
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75, output
    study.behave()
    assert study.run()[0] == 0


def test_two_launchers_at_once_run_each_job_once(study):
    study.behave(**{stage: {"steps": 5, "step_s": 0.05} for stage in ALL})
    launchers = [study.launch(slots=1), study.launch(slots=2)]
    outputs = [process.communicate(timeout=60)[0] for process in launchers]
    assert [process.returncode for process in launchers] == [0, 0], outputs
    assert [study.starts(stage) for stage in ALL] == [1] * 4


@pytest.mark.slow
def test_second_launcher_reports_the_firsts_failure_without_repeating_it(study, until):
    study.behave(base={"steps": 100, "step_s": 0.03, "action": "raise", "at": 100}, other={"steps": 1})
    first = study.launch(max_retries=0)
    until(lambda: study.starts("base"), "the first launcher's job")
    second = study.launch(max_retries=0)
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [4, 4], outputs
    assert study.starts("base") == 1 and "raise at 100" in outputs[1]


def test_killed_launcher_leaves_jobs_running_and_the_next_run_waits_for_them(study, until):
    study.keep("base")
    study.behave(base={"steps": 40, "step_s": 0.03})
    process = study.launch()
    until(lambda: study.starts("base"), "the job")
    process.kill()
    process.communicate()
    code, output = study.run()
    assert code == 0, output
    assert study.steps("base") == list(range(1, 41)) and study.starts("base") == 1


@pytest.mark.slow
def test_killed_launcher_and_jobs_are_started_again(study, until):
    study.behave(base={"steps": 40, "step_s": 0.03})
    study.launch()
    until(lambda: study.folder("base").root.joinpath("state.json").exists(), "the first step")
    study.kill_everything()
    assert study.run()[0] == 0
    assert study.starts("base") == 2 and study.values()["base"]


@pytest.mark.slow
def test_torn_journal_line_harms_nothing(study):
    study.run()
    journal = next(study.dir.events.glob("*.jsonl"))
    journal.write_bytes(journal.read_bytes() + b'{"t": 1, "event": "job_sta')
    study.folder("merge").result_json.unlink()
    assert study.run()[0] == 0


def test_jobs_get_threads_devices_and_attempt(study, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    study.keep("base")
    study.run()
    environment = next((study.folder("base").root / "starts").iterdir()).read_text()
    assert '"OMP_NUM_THREADS": "1"' in environment and '"CUDA_VISIBLE_DEVICES": ""' in environment
    assert '"TOKENIZERS_PARALLELISM": "false"' in environment and '"TUNESTUDY_ATTEMPT": "1"' in environment


def test_no_token_reaches_a_file_of_the_launcher(study, monkeypatch):
    token, secret = "hf_" + "e" * 30, "correct horse " + "battery"
    monkeypatch.setattr("platform.node", lambda: f"node-{token}")
    monkeypatch.setenv("MY_SECRET", secret)
    monkeypatch.setenv("SAID", f"{token} and {secret}")
    study.keep("base")
    study.behave(base={"action": "cry"})
    code, output = study.run(max_retries=0)
    assert code == 4 and "[hidden]" in output and token not in output and secret not in output
    files = [path for path in study.dir.root.rglob("*") if path.is_file() and path.parent.name != "starts"]
    assert len(files) > 5
    for path in files:
        assert token not in str(path), path
        assert token.encode() not in path.read_bytes() and secret.encode() not in path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("way", ["moved", "deleted"])
def test_results_that_go_away_while_jobs_run_are_told_and_jobs_stopped(study, until, way):
    study.behave(base={"steps": 10_000, "step_s": 0.02})
    study.keep("base")
    launcher = study.launch(stop_grace_s=2)
    until(lambda: (study.folder("base").root / "steps.txt").exists(), "a step")
    pid = read_object(study.folder("base").progress_json)["pid"]
    study.dir.root.rename(elsewhere := study.dir.root.with_name("elsewhere"))
    if way == "deleted":
        shutil.rmtree(elsewhere)
        study.folder("base").root.mkdir(parents=True)  # as a job does that saves
    output, _ = launcher.communicate(timeout=30)
    assert f"StudyError: {study.dir.root}: was moved or deleted while jobs ran, so they were stopped" in output
    until(lambda: not Path(f"/proc/{pid}").exists(), "the job's end")


@pytest.mark.slow
def test_results_that_are_moved_and_linked_to_go_on(study, until):
    study.behave(base={"steps": 60, "step_s": 0.05})
    study.keep("base")
    launcher = study.launch()
    until(lambda: (study.folder("base").root / "steps.txt").exists(), "a step")
    study.dir.root.rename(elsewhere := study.dir.root.with_name("elsewhere"))
    study.dir.root.symlink_to(elsewhere)
    output, _ = launcher.communicate(timeout=30)
    assert "was moved or deleted" not in output
    assert launcher.returncode == 0, output
