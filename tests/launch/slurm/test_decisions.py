"""What is submitted, when, and what is said: against a SLURM of files."""

import errno
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import Resources
from tunestudy.launch.slurm import inside
from tunestudy.launch.slurm.accounting import keep_accounting
from tunestudy.launch.slurm.by_hand import sbatch_lines
from tunestudy.launch.slurm.follow import Follower, submit_once, tasks_of
from tunestudy.launch.slurm.history import lives
from tunestudy.launch.slurm.inside import requeue, whence
from tunestudy.launch.slurm.left import verdict_on
from tunestudy.launch.slurm.mark import mark_of
from tunestudy.launch.slurm.place import allocated_nodes
from tunestudy.launch.slurm.queue import Queued, read_queue
from tunestudy.launch.slurm.script import ASKS_FOR_REQUEUE, Submission, clock, script
from tunestudy.launch.slurm.status import in_slurm
from tunestudy.launch.slurm.stop import stop_submissions
from tunestudy.launch.slurm.submit import Submitter
from tunestudy.preflight.slurm import slurm_problems
from tunestudy.records.atomic import write_json, write_text
from tunestudy.records.events import Journal
from tunestudy.records.layout import StudyDir


def once(study: Any, **slurm: Any) -> tuple[list[Any], str]:
    study.prepare()
    return submit_once(study.dir, study.jobs, resources(study, **slurm), has_gpus=True)


def resources(study: Any, **slurm: Any) -> Resources:
    before = study.loaded.study.resources
    return before.model_copy(update={"slurm": before.slurm.model_copy(update=slurm)})


def test_every_job_once_with_its_parents_and_never_again(cluster, on_slurm):
    study = on_slurm(seeds=(1, 2))
    once(study)
    once(study)
    assert len(cluster.queue) == 4
    names = {one["name"].partition(":")[2]: number for number, one in cluster.queue.items()}
    base, adapt = study.job("base").root.name, study.job("adapt").root.name
    assert cluster.queue[names[adapt]]["after"] == f"--dependency=afterok:{names[base]}"


def test_two_people_who_want_the_same_submit_it_once(cluster, on_slurm):
    """Both looked at the queue before either submitted: who comes second looks again."""
    study = on_slurm()
    study.prepare()
    with Journal(study.dir.events, "w") as journal:
        for _ in range(2):
            one = Submitter(study=study.dir, resources=resources(study), has_gpus=True, journal=journal)
            one.send(study.jobs, {})
    assert len(cluster.queue) == 2


def test_the_same_folder_by_another_path_submits_nothing_twice_and_a_copy_is_another(cluster, on_slurm):
    """Moved, a folder is as it is seen by another mount path: another name, the same place on the disk."""
    study = on_slurm()
    once(study)
    copy = StudyDir(study.dir.root.with_name("copy"))
    shutil.copytree(study.dir.root, copy.root)
    study.dir.root.rename(study.dir.root.with_name("other"))
    elsewhere = StudyDir(study.dir.root.with_name("other"))
    with Journal(elsewhere.events, "w") as journal:
        one = Submitter(study=elsewhere, resources=resources(study), has_gpus=True, journal=journal)
        assert set(one.send(study.jobs, {}).values()) == set(cluster.queue) and len(read_queue(elsewhere)) == 2
        assert len(cluster.calls("sbatch")) == 2
        stop_submissions(copy)
        assert len(cluster.queue) == 2, "what the original has in the queue is not its copy's"
        replace(one, study=copy).send(study.jobs, {})
    assert len(cluster.queue) == 4 and len(read_queue(copy)) == 2


def test_submissions_from_before_folders_had_marks_stay_theirs(cluster, on_slurm):
    study = on_slurm()
    study.prepare()
    study.dir.slurm.submissions.mkdir(parents=True)
    by_path = mark_of(study.dir)
    once(study)
    assert mark_of(study.dir) == by_path == next(iter(cluster.queue.values()))["comment"]


