"""Two real ranks under torchrun with gloo: the same gradients, exact resume, one model."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from shell import succeed
from tinyjob import ADAPTER, facts_of, make_job, rows_of, run
from tinyranks import ENVIRONMENT, start, start_afresh, wait_for_step

from tunestudy.launch.torchrun import ask_to_stop, kill, torchrun_command

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_no_way_to_cut_a_step_changes_its_gradient(tmp_path: Path) -> None:
    out = tmp_path / "cases.json"
    script = BENCHMARKS / "gradient_equality.py"
    subprocess.run([sys.executable, script, "--json", out], env=ENVIRONMENT, check=True, timeout=300)
    cases = json.loads(out.read_text())
    assert {(case["ranks"], case["accumulation"]) for case in cases} == {(r, a) for r in (1, 2) for a in (1, 2, 4, 8)}
    assert max(case["error"] for case in cases) <= 1e-5
    assert max(case["mean_of_means"] for case in cases) > 0.5


@pytest.mark.slow
def test_a_tensor_that_one_rank_uses_trains_on_both_and_one_that_none_uses_is_named() -> None:
    script = Path(__file__).parents[1] / "lab" / "uneven_ranks.py"
    first, second = json.loads(succeed([sys.executable, script], env=ENVIRONMENT))
    assert first == second
    for step in first:
        assert step["forgotten"] is None
        assert step["shared_part"][0] != 0
        assert step["message"].endswith("would never train: forgotten")


SETTINGS = {
    "adapter": {**ADAPTER, "lora_dropout": 0.2},
    "per_device_train_batch_size": 2,
    "neftune_noise_alpha": 3.0,
    "two_sources": True,
    "max_steps": 150,
    "eval_steps": 20,
    "logging_steps": 7,
    "full_save_steps": 10,
}


@pytest.mark.slow
def test_two_ranks_resume_exactly_after_a_stop_and_a_kill(tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    (tmp_path / "hit").mkdir()
    quiet, hit = make_job(tmp_path / "quiet", **SETTINGS), make_job(tmp_path / "hit", **SETTINGS)
    assert start(quiet).wait(timeout=300) == 0
    for rank in range(2):
        own = rows_of(quiet.pace_log(rank))
        assert [row["step"] for row in own] == [row["step"] for row in rows_of(quiet.loss_log)]
        assert all(float(row["own_s"]) > 0 and row["host"] for row in own)

    process = start_afresh(hit)
    wait_for_step(hit, process, 5)
    ask_to_stop(process.pid)
    process.wait(timeout=120)
    assert json.loads(hit.progress_json.read_text())["phase"] == "interrupted"
    assert not hit.failure_json.exists()
    stopped_at = json.loads(hit.progress_json.read_text())["step"]
    assert (hit.checkpoint(stopped_at) / "resume").is_dir()

    process = start_afresh(hit)
    wait_for_step(hit, process, stopped_at + 5)
    tree = psutil.Process(process.pid).children(recursive=True)
    kill(process.pid)
    process.wait(timeout=30)
    psutil.wait_procs(tree, timeout=10)

    assert start_afresh(hit).wait(timeout=300) == 0
    result = json.loads(hit.result_json.read_text())
    assert stopped_at in result["resumed_from"]
    assert result["world_size"] == 2
    assert facts_of(hit) == facts_of(quiet)


@pytest.mark.slow
def test_one_rank_goes_on_where_two_left_off(tmp_path: Path) -> None:
    settings = {**SETTINGS, "adapter": ADAPTER, "max_steps": 40, "eval_steps": None, "logging_steps": 1}
    whole = make_job(tmp_path, "whole", **settings)
    assert run(whole)
    folder = make_job(tmp_path, "handed-over", **settings)
    process = start(folder, step_s=0.05)
    wait_for_step(folder, process, 5)
    ask_to_stop(process.pid)
    process.wait(timeout=120)
    assert run(folder)
    for old, new in zip(rows_of(whole.loss_log), rows_of(folder.loss_log), strict=True):
        assert (old["step"], old["tokens"], old["target_tokens"]) == (new["step"], new["tokens"], new["target_tokens"])
        assert float(new["train_loss"]) == pytest.approx(float(old["train_loss"]), rel=1e-3)


@pytest.mark.slow
def test_wherever_ranks_wait_in_training_their_absence_would_be_noticed(tmp_path: Path) -> None:
    folder = make_job(tmp_path, engine="fsdp2", max_steps=8, full_save_steps=4, log_gradients=True, logging_steps=2)
    script = Path(__file__).parents[1] / "lab" / "waits_of_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc-per-node=2", str(script), str(folder.root), str(tmp_path)]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=300)
    for rank in (0, 1):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert "all_reduce in all_reduce_sum" in seen["watched"]
        slices = "irecv in " if rank == 0 else "send in "
        assert any(place.startswith(slices) for place in seen["watched"])
        assert seen["unwatched"] == {}


@pytest.mark.slow
@pytest.mark.alone
def test_ranks_wait_for_what_rank_0_writes_longer_than_for_each_other() -> None:
    script = Path(__file__).parents[1] / "lab" / "patient_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    said = succeed([*command, "--nproc-per-node=2", script, "4"], env={**ENVIRONMENT, "TUNESTUDY_TIMEOUT_S": "1.5"})
    assert said.count("both came") == 2


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_rank_that_hangs_is_named_and_the_others_leave_their_stacks(tmp_path: Path, engine: str) -> None:
    folder = make_job(tmp_path, engine=engine, max_steps=100000, full_save_steps=None, save_steps=None)
    command = torchrun_command(folder, 2)
    process = subprocess.Popen(command, env={**ENVIRONMENT, "TUNESTUDY_TIMEOUT_S": "8"}, stdout=subprocess.DEVNULL)
    wait_for_step(folder, process, 5)
    ranks = [p for p in psutil.Process(process.pid).children() if "tunestudy.worker" in p.cmdline()]
    hung = next(p for p in ranks if p.environ()["RANK"] == "1")
    hung.suspend()
    began = time.monotonic()
    while not folder.failure_json.exists():
        assert time.monotonic() - began < 8 + 35
        time.sleep(0.2)
    hung.kill()
    process.wait(timeout=60)
    told = json.loads(folder.failure_json.read_text())
    assert told["message"].startswith("RanksLostError: rank 1 on "), told
    assert "did not go on with the others at " in told["message"]
    assert "most recent call first" in folder.rank_log(0).read_text()
