"""Failures of real workers, from the failing line to what the launcher does about it."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from tinyjob import ADAPTER, facts_of, make_job

from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.config.study import Study
from tunestudy.launch.carry_out import carry_out
from tunestudy.launch.local import Slot, find_slots
from tunestudy.launch.place import LocalProcess, ThisMachine
from tunestudy.launch.torchrun import TORCHRUN, command_here
from tunestudy.records.atomic import read_json
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir

SCARCE = Path(__file__).parents[1] / "lab" / "scarce_worker.py"
BATCHES = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "padding": "right", "adapter": ADAPTER}


def scarce(folder: JobDir, ranks: int) -> list[str]:
    """The worker that runs out of memory, under torchrun where it has several ranks."""
    if ranks == 1:
        return [sys.executable, "-u", str(SCARCE), str(folder.root)]
    torchrun = [sys.executable, "-m", TORCHRUN, "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
    return [*torchrun, str(SCARCE), str(folder.root)]


def carried_out(
    folder: JobDir,
    command: Callable[[JobDir, int], list[str]],
    env: dict[str, str],
    *,
    place: type[ThisMachine] = ThisMachine,
    **resources: Any,
) -> tuple[int, list[dict[str, Any]]]:
    """`run` of a study of this one job: exit code and journal."""
    job = Job.model_validate_json(folder.job_json.read_text())
    wanted = Resources(**{"slots": 1, **resources})
    model = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}}
    study = Study(study="s", seeds=(1,), model=model, variants={"v": {"stages": {}}}, resources=wanted, env=env)
    code = carry_out(study, [job], folder.study, place=place(find_slots(wanted), command), quiet=False)
    return code, list(read_events(folder.study.events))


def of_kind(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


@pytest.mark.slow
def test_out_of_memory_goes_on_in_smaller_micro_batches_to_the_same_losses(tmp_path: Path) -> None:
    """At step 5 of a job whose full checkpoint is of step 3."""
    for name in ("small", "big"):
        (tmp_path / name).mkdir()
    small = make_job(
        tmp_path / "small", **{**BATCHES, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    )
    big = make_job(tmp_path / "big", **BATCHES)
    assert carried_out(small, command_here, {})[0] == 0
    code, events = carried_out(big, scarce, {"MEMORY_ROWS": "4", "MEMORY_FROM_STEP": "5"})
    assert code == 0
    (retried,) = of_kind(events, "job_retried")
    assert (retried["kind"], retried["step"]) == ("oom", 4)
    assert "per_device_train_batch_size is 4 in place of 8; same effective batch" in retried["change"]
    result = json.loads(big.result_json.read_text())
    assert (result["micro_batch"], result["effective_batch_size"], result["resumed_from"]) == (4, 8, [3])
    pairs = zip(facts_of(small)["loss_log.csv"], facts_of(big)["loss_log.csv"], strict=True)
    for one, other in pairs:
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.alone
def test_one_of_two_ranks_without_memory_ends_both_and_is_the_cause(tmp_path: Path) -> None:
    folder = make_job(tmp_path, **BATCHES, effective_batch_size=16, max_steps=2)
    env = {"MEMORY_ROWS": "4", "MEMORY_RANK": "1"}
    code, events = carried_out(folder, scarce, env, ranks=2)
    assert code == 0
    (failed,) = of_kind(events, "job_failed")
    assert failed["kind"] == "oom" and failed["log"].endswith("rank-1.log") and "Tried to allocate" in failed["message"]
    assert json.loads(folder.result_json.read_text())["micro_batch"] == 4


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_not_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**BATCHES, "optim": "sgd", "learning_rate": 1e30, "max_grad_norm": None, "adapter": None}
    code, events = carried_out(make_job(tmp_path, **settings), command_here, {})
    (failed,) = of_kind(events, "job_failed")
    assert code == 4 and failed["kind"] == "nan", failed
    said = capsys.readouterr().out
    assert "not finite" in said and "resources.retries.nan is 0" in said and "next: lower learning_rate" in said


class Suspending(ThisMachine):
    """Suspends the first worker that it starts, at its fifth step."""

    done = False

    def start(self, folder: JobDir, slot: Slot, environment: Mapping[str, str], log: Path) -> LocalProcess:
        running = super().start(folder, slot, environment, log)
        if not Suspending.done:
            Suspending.done = True
            threading.Thread(target=suspend_at_work, args=(running.pid, folder), daemon=True).start()
        return running


def suspend_at_work(pid: int, folder: JobDir) -> None:
    while ((read_json(folder.progress_json) or {}).get("step") or 0) < 5:
        time.sleep(0.05)
    psutil.Process(pid).suspend()


@pytest.mark.slow
@pytest.mark.alone
def test_a_suspended_worker_is_ended_and_the_job_goes_on(tmp_path: Path) -> None:
    folder = make_job(tmp_path, **BATCHES, max_steps=400, logging_steps=50, save_steps=100, full_save_steps=100)
    code, events = carried_out(folder, command_here, {}, place=Suspending, timeout_s=4.0)
    (failed,) = of_kind(events, "job_failed")
    assert failed["kind"] == "hang" and "rank 0 gave no sign of life" in failed["message"]
    assert f"after step {failed['step']}:" in failed["message"], "not where it came to when it was woken"
    assert "most recent call first" in folder.rank_log(0).read_text()
    assert code == 0 and json.loads(folder.result_json.read_text())["steps"] == 400


STANDS_STILL_AT_FIRST = """
import os, sys, time
while os.environ["TUNESTUDY_ATTEMPT"] == "1":
    time.sleep(1)
sys.path.remove(os.path.dirname(os.path.dirname(__file__)))
del sys.modules["torch"]
import torch
"""


@pytest.mark.slow
@pytest.mark.alone
def test_a_worker_that_waits_for_torch_in_vain_is_ended_and_the_job_begins_anew(tmp_path: Path) -> None:
    folder = make_job(tmp_path, **BATCHES, max_steps=2)
    stub = tmp_path / "packages" / "torch" / "__init__.py"
    stub.parent.mkdir(parents=True)
    stub.write_text(STANDS_STILL_AT_FIRST)
    path = os.pathsep.join([str(tmp_path / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])])
    code, events = carried_out(folder, command_here, {"PYTHONPATH": path}, start_timeout_s=20.0)
    (failed,) = of_kind(events, "job_failed")
    assert (failed["kind"], failed["step"]) == ("hang", None), failed
    assert failed["message"].startswith("no sign of life since it was started 2"), "20 s of patience"
    assert "; rank 0 stood at " in failed["message"], "by its stacks"
    assert code == 0 and json.loads(folder.result_json.read_text())["steps"] == 2