def test_a_submission_whose_answer_was_lost_is_found_and_not_repeated(cluster, on_slurm):
    study = on_slurm()
    cluster.fail("sbatch", "arrived Batch job submission failed: Socket timed out on send/recv operation")
    once(study)
    assert len(cluster.queue) == 2 and len(cluster.calls("sbatch")) == 2


@pytest.mark.parametrize(
    "said", ["Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"]
)
def test_a_full_queue_keeps_the_rest_for_later(cluster, on_slurm, said):
    study = on_slurm(seeds=(1, 2))
    study.prepare()
    tasks = tasks_of(study.dir, study.jobs)
    with Journal(study.dir.events, "w") as journal:
        sent = Submitter(study=study.dir, resources=resources(study), has_gpus=True, journal=journal)
        follower = Follower(study=study.dir, tasks=tasks, resources=resources(study), submitter=sent)
        cluster.fail("sbatch", said)
        assert follower.round() and not cluster.queue and "QOS policy" in sent.full
        assert follower.round() and len(cluster.queue) == 4 and not sent.full


def test_max_submitted_counts_elements_of_arrays(cluster, on_slurm):
    study = on_slurm(seeds=(1, 2, 3))
    _, full = once(study, max_submitted=2, array=True)
    assert len(cluster.queue) == 2 and "max_submitted is 2" in full
    assert len(once(study, max_submitted=4)[0]) == 6 and len(cluster.queue) == 4


def test_what_sbatch_refuses_is_told_in_its_words(cluster, on_slurm):
    study = on_slurm()
    cluster.fail("sbatch", "Batch job submission failed: Invalid account or account/partition combination specified")
    with pytest.raises(StudyError, match=r"SLURM refuses: .*Invalid account or account/partition"):
        once(study)
    cluster.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)", times=9)
    with pytest.raises(StudyError, match=r"controller does not answer.*`tunestudy run` continues"):
        once(study)


def test_stop_and_status_see_this_results_folder_alone(cluster, on_slurm, monkeypatch):
    ours, others = on_slurm("ours"), on_slurm("others")
    once(ours)
    once(others)
    assert {entry.id for entry in read_queue(ours.dir)} | {entry.id for entry in read_queue(others.dir)} == set(
        cluster.queue
    )
    stop_submissions(ours.dir)
    assert {one["comment"] for one in cluster.queue.values()} == {mark_of(others.dir)}
    words = in_slurm(others.dir, others.jobs).words(others.job("adapt").root.name)
    assert "waits for the jobs that it starts from" in words
    cluster.fail("squeue", "Unable to contact slurm controller")
    assert "cannot be asked" in in_slurm(others.dir, others.jobs).problem


def entry(**facts: str) -> list[Queued]:
    told = {"id": "7", "key": "k", "state": "CANCELLED", "nodes": "", "reason": "None", **facts}
    return [Queued(**told)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "outcome", "words"),
    [
        ("NODE_FAIL", "again", "lost its node"),
        ("TIMEOUT", "again", "signal_s"),
        ("PREEMPTED", "again", "to another job"),
        ("CANCELLED", "stopped", "cancelled from outside"),
        ("OUT_OF_MEMORY", "failed", "raise resources.slurm.mem"),
        ("FAILED", "failed", "before the job began: module: command not found"),
    ],
)
def test_submissions_that_left_without_a_result(on_slurm, state, outcome, words):
    study = on_slurm()
    study.prepare()
    study.dir.slurm.outputs.mkdir(parents=True)
    (study.dir.slurm.outputs / "k.7.out").write_text("module: command not found\n\n")
    verdict = verdict_on(study.jobs[0], study.dir, entry(state=state), "7", failed_before=None)
    assert verdict.outcome == outcome and words in verdict.message


