"""What is sent beside what is there already, and what others sent: against a SLURM of files."""

import os
import signal
from typing import Any

import pytest

from tunestudy.cli import app
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import Resources
from tunestudy.launch.slurm import accounting, inside, submit
from tunestudy.launch.slurm.accounting import keep_accounting
from tunestudy.launch.slurm.by_hand import sbatch_lines
from tunestudy.launch.slurm.queue import listed_jobs
from tunestudy.launch.slurm.script import gpus_per_node
from tunestudy.launch.slurm.status import in_slurm
from tunestudy.launch.slurm.stop import stop_submissions
from tunestudy.launch.slurm.submit import Submitter, submissions_of
from tunestudy.records.atomic import read_json, write_json, write_text
from tunestudy.records.events import Journal
from tunestudy.records.lease import Lease


@pytest.fixture
def submitter(cluster: Any, on_slurm: Any) -> Any:
    """`submitter(study)` sends its jobs, or those that are named."""

    def make(study: Any) -> Submitter:
        study.prepare()
        settings = study.loaded.study.resources
        return Submitter(study=study.dir, resources=settings, has_gpus=True, journal=Journal(study.dir.events, "w"))

    return make


def test_what_a_waiting_allocation_does_not_hold_waits_for_it(cluster, on_slurm, submitter):
    study = on_slurm(seeds=(1, 2), mode="allocation")
    one = submitter(study)
    first = [job for job in study.jobs if job.seed == 1]
    (number,) = set(one.send(first, {}).values())
    assert set(one.send(study.jobs, {})) == {job.id for job in first} and number in one.full and len(cluster.queue) == 1
    assert list(listed_jobs(study.dir.slurm.jobs("allocation"))) == [job.id for job in first]
    cluster.forget(number)
    assert len(one.send([job for job in study.jobs if job.seed == 2], {})) == 2 and not one.full


def test_elements_of_an_array_wait_for_the_same_jobs(on_slurm):
    """A parent that has failed takes an array with it, so those whose parents are trained are not in it."""
    study = on_slurm(seeds=(1, 2), array=True)
    settings = study.loaded.study.resources
    base = {job.seed: job.id for job in study.jobs if job.stage == "base"}
    adapt = [job for job in study.jobs if job.stage == "adapt"]
    assert [len(one.jobs) for one in submissions_of(adapt, settings, {base[1]: True, base[2]: False})] == [1, 1]
    assert [len(one.jobs) for one in submissions_of(adapt, settings, dict.fromkeys(base.values(), True))] == [2]


def test_another_who_submits_for_long_is_named(cluster, on_slurm, submitter, monkeypatch):
    study = on_slurm()
    one = submitter(study)
    monkeypatch.setattr(submit, "LEASE_WAIT_S", 0.0)
    monkeypatch.setattr("tunestudy.launch.slurm.by_hand.LEASE_WAIT_S", 0.0)
    with Lease.acquire(study.dir.leases / "slurm"):
        assert one.send(study.jobs, {}) == {} and "is submitting jobs of this study" in one.full
        with pytest.raises(StudyError, match="is submitting jobs of this study; try again"):
            sbatch_lines(study.jobs, study.dir, study.loaded.study.resources)


@pytest.mark.parametrize("how", [{"mode": "jobs"}, {"mode": "allocation"}, {"array": True}])
def test_what_another_run_saw_done_while_this_one_waited_is_not_sent_again(cluster, on_slurm, submitter, how):
    study = on_slurm(seeds=(1, 2), **how)
    base = next(job for job in study.jobs if job.stage == "base")
    write_json(study.dir.job(base.id).result_json, {"fingerprint": base.fingerprint})
    for name, evaluation in base.evaluations.items():
        write_json(study.dir.job(base.id).eval_json(name), {"fingerprint": evaluation.fingerprint})
    assert set(submitter(study).send(study.jobs, {})) == {job.id for job in study.jobs} - {base.id}


def test_only_what_is_about_to_be_sent_is_looked_at(cluster, on_slurm, submitter, monkeypatch):
    """Plans have 10,000 jobs, and others wait for their turn meanwhile."""
    looked: list[str] = []
    monkeypatch.setattr(submit, "is_complete", lambda job, _: bool(looked.append(job.id)))
    study = on_slurm(seeds=(1, 2), max_submitted=1)
    one = submitter(study)
    for _ in range(3):
        one.send(study.jobs, {})
    assert looked == [study.jobs[0].id] and one.full == "slurm.max_submitted is 1"


@pytest.mark.parametrize("cannot_ask", [False, True])
def test_clean_leaves_what_another_run_left_in_the_queue(cluster, on_slurm, submitter, capsys, cannot_ask):
    """After `run --detach` with other settings no process of ours lives that would tell of its jobs."""
    study = on_slurm(seeds=(1,))
    submitter(study).send(study.jobs, {})
    queued = {job.id for job in study.jobs}
    text = study.file.read_text()
    study.file.write_text(text.replace("seeds: [1]", "seeds: [2]"))
    study.prepare()
    study.file.write_text(text.replace("seeds: [1]", "seeds: [3]"))
    unread = study.dir.fetch / ("d" * 16)
    unread.mkdir(parents=True)

    def clean() -> str:
        if cannot_ask:
            cluster.fail("squeue", "Invalid user: someone", times=9)
        app(
            ["clean", str(study.file), f"--results={study.dir.root.parent}", "--yes", "--caches"], standalone_mode=False
        )
        return capsys.readouterr().out

    why = "SLURM cannot be asked whether it is in its queue, kept" if cannot_ask else "queued as "
    assert clean().count(why) == 2 and {path.name for path in study.dir.jobs.iterdir()} == queued and unread.is_dir()
    for job in queued:
        write_json(study.dir.job(job).result_json, {})
    for number in cluster.queue:
        cluster.forget(number)
    clean()
    assert not any(study.dir.jobs.iterdir()) and not unread.is_dir()


