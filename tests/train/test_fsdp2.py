"""One model in slices over several ranks equals one that is whole: losses, weights, files, resumed or not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alike import CASES, equal_logs, equal_models
from pydantic import ValidationError
from tinyjob import ADAPTER, make_job, run
from tinyranks import start, wait_for_step

from tunestudy.config.stage import TrainStage
from tunestudy.launch.torchrun import ask_to_stop
from tunestudy.records.tables import read_table
from tunestudy.train.shards import rows_of_rank

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES)
def test_slices_learn_as_the_whole_does(tmp_path: Path, case: str) -> None:
    settings = CASES[case]
    one, two = make_job(tmp_path, "one", **settings), make_job(tmp_path, "two", engine="fsdp2", **settings)
    assert run(one)
    assert start(two).wait(timeout=300) == 0
    equal_logs(one, two)
    equal_models(one, two)
    kept = [sorted(path.name for path in job.root.glob("checkpoint-*")) for job in (one, two)]
    assert kept[0] == kept[1]


def test_three_ranks_some_of_which_hold_nothing(tmp_path: Path) -> None:
    settings = {"adapter": ADAPTER, "effective_batch_size": 6, "per_device_train_batch_size": 2, "gpu_sample_s": 0.2}
    one, three = make_job(tmp_path, "one", **settings), make_job(tmp_path, "three", engine="fsdp2", **settings)
    assert run(one)
    assert start(three, ranks=3).wait(timeout=300) == 0
    equal_logs(one, three)
    equal_models(one, three)
    assert [path.name for path in three.logs.glob("network-*")] == ["network-0.csv"]
    assert {row["interface"] for row in read_table(three.network_log(0))} >= {"lo"}


def test_another_number_of_ranks_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    settings = {"adapter": {**ADAPTER, "type": "dora"}, "max_steps": 60, "full_save_steps": 5, "logging_steps": 1}
    whole = make_job(tmp_path, "whole", **settings)
    assert run(whole)
    folder = make_job(tmp_path, "handed", engine="fsdp2", **settings)
    for ranks, steps in ((2, 5), (1, 20)):
        process = start(folder, ranks=ranks, step_s=0.05)
        wait_for_step(folder, process, steps)
        ask_to_stop(process.pid)
        process.wait(timeout=120)
        assert json.loads(folder.progress_json.read_text())["phase"] == "interrupted"
    assert start(folder, ranks=2).wait(timeout=300) == 0
    assert len(json.loads(folder.result_json.read_text())["resumed_from"]) == 2
    equal_logs(whole, folder, tolerance=1e-4)
    equal_models(whole, folder, tolerance=1e-3)


def test_copies_per_host_and_slices_within(tmp_path: Path) -> None:
    """Two hosts of one rank each: between them only gradients travel."""
    settings = {"adapter": ADAPTER, "per_device_train_batch_size": 2}
    one = make_job(tmp_path, "one", **settings)
    assert run(one)
    two = make_job(tmp_path, "two", engine="fsdp2", fsdp2={"within_node": True}, **settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=0"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    hosts = [
        subprocess.Popen(
            [*torchrun, f"--node-rank={host}", "-m", "tunestudy.worker", str(two.root)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for host in range(2)
    ]
    assert [host.wait(timeout=300) for host in hosts] == [0, 0]
    equal_logs(one, two)
    equal_models(one, two)


def test_rows_are_cut_as_chunk_does() -> None:
    for rows in range(1, 12):
        for ranks in range(1, 6):
            cut = [rows_of_rank(rows, ranks, rank) for rank in range(ranks)]
            assert [row for first, end in cut for row in range(first, end)] == list(range(rows))


@pytest.mark.parametrize(
    ("settings", "said"), [({"fp16": True}, "use bf16"), ({"optim": "adamw_8bit"}, "cannot work on slices")]
)
def test_what_slices_cannot_do_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainStage(data=("digits",), learning_rate=1e-3, engine="fsdp2", **settings)