def test_a_disk_that_is_full_under_a_submission(on_slurm, monkeypatch, capsys):
    study = on_slurm()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events")

    monkeypatch.setattr(inside, "carried_out", full)
    assert inside.main(str(study.dir.root), "k") == 4
    said = capsys.readouterr().err
    assert "No space left on device; make room there" in said
    study.prepare()
    study.dir.slurm.outputs.mkdir(parents=True)
    (study.dir.slurm.outputs / "k.7.out").write_text(said)
    with Journal(study.dir.events, "node") as journal:
        journal.write("slurm_started", slurm_id="7", key="k", jobs=["j"], nodes=["n1"], gpus=0, restart=0)
    verdict = verdict_on(study.jobs[0], study.dir, entry(state="FAILED"), "7", failed_before=None)
    assert verdict.outcome == "stopped" and "ended early" in verdict.message and "No space left" in verdict.message


def test_results_that_go_away_under_a_submission_are_told_without_a_traceback(tmp_path, monkeypatch, capsys):
    def gone(*_: object) -> int:
        raise StudyError("results/s", "was moved or deleted", exit_code=Exit.PREFLIGHT_REFUSED)

    monkeypatch.setattr(inside, "carried_out", gone)
    assert inside.main(str(tmp_path), "k") == 3
    assert capsys.readouterr().err == "results/s: was moved or deleted\n"


def test_a_login_node_without_sacct(cluster, on_slurm, monkeypatch):
    """Nor anything else of SLURM's than the fake programs: what left the queue long ago is simply unknown."""
    study = on_slurm()
    study.prepare()
    monkeypatch.setenv("PATH", str(cluster.home))
    cluster.fail("scontrol", "slurm_load_jobs error: Invalid job id specified")
    verdict = verdict_on(study.jobs[0], study.dir, [], "7", failed_before=None)
    assert verdict.outcome == "stopped" and "SLURM says no more about it" in verdict.message
    keep_accounting(study.dir)


def test_a_controller_that_goes_away_between_two_questions_changes_no_verdict(cluster, on_slurm):
    study = on_slurm()
    study.prepare()
    tasks = tasks_of(study.dir, study.jobs)
    with Journal(study.dir.events, "w") as journal:
        sent = Submitter(study=study.dir, resources=resources(study), has_gpus=True, journal=journal)
        follower = Follower(study=study.dir, tasks=tasks, resources=resources(study), submitter=sent)
        follower.round()
        for number in list(cluster.queue):  # from outside
            cluster.forget(number)
        cluster.fail("scontrol", "Unable to contact slurm controller (connect failure)")
        assert follower.round() and follower.silent and not cluster.queue
        cluster.fail("scontrol", "slurm_load_jobs error: Invalid job id specified", times=2)
        assert not follower.round() and not cluster.queue, "a job that was cancelled from outside is not sent again"