def test_lines_by_hand_leave_a_waiting_allocation_its_list(cluster, on_slurm, submitter):
    study = on_slurm(mode="allocation")
    submitter(study).send(study.jobs, {})
    listed = study.dir.slurm.jobs("allocation").read_text()
    with pytest.raises(StudyError, match=r"allocation \d+ is in SLURM's queue; wait for it, or end it"):
        sbatch_lines(study.jobs[:1], study.dir, study.loaded.study.resources)
    assert study.dir.slurm.jobs("allocation").read_text() == listed


def test_lines_sent_by_hand_are_seen_and_stopped(cluster, on_slurm, submitter):
    study = on_slurm()
    submitter(study).send(study.jobs, {})
    for file in study.dir.slurm.submissions.iterdir():
        file.unlink()  # as after `tunestudy commands`, whose lines a person has sent
    assert in_slurm(study.dir, study.jobs).live
    assert stop_submissions(study.dir) == 2 and not cluster.queue


def test_what_a_colleague_sent_is_not_waited_for_without_end(cluster, on_slurm, submitter):
    study = on_slurm()
    submitter(study).send(study.jobs, {})
    cluster.fail("scancel", "Kill job error on job id: Access/permission denied")
    with pytest.raises(StudyError, match="may not be ended by you: "):
        stop_submissions(study.dir)
    assert len(cluster.queue) == 1


@pytest.mark.parametrize(
    ("asked", "gpus"),
    [
        ({"ranks": 2}, 2),
        ({"gpus_per_rank": 2}, 2),
        ({"ranks": 2, "slots": 3}, 4),
        ({"gpus": 8}, 4),
        ({"ranks": 4, "gpus": 4}, 4),
    ],
)
def test_a_node_of_an_allocation_has_room_for_a_whole_job(asked, gpus):
    resources = Resources.model_validate({"executor": "slurm", "slurm": {"nodes": 2, "mode": "allocation"}, **asked})
    assert gpus_per_node(resources, allocation=True, has_gpus=True) == gpus


def test_an_array_is_asked_about_until_all_its_elements_have_ended(on_slurm, monkeypatch):
    study = on_slurm()
    study.prepare()
    study.dir.slurm.root.mkdir()
    with Journal(study.dir.events, "w") as journal:
        journal.write("slurm_submitted", slurm_id="12", key="array-1", jobs=["a", "b", "c"], after=[])
    told = ["12_0|COMPLETED|60|gres/gpu=1\n12_[1-2]|PENDING|0|"]
    told += [f"12_{n}|COMPLETED|60|gres/gpu=1" for n in range(3)]
    answers = iter([told[0], "\n".join(told[1:])])
    monkeypatch.setattr(accounting, "ask", lambda *_: next(answers))
    keep_accounting(study.dir)
    keep_accounting(study.dir)
    kept = read_json(study.dir.slurm.accounting)
    assert sorted(kept) == ["12_0", "12_1", "12_2"] and all(one[0]["elapsed_s"] == 60 for one in kept.values())
    keep_accounting(study.dir)  # all have ended: sacct, which has no answer left, is not asked


def test_a_long_evaluation_is_not_stuck_while_it_answers(on_slurm, monkeypatch):
    """Two time limits in one evaluation: no step is made, but answers are; without any, those who wait still start."""
    study = on_slurm()
    study.prepare()
    base, _ = study.jobs
    folder = study.dir.job(base.id)
    study.dir.slurm.root.mkdir()
    study.dir.slurm.jobs(base.id).write_text(f"{base.id}\n")
    write_json(folder.result_json, {"fingerprint": base.fingerprint})
    write_json(folder.progress_json, {"step": 3})
    answers = iter(["one\n", "one\ntwo\n", "one\ntwo\n"])
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(inside, "allocated_nodes", lambda: ["node1"])
    monkeypatch.setattr(inside, "place_for", lambda *_, **__: None)
    monkeypatch.setattr(inside, "requeue", lambda: True)

    def interrupted(*_: object, **__: object) -> Exit:
        write_text(folder.eval / "exam.part-0.jsonl", next(answers))
        os.kill(os.getpid(), signal.SIGUSR1)
        return Exit.INTERRUPTED

    monkeypatch.setattr(inside, "carry_out", interrupted)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        for life in range(3):
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(life))
            assert inside.main(str(study.dir.root), base.id) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    left = study.events("slurm_left")
    assert [event["reason"] for event in left] == ["time limit", "time limit", "stuck"]
    assert [event["went_on"] for event in left] == [True, True, False]


def test_secrets_behind_an_option_are_found_as_well(on_slurm, monkeypatch):
    from tunestudy.preflight.checks import more_environment_problems

    token = "hf" + "_" + "x" * 30
    for told in ({"sbatch": [f"--export=HF_TOKEN={token}"]}, {"wrap": f"apptainer exec --env=HF_TOKEN={token} i.sif"}):
        resources = Resources.model_validate({"executor": "slurm", "slurm": told})
        (problem,) = more_environment_problems(resources)
        assert "secrets do not belong in a study file" in problem.message and token not in str(problem)
    fine = {"sbatch": ["--export=HF_TOKEN=$HF_TOKEN"], "wrap": "apptainer exec --env=HF_HOME=/data i.sif"}
    assert not list(more_environment_problems(Resources.model_validate({"executor": "slurm", "slurm": fine})))
