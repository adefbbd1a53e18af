"""`status` from files that someone else wrote, and from those of a running study."""

import json
import shutil
from pathlib import Path

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch import logs
from tunestudy.launch.durations import attempts_of
from tunestudy.launch.logs import show
from tunestudy.launch.prepare import prepare
from tunestudy.launch.status import code_of, print_status, status
from tunestudy.launch.stop import stop_study
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.report.collect import collect
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan
from tunestudy.web.board import Board

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}}
datasets: {digits: {type: digits, held_out: 0.1}}
benchmarks: {digits: {type: exact_match, dataset: digits@held_out}}
defaults: {learning_rate: 1.0e-3, max_steps: 2, effective_batch_size: 2}
stages: {base: {data: digits}}
variants: {short: {stages: [base]}}
"""


class Planned:
    """A study of one job, whose folder is there."""

    def __init__(self, root: Path) -> None:
        (root / "study.yaml").write_text(STUDY)
        self.loaded: LoadedStudy = load_study(root / "study.yaml")
        self.results = root / "results"
        plan = make_plan(self.loaded, self.results)
        self.job = plan.jobs[0].job
        self.study: StudyDir = plan.folder
        self.folder: JobDir = plan.folder.job(self.job.id)
        prepare(self.loaded.study, STUDY.encode(), [self.job], plan.as_json(), plan.folder)

    def told(self) -> dict:
        return status(self.loaded, self.results, brief=True)


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    return Planned(tmp_path)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ('{"kind": ["oom"], "message": {"a": 1}}', "failed (['oom']): {'a': 1}"),
        ('{"kind": "boiled over"}', "failed (boiled over): it left no message"),
        ("[]", "its failure.json cannot be read"),
        ('{"kind": "oo', "its failure.json cannot be read"),
        ("", "its failure.json cannot be read"),
    ],
)
def test_a_failure_that_someone_else_wrote(planned: Planned, capsys, failure: str, words: str) -> None:
    planned.folder.failure_json.write_text(failure)
    print_status(planned.told())
    told = capsys.readouterr().out
    assert words in " ".join(told.split()) and "next: read the log" in told


def test_a_job_s_id_stays_on_one_line_in_a_pipe(planned: Planned, capsys) -> None:
    told = planned.told()
    long = {"id": "harder_half-a91f9f2000ab", "variants": ["exp4_two_stages_curriculum"]}
    told["jobs"] = [{**told["jobs"][0], **long}]
    print_status(told)
    assert "harder_half-a91f9f2000ab  exp4_two_stages_curriculum  1 " in capsys.readouterr().out


def test_progress_that_someone_else_wrote(planned: Planned, capsys) -> None:
    planned.folder.progress_json.write_text('{"step": "[/bold]", "loss": "low", "total_steps": {}, "t": "now"}')
    print_status(planned.told())
    assert "interrupted  –" in capsys.readouterr().out


def test_a_journal_that_someone_else_wrote(planned: Planned, capsys) -> None:
    planned.study.events.mkdir()
    good = {"t": 5.0, "event": "job_started", "job": planned.job.id, "attempt": 1}
    lines = [json.dumps(good), "[]", '{"t": "x", "event": "a"}', '{"event": "a"}', '{"t": 1, "event": "job_started"}']
    (planned.study.events / "a.jsonl").write_text("\n".join([*lines, '{"t": 6, "ev']))
    (planned.study.events / "b.jsonl").mkdir()
    events = read_events(planned.study.events)
    assert [(event["t"], event["writer"]) for event in events] == [(1, "a"), (5.0, "a")]
    assert attempts_of(events, planned.study) == {planned.job.id: [(5.0, 5.0)]}
    print_status(planned.told())
    assert "took 0 s" in capsys.readouterr().out


def test_states_by_file(planned: Planned) -> None:
    def state() -> str:
        return planned.told()["jobs"][0]["status"]

    assert state() == "pending"
    planned.folder.progress_json.write_text("{}")
    assert state() == "interrupted"
    planned.folder.result_json.write_text(json.dumps({"fingerprint": "of another"}))
    assert state() == "interrupted"
    planned.folder.result_json.write_text(json.dumps({"fingerprint": planned.job.fingerprint}))
    assert state() == "evaluate"
    planned.folder.eval.mkdir()
    score = {"fingerprint": planned.job.evaluations["digits"].fingerprint}
    planned.folder.eval_json("digits").write_text(json.dumps(score))
    assert state() == "done"
    planned.folder.eval_json("digits").unlink()
    planned.folder.eval_json("digits").mkdir()
    assert state() == "evaluate"


@pytest.mark.parametrize("content", ['{"jobs": 3}', '{"jobs": [3, {"id": 4}]}', '{"jobs": [], "inputs": 3}'])
def test_a_plan_that_someone_else_wrote_compares_with_nothing(planned: Planned, content: str) -> None:
    planned.study.plan_json.write_text(content)
    assert status(planned.loaded, planned.results)["jobs"][0]["status"] == "pending"
    board = Board(planned.study)
    board.refresh()
    assert board.jobs == [] or board.jobs[0].status == "pending"
    assert collect(planned.study).jobs is not None


def test_a_study_that_never_ran_is_not_taken_for_one_that_waits(planned: Planned, capsys) -> None:
    print_status(planned.told())
    assert "nothing has run yet" not in capsys.readouterr().out
    elsewhere = planned.results / "wrong"
    told = status(planned.loaded, elsewhere)
    assert not told["begun"] and not elsewhere.exists()
    print_status(told)
    where = elsewhere / planned.loaded.study.study
    assert f"nothing has run yet: there is no {where}; see --results\n" in capsys.readouterr().out
    assert stop_study(where) == Exit.DONE
    assert f"is running: there is no {where}; see --results\n" in capsys.readouterr().out


def test_the_last_words_of_a_killed_job_are_shown(planned: Planned, capsys) -> None:
    logs = planned.folder.root / "logs"
    logs.mkdir()
    (logs / "rank-0.log").write_text("step 1\nSegmentation fau")
    assert show(planned.study.root, "", follow=False) == Exit.DONE
    assert capsys.readouterr().out == "step 1\nSegmentation fau\n"


def test_what_submissions_printed_stands_before_the_job_they_were_for(planned: Planned, capsys) -> None:
    job = planned.folder.root
    (job / "logs").mkdir()
    (job / "logs" / "rank-0.log").write_text("step 1\n")
    planned.study.slurm.outputs.mkdir(parents=True)
    for name in (f"{job.name}.7.out", f"{job.name}.8.out", f"{job.name}0.9.out", "array-1.7_0.out"):
        (planned.study.slurm.outputs / name).write_text(f"{name}\n")
    assert show(planned.study.root, "", follow=False) == Exit.DONE
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("==>")]
    assert printed == [f"{job.name}.7.out", f"{job.name}.8.out", "step 1"]


def test_a_job_that_is_cleaned_away_while_its_log_is_looked_for(planned: Planned, capsys, monkeypatch) -> None:
    log = planned.folder.root / "logs" / "rank-0.log"
    log.parent.mkdir()
    log.write_text("step 1\n")
    listed = logs.logs_of

    def gone(folder: Path) -> list[Path]:
        found = listed(folder)
        shutil.rmtree(planned.folder.root, ignore_errors=True)
        return found

    monkeypatch.setattr(logs, "logs_of", gone)
    assert show(planned.study.root, "", follow=False) == Exit.DONE
    monkeypatch.setattr(logs, "entries", lambda folder: [planned.folder.root])
    with pytest.raises(StudyError, match="there are: none yet"):
        show(planned.study.root, "", follow=False)
    assert capsys.readouterr().out == ""


def test_files_where_folders_belong(planned: Planned, capsys) -> None:
    planned.study.launchers.mkdir(parents=True)
    (planned.study.launchers / "x").write_text("y")
    (planned.study.jobs / "notes.txt").write_text("x")
    (planned.study.jobs / "gone").symlink_to("nowhere")
    planned.study.slurm.submissions.mkdir(parents=True)
    (planned.study.slurm.submissions / "a.json").write_text('{"slurm_id": "x"}')
    assert planned.told()["launchers"] == []
    assert show(planned.study.root, "", follow=False) == Exit.DONE
    assert stop_study(planned.study.root) == Exit.DONE
    assert capsys.readouterr().out == f"nothing of {planned.study.root.name} is running\n"
    planned.study.plan_json.unlink()
    planned.study.plan_json.mkdir()
    with pytest.raises(StudyError, match="a folder has its name"):
        status(planned.loaded, planned.results)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (("done", "done"), Exit.DONE),
        (("done", "running"), Exit.INTERRUPTED),
        (("done", "evaluate"), Exit.INTERRUPTED),
        (("failed", "pending"), Exit.JOBS_FAILED),
    ],
)
def test_what_a_script_is_told(states: tuple[str, ...], code: Exit) -> None:
    assert code_of({"jobs": [{"status": state} for state in states]}) == code