def test_a_controller_that_comes_back_without_a_submission_gets_it_again(cluster, on_slurm):
    """Killed, it knows what it last saved; what it forgot was not cancelled by anyone."""
    study = on_slurm()
    study.prepare()
    tasks = tasks_of(study.dir, study.jobs)
    with Journal(study.dir.events, "w") as journal:
        sent = Submitter(study=study.dir, resources=resources(study), has_gpus=True, journal=journal)
        follower = Follower(study=study.dir, tasks=tasks, resources=resources(study), submitter=sent)
        follower.round()
        child = next(number for number, one in cluster.queue.items() if one["after"])
        cluster.fail("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
        assert follower.round() and follower.silent
        cluster.forget(child)
        assert follower.round() and len(cluster.queue) == 2 and child not in cluster.queue
    [lost] = study.events("slurm_lost")
    assert lost["message"] == f"SLURM's controller came back without submission {child}"


def test_a_submission_of_somebody_else_that_never_starts(cluster, on_slurm):
    study = on_slurm()
    study.prepare()
    tasks = tasks_of(study.dir, study.jobs)
    with Journal(study.dir.events, "w") as journal:
        sent = Submitter(study=study.dir, resources=resources(study), has_gpus=True, journal=journal)
        follower = Follower(study=study.dir, tasks=tasks, resources=resources(study), submitter=sent)
        follower.round()
        child = next(number for number, one in cluster.queue.items() if one["after"])
        cluster.change(child, reason="DependencyNeverSatisfied")
        cluster.fail("scancel", "Kill job error on job id 3: Access/permission denied")
        follower.round()
    assert [(task.state, "whoever submitted it" in task.note) for task in tasks] == [
        ("queued", False),
        ("interrupted", True),
    ]


def test_inside_of_a_container_without_scontrol(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[09-11,7]-ib,big")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu10-ib")
    assert allocated_nodes() == ["gpu10-ib", "gpu09-ib", "gpu11-ib", "gpu7-ib", "big"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    requeue()
    assert "SLURM does not queue 7 again (there is no scontrol" in capsys.readouterr().err


def test_a_life_without_last_words_lost_its_node():
    start = {"event": "slurm_started", "slurm_id": "7", "key": "k", "gpus": 1, "jobs": ["j"], "nodes": ["n1"]}
    left = {"event": "slurm_left", "slurm_id": "7", "reason": "time limit", "steps": {"j": 5}}
    # the clock of the first node is two hours ahead
    told = [
        {**start, "t": 10.0, "restart": 1},
        {**start, "t": 7200.0, "restart": 0},
        {**left, "t": 7201.0, "restart": 0},
    ]
    first, second = lives(told)
    assert (first.reason, second.reason) == ("time limit", None)


def test_kinds_of_a_new_start(monkeypatch):
    start = {"event": "slurm_started", "slurm_id": "7", "key": "k", "gpus": 1, "jobs": ["j"], "nodes": ["n1"], "t": 0.0}
    left = {"event": "slurm_left", "slurm_id": "7", "restart": 0, "t": 1.0, "steps": {}}
    assert whence(lives([{**start, "restart": 0}])) == {}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert whence(lives([{**start, "restart": 0}]))["kind"] == "node_lost"
    for reason, why in (("time limit", "its time limit came"), ("interrupted", "SLURM wanted its node for others")):
        told = whence(lives([{**start, "restart": 0}, {**left, "reason": reason}]))
        assert told == {"kind": "preempted", "why": why}


def test_answers_whose_file_goes_while_they_are_counted(on_slurm):
    study = on_slurm()
    folder = study.dir.job(study.jobs[0].id)
    write_text(folder.eval / "a.part-0.jsonl", "12345")
    (folder.eval / "a.part-1.jsonl").symlink_to("gone")  # listed, and no longer there
    assert inside.made_of(study.dir, study.jobs[0]).answered_bytes == 5


def test_the_file_for_sbatch(cluster, on_slurm, monkeypatch):
    study = on_slurm()
    monkeypatch.chdir(study.folder)
    settings = {"partition": "lab", "account": "phys", "time": 36 * 3600.0, "mem": "120G", "cpus_per_task": 8}
    more = {"prologue": ("module load cuda",), "wrap": "apptainer exec --nv image.sif", "sbatch": ("--mail-type=END",)}
    one = Submission.of(study.jobs[:1])
    text = script(one, study.dir, resources(study, **settings, **more, python=None, signal_s=120.0), has_gpus=True)
    for line in (
        f"#SBATCH --job-name=s:{one.key}",
        "#SBATCH --partition=lab",
        "#SBATCH --account=phys",
        "#SBATCH --time=1-12:00:00",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --mem=120G",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --mail-type=END",
        "module load cuda",
    ):
        assert line in text.splitlines()
    command = f"{sys.executable} -u -m tunestudy.launch.slurm.inside results/s {one.key}"
    assert f"apptainer exec --nv image.sif {command} &" in text.splitlines()
    plain = script(one, study.dir, resources(study, python=None), has_gpus=True)
    assert plain.splitlines()[-1] == f"exec {command}"
    assert str(study.folder) not in text.replace(f"by hand, in {study.folder}:", "")
    assert [clock(seconds) for seconds in (20, 3600, 90061)] == ["00:01:00", "01:00:00", "1-01:02:00"]


def test_a_folder_with_a_space_stays_one_option(cluster, on_slurm, monkeypatch):
    study = on_slurm()
    (study.folder / "my results").mkdir()
    monkeypatch.chdir(study.folder)
    there = StudyDir(Path("my results") / "s")
    text = script(Submission.of(study.jobs[:1]), there, resources(study), has_gpus=True)
    assert f"#SBATCH --output='my results/s/slurm/logs/{study.jobs[0].id}.%j.out'" in text.splitlines()
    assert sbatch_lines(study.jobs[:1], there, resources(study))[0].endswith(".sbatch')")


def test_lines_to_submit_by_hand(cluster, on_slurm, monkeypatch):
    study = on_slurm(seeds=(1, 2))
    monkeypatch.chdir(study.folder)
    lines = sbatch_lines(study.jobs, study.dir, resources(study, array=True))
    assert lines[0].startswith("s0=$(sbatch --parsable results/s/slurm/array-")
    assert "--dependency=afterok:${s0}_0 " in lines[1] and "--dependency=afterok:${s0}_1 " in lines[2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partition": "shrot"}, "there is no partition shrot; did you mean short? this cluster has: lab, short, cpus"),
        ({"partition": "short,shrot"}, "there is no partition shrot"),
        ({"partition": "short", "time": "2h"}, "2 h is above the 0.5 h of partition short; set 0.5h or less"),
        ({"time": "5m", "signal_s": 600}, "600 s before the limit is before the start"),
        ({"partition": "cpus", "gpus_per_node": 1}, "partition cpus has no GPUs"),
        ({"nodes": 3, "mode": "allocation"}, "3 nodes are more than the 2 of partition lab"),
    ],
)
def test_what_would_never_start_is_refused_at_once(cluster, on_slurm, settings, words):
    problems = list(slurm_problems(on_slurm(**settings).loaded.study.resources))
    assert words in "; ".join(map(str, problems))


def test_a_machine_without_slurm_and_a_silent_controller(cluster, on_slurm, monkeypatch):
    wanted = on_slurm().loaded.study.resources
    cluster.fail("sinfo", "slurm_load_partitions: Unable to contact slurm controller (connect failure)")
    assert "SLURM does not answer" in str(next(slurm_problems(wanted)))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no sbatch on this machine; run it on a login node" in str(next(slurm_problems(wanted)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nodes": 2}, "set launcher: srun"),
        ({"mode": "allocation", "array": True}, "an allocation is one submission"),
        ({"max_running": 2}, "set slurm.array: true"),
        ({"sbatch": ["--comment=x"]}, "--comment is set by tunestudy"),
        ({"sbatch": ["exclusive"]}, "`exclusive` is no option of sbatch"),
        ({"partitoin": "lab"}, "partition"),
        ({"time": "soon"}, "duration"),
        ({"time": "999999999999h"}, "at most"),
        ({"account": "phys lab"}, "one word"),
        ({"partition": "gpu\n#SBATCH --exclusive"}, "one word"),
    ],
)
def test_settings_that_contradict_each_other(on_slurm, settings, words):
    with pytest.raises(StudyError, match=words):
        _ = on_slurm(**settings).loaded


