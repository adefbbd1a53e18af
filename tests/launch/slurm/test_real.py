"""Studies handed to a real SLURM; the jobs' workers are fake, all else is as it is."""

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shell import succeed

from tunestudy.config.errors import Exit
from tunestudy.launch import status
from tunestudy.launch import stop as stopping
from tunestudy.launch.slurm.queue import live_jobs, read_queue
from tunestudy.launch.slurm.status import in_slurm
from tunestudy.records.atomic import read_json

NODES = {"nodes": 2, "gpus": 2}
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.usefixtures("this_cluster")]


def live(study: Any) -> dict[str, Any]:
    return live_jobs(read_queue(study.dir))


def following(study: Any) -> tuple["subprocess.Popen[str]", list[str]]:
    """`tunestudy run` as a process of its own."""
    often = "from tunestudy.launch.slurm import follow; follow.LAST_POLL_S = 1.0"
    command = [sys.executable, "-c", f"{often}; from tunestudy.cli import main; main()", "run", "study.yaml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=study.folder, text=True, **pipes)  # type: ignore[call-overload]
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
    return process, lines


def has_keeper(number: str) -> bool:
    """Whether the process that SLURM has around a batch script lives: it names itself `slurmstepd: [7.batch]`."""
    lines = (_command_of(process) for process in Path("/proc").glob("[0-9]*"))
    return any(line.startswith(f"slurmstepd: [{number}.".encode()) for line in lines)


def _command_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def requeued_now(study: Any, until: Callable[..., None]) -> None:
    """What SLURM queued again starts two minutes later; here, at once."""
    until(lambda: all(entry.is_pending for entry in live(study).values()), "the queue")
    numbers = [entry.id for entry in live(study).values()]
    until(lambda: not any(has_keeper(number) for number in numbers), "the node to be done with it")
    time.sleep(1.5)  # nor does it take a job again within the second in which it was killed
    for entry in live(study).values():
        succeed(["scontrol", "update", f"jobid={entry.id}", "StartTime=now"])


def value_of(steps: int, seed: int = 1) -> str:
    """What the fake worker has in the end when no step was lost or done twice."""
    value = ""
    for step in range(1, steps + 1):
        value = hashlib.sha256(f"{value}/{seed}/{step}".encode()).hexdigest()
    return value


def test_arrays_with_dependencies_and_a_second_run_sends_nothing(on_slurm):
    study = on_slurm(seeds=(1, 2), array=True, time="10m", mem="100M")
    code, output = study.run()
    assert code == 0, output
    sent = study.events("slurm_submitted")
    assert [len(one["jobs"]) for one in sent] == [2, 1, 1]
    first = sent[0]["slurm_id"]
    assert {tuple(one["after"]) for one in sent[1:]} == {(f"{first}_0",), (f"{first}_1",)}
    for seed in (1, 2):
        assert study.steps("base", seed) == study.steps("adapt", seed) == [1, 2, 3]
        assert study.starts("adapt", seed)[0]["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert study.run()[0] == 0 and len(study.events("slurm_submitted")) == 3


def test_an_allocation_packs_jobs_on_the_gpus_of_both_nodes(on_slurm):
    study = on_slurm(seeds=(1, 2, 3, 4), mode="allocation", nodes=2, gpus_per_node=2)
    study.behave(base={"step_s": 0.3})
    code, output = study.run()
    assert code == 0, output
    assert len(study.events("slurm_submitted")) == 1
    started = [event for event in study.events("job_started") if event["job"].startswith("base")]
    assert {event["slot"] for event in started} == {f"node{node}:gpu{gpu}" for node in (1, 2) for gpu in (0, 1)}
    dealt = [
        (env["SLURMD_NODENAME"], env["CUDA_VISIBLE_DEVICES"])
        for seed in range(1, 5)
        for env in study.starts("base", seed)
    ]
    assert sorted(dealt) == [("node1", "0"), ("node1", "1"), ("node2", "0"), ("node2", "1")]


def test_a_time_limit_and_a_node_taken_away_cost_no_step(on_slurm, until):
    """The signal before the limit: saved, queued again, gone on with. Then its node is set down."""
    study = on_slurm(time="10m", requeue=True)
    study.behave(base={"steps": 60, "step_s": 0.1})
    assert study.run(detach=True, only=["short"])[0] == 0
    until(lambda: study.step("base") > 3, "steps")
    number = next(iter(live(study).values())).id
    succeed(["scancel", "--signal=USR1", "--batch", number])
    requeued_now(study, until)
    until(lambda: len(study.starts("base")) == 2 and study.step("base") > 20, "the second life")
    node = next(iter(live(study).values())).nodes
    succeed(["scontrol", "update", f"nodename={node}", "state=down", "reason=lab"])
    try:
        requeued_now(study, until)
        code, output = study.run(only=["short"])
    finally:
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)  # if it has not itself
    assert code == 0, output
    assert read_json(study.job("base").result_json)["value"] == value_of(60)
    assert {event["slurm_id"] for event in study.events("slurm_submitted")} == {number}
    lives = sorted(study.events("slurm_started"), key=lambda event: event["restart"])
    assert [life.get("why") for life in lives] == [None, "its time limit came", "SLURM wanted its node for others"]


def test_stop_and_scancel_from_outside(on_slurm, until, tmp_path: Path):
    ours, others = on_slurm("ours", seeds=(1, 2)), on_slurm("others")
    for study in (ours, others):
        study.behave(base={"steps": 1000, "step_s": 0.1})
        assert study.run(detach=True)[0] == 0
    foreign = succeed(
        ["sbatch", "--parsable", "--job-name=ours:base", "-o", "/dev/null", "--wrap", "sleep 100"]
    ).strip()
    until(lambda: all(study.step("base") > 1 for study in (ours, others)), "steps")
    assert in_slurm(ours.dir, ours.jobs).as_json(ours.job("adapt").root.name)["reason"] == "Dependency"
    assert stopping.stop_study(ours.dir.root) == Exit.DONE
    assert not live(ours) and len(live(others)) == 2
    assert foreign in succeed(["squeue", "-h", "-o", "%i"]).split()
    assert read_json(ours.job("base").progress_json)["phase"] == "interrupted"
    process, lines = following(others)
    until(lambda: any("running" in line for line in lines), "the follower")
    succeed(["scancel", live(others)[others.job("base").root.name].id])
    assert process.wait(timeout=60) == Exit.INTERRUPTED, lines
    assert any("run again to continue" in line for line in lines), lines
    succeed(["scancel", foreign])


def test_a_failed_parent_blocks_its_children(on_slurm):
    study = on_slurm()
    study.behave(base={"action": "user", "at": 2})
    code, output = study.run()
    assert code == Exit.STUDY_WRONG, output
    assert "failed: user at 2" in output and f"not run, because {study.job('base').root.name} failed: adapt-" in output
    assert not study.starts("adapt")


def test_the_controller_is_killed_and_comes_back_while_jobs_run_and_wait(this_cluster, on_slurm, until, capsys):
    study = on_slurm()
    study.behave(base={"steps": 120, "step_s": 0.1})
    process, lines = following(study)
    until(lambda: study.step("base") > 3, "steps")
    this_cluster.save_state(live(study)[study.job("adapt").root.name].id)
    with this_cluster.controller_away():
        until(lambda: any("SLURM's controller does not answer" in line for line in lines), "the word of the follower")
        before = study.step("base")
        status.print_status(status.status(study.loaded, study.folder / "results"))
        told = " ".join(capsys.readouterr().out.split())
        assert "SLURM cannot be asked" in told and "Unable to contact slurm controller" in told
        until(lambda: study.step("base") > before + 3, "steps without a controller")
    assert process.wait(timeout=90) == Exit.DONE, "".join(lines)
    values = [read_json(study.job(stage).result_json)["value"] for stage in ("base", "adapt")]
    assert values == [value_of(120), value_of(3)] and len(study.starts("adapt")) == 1
    assert len(study.events("slurm_submitted")) == 2, "nothing was submitted again"
    assert sum("does not answer" in line for line in lines) == 1, lines


def test_a_job_of_higher_priority_takes_the_node_and_gives_it_back(on_slurm, until):
    study = on_slurm(time="10m", exclude="node2", cpus_per_task=4)
    study.behave(base={"steps": 80, "step_s": 0.1})
    process, lines = following(study)
    until(lambda: study.step("base") > 5, "steps")
    urgent = ["--partition=urgent", "--nodelist=node1", "--cpus-per-task=4", "-o", "/dev/null", "--wrap", "sleep 1"]
    number = succeed(["sbatch", "--parsable", *urgent]).strip()
    until(lambda: succeed(["squeue", "-h", "-t", "all", "-j", number, "-o", "%T"]).strip() == "COMPLETED", "the other")
    assert study.step("base") < 80 and not study.job("base").result_json.exists()
    requeued_now(study, until)
    assert process.wait(timeout=90) == Exit.DONE, lines
    assert read_json(study.job("base").result_json)["value"] == value_of(80)
    assert len(study.starts("base")) == 2 and len(study.events("slurm_submitted")) == 2
    told = [life.get("why") for life in study.events("slurm_started") if life["key"].startswith("base")]
    assert told == [None, "SLURM wanted its node for others"]


def test_an_allocation_goes_on_with_what_an_earlier_one_has_trained(on_slurm, until):
    """Cancelled from outside between a stage and the next: the new submission holds the second alone."""
    study = on_slurm(mode="allocation")
    study.behave(adapt={"steps": 1000, "step_s": 0.1})
    assert study.run(detach=True)[0] == 0
    until(lambda: study.step("adapt") > 1, "steps of the second stage")
    succeed(["scancel", next(iter(live(study).values())).id])
    until(lambda: not live(study), "an empty queue")
    study.behave(adapt={"steps": 3})
    code, output = study.run()
    assert code == 0, output
    first, second = study.events("slurm_submitted")
    assert (len(first["jobs"]), second["jobs"]) == (2, [study.job("adapt").root.name])
