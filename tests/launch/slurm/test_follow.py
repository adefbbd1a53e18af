"""What becomes of submissions that left the queue, and with which exit code it ends: against a SLURM of files."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tunestudy.config.errors import Exit
from tunestudy.config.job import Job
from tunestudy.launch.failures import exit_of, print_failures
from tunestudy.launch.slurm.follow import Follower
from tunestudy.launch.slurm.queue import read_queue
from tunestudy.launch.slurm.submit import Submitter
from tunestudy.launch.task import Task
from tunestudy.records.atomic import write_json
from tunestudy.records.events import Journal


class Followed:
    """A study of one job under `run`, whose submissions end as a test wants."""

    def __init__(self, study: Any, journal: Journal, cluster: Any, **retries: int) -> None:
        study.prepare()
        wanted = study.loaded.study.resources
        resources = wanted.model_copy(update={"retries": wanted.retries.model_copy(update=retries)})
        self.study, self.journal, self.cluster, self.job = study, journal, cluster, study.jobs[0]
        self.task = Task(self.job, study.dir.job(self.job.id))
        sent = Submitter(study=study.dir, resources=resources, has_gpus=False, journal=journal)
        self.follower = Follower(study=study.dir, tasks=[self.task], resources=resources, submitter=sent)

    def submission_ends(self, reason: str, *, went_on: bool = False, **failure: Any) -> None:
        """A round that submits, the life of that submission, and the round that finds it gone."""
        self.follower.round()
        if failure:
            facts = {"message": "no such column", "where": "", "rank": 0, "step": 2, "attempt": 1}
            write_json(self.task.folder.failure_json, {**facts, **failure})
        number = self.follower.seen[self.job.id].slurm_id
        place = {"slurm_id": number, "restart": 0}
        self.journal.write("slurm_started", **place, key=self.job.id, jobs=[self.job.id], nodes=["n1"], gpus=0)
        self.journal.write("slurm_left", **place, reason=reason, steps={}, went_on=went_on)
        self.cluster.change(number, state="COMPLETED")
        self.follower.round()


@pytest.fixture
def followed(cluster: Any, on_slurm: Any) -> Iterator[Callable[..., Followed]]:
    study = on_slurm()
    study.prepare()
    with Journal(study.dir.events, "w") as journal:
        yield lambda **retries: Followed(study, journal, cluster, **retries)


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        ({"kind": "user", "where": "data.jsonl:3"}, Exit.STUDY_WRONG, "failed: data.jsonl:3: no such column"),
        ({"kind": "user", "by_expectation": True}, Exit.JOBS_FAILED, "failed: no such column"),
        ({"kind": "nan"}, Exit.JOBS_FAILED, "failed (nan): no such column"),
        ({"kind": "of a later version"}, Exit.JOBS_FAILED, "failed: no such column"),
    ],
)
def test_a_failure_ends_as_it_does_on_this_machine(followed, capsys, told, code, words):
    end = followed()
    end.submission_ends("jobs_failed", **told)
    assert exit_of([end.task], stopped=False) == code
    assert end.task.note == words
    print_failures([end.task])
    said = capsys.readouterr().out
    assert words in said and "last step 2" in said


def test_a_chain_of_time_limits_is_as_long_as_it_gets_somewhere(followed):
    end = followed(preempted=0)
    for _ in range(2):
        end.submission_ends("time limit", went_on=True)
    assert end.task.state == "queued"
    end.submission_ends("time limit")
    assert end.task.state == "failed" and end.task.given_up == "not started again: resources.retries.preempted is 0"
    assert exit_of([end.task], stopped=False) == Exit.JOBS_FAILED
    assert len(end.study.events("slurm_lost")) == 3


def test_a_submission_that_left_before_it_could_try_again_is_sent_again(followed):
    """Its disk was full, it waited for room, and the time limit came: nothing was given up."""
    end = followed()
    end.journal.write("job_retried", job=end.job.id, attempt=1, kind="disk", reason="full", change="", wait_s=30.0)
    end.submission_ends("time limit", went_on=True, kind="disk", message="No space left on device")
    assert end.task.state == "queued" and not end.task.failures


def test_the_queue_is_asked_for_whoever_submits(followed, monkeypatch):
    """The names in the environment are another user's, after `su` for one."""
    monkeypatch.setenv("LOGNAME", "nobody-here")
    end = followed()
    end.follower.round()
    read_queue(end.study.dir)
    assert not any("nobody-here" in call for call in end.cluster.calls("squeue"))


@pytest.mark.parametrize("ended", [False, True])
def test_what_another_run_sent_while_this_one_waited_for_its_turn_is_followed(followed, monkeypatch, ended):
    """This run has read the queue; then the other one sends, and maybe sees the job done."""
    one, other = followed(), followed()
    send = one.follower.submitter.send

    def in_turn(*wanted: Any) -> dict[str, str]:
        other.follower.round()
        if ended:
            write_json(one.task.folder.result_json, {"fingerprint": one.job.fingerprint})
            for name, evaluation in one.job.evaluations.items():
                write_json(one.task.folder.eval_json(name), {"fingerprint": evaluation.fingerprint})
            one.cluster.change(other.follower.seen[one.job.id].slurm_id, state="COMPLETED")
        return send(*wanted)

    monkeypatch.setattr(one.follower.submitter, "send", in_turn)
    assert one.follower.round() and len(one.cluster.calls("sbatch")) == 1
    assert one.task.state == ("waiting" if ended else "queued")
    assert one.follower.round() is not ended and one.task.state == ("done" if ended else "queued")


def test_codes_of_several_ends(on_slurm):
    study = on_slurm()
    study.prepare()

    def ended(job: Job, state: Any) -> Task:
        return Task(job, study.dir.job(job.id), state=state)

    done, left = (ended(job, state) for job, state in zip(study.jobs, ("done", "interrupted"), strict=True))
    assert exit_of([done], stopped=True) == Exit.DONE
    assert exit_of([done, left], stopped=False) == Exit.INTERRUPTED