def test_an_allocation_is_packed_by_what_run_knew(on_slurm, monkeypatch):
    study = on_slurm(seeds=(1, 2), mode="allocation")
    study.prepare()
    jobs = study.jobs
    study.dir.slurm.root.mkdir()
    study.dir.slurm.jobs("allocation").write_text("".join(f"{job.id}\n" for job in jobs))
    works = [{"id": jobs[0].id, "seconds": 60.0, "needs": [], "priority": 2, "memory_mb": 7e3}]
    works += [{"id": jobs[1].id, "seconds": 1.0, "needs": [], "known": False, "memory_mb": 5e3}]
    study.dir.packing.write_text(json.dumps({"works": works}))
    seen, sizes = {}, []
    monkeypatch.setattr(inside, "place_for", lambda *_, smallest_mb, **__: sizes.append(smallest_mb))
    monkeypatch.setattr(inside, "allocated_nodes", lambda: ["node1"])
    monkeypatch.setattr(inside, "carry_out", lambda *_, works, **__: seen.update(works) or Exit.DONE)
    inside.main(str(study.dir.root), "allocation")
    assert {name: (work.seconds, work.priority, work.known) for name, work in seen.items()} == {
        job.id: (60.0, 2, True) if job is jobs[0] else (1.0, 0, False) for job in jobs
    }
    assert sizes == [5e3], "by which GPUs are shared"


def test_an_allocation_does_not_ask_for_parents_that_others_trained(on_slurm, monkeypatch):
    study = on_slurm(mode="allocation")
    study.prepare()
    base, adapt = study.jobs
    study.dir.slurm.root.mkdir()
    study.dir.slurm.jobs("allocation").write_text(f"{adapt.id}\n")
    seen = []
    monkeypatch.setattr(inside, "place_for", lambda *_, **__: None)
    monkeypatch.setattr(inside, "allocated_nodes", lambda: ["node1"])
    monkeypatch.setattr(inside, "carry_out", lambda _, jobs, *__, **___: seen.extend(jobs) or Exit.DONE)
    assert inside.main(str(study.dir.root), "allocation") == Exit.PREFLIGHT_REFUSED and not seen
    write_json(study.dir.job(base.id).result_json, {"fingerprint": base.fingerprint})
    inside.main(str(study.dir.root), "allocation")
    assert [(job.id, job.needs) for job in seen] == [(adapt.id, ())]


def test_where_no_scontrol_is_the_journal_warns_before_the_time_limit_does(on_slurm, monkeypatch):
    """A container around the whole submission: nobody but a `run` can send the next one."""
    study = on_slurm()
    study.prepare()
    base, _ = study.jobs
    study.dir.slurm.root.mkdir()
    study.dir.slurm.jobs(base.id).write_text(f"{base.id}\n")
    monkeypatch.setattr(inside, "allocated_nodes", lambda: ["node1"])
    monkeypatch.setattr(inside, "place_for", lambda *_, **__: None)
    monkeypatch.setattr(inside, "carry_out", lambda *_, **__: Exit.DONE)
    monkeypatch.setattr(inside.shutil, "which", lambda _: "/usr/bin/scontrol")
    inside.main(str(study.dir.root), base.id)
    assert study.events("alert") == []
    monkeypatch.setattr(inside.shutil, "which", lambda _: None)
    inside.main(str(study.dir.root), base.id)
    [alert] = study.events("alert")
    assert "leave `tunestudy run` watching" in alert["message"]


def test_the_time_limit_in_a_container_asks_the_shell_around_it(on_slurm, monkeypatch):
    study = on_slurm(wrap="apptainer exec image.sif")
    study.prepare()
    base, _ = study.jobs
    study.dir.slurm.root.mkdir()
    study.dir.slurm.jobs(base.id).write_text(f"{base.id}\n")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(inside, "allocated_nodes", lambda: ["node1"])
    monkeypatch.setattr(inside, "place_for", lambda *_, **__: None)

    def stopped(*_: object, **__: object) -> Exit:
        os.kill(os.getpid(), signal.SIGUSR1)
        return Exit.INTERRUPTED

    monkeypatch.setattr(inside, "carry_out", stopped)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert inside.main(str(study.dir.root), base.id) == ASKS_FOR_REQUEUE
    finally:
        signal.signal(signal.SIGTERM, before)
