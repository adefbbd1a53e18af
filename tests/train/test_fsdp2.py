"""One model in slices over several ranks equals one that is whole: losses, weights, files, resumed or not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file
from tinyjob import ADAPTER, make_job, moe_model, rows_of, run
from tinyranks import start, wait_for_step

from tunestudy.config.stage import TrainStage
from tunestudy.launch.torchrun import ask_to_stop
from tunestudy.records.layout import JobDir
from tunestudy.train.shards import rows_of_rank

pytestmark = pytest.mark.slow

CASES: dict[str, dict[str, Any]] = {
    "full fine-tuning, accumulation, gradient statistics": {"per_device_train_batch_size": 2, "log_gradients": True},
    "adapter whose slices are uneven": {"adapter": {**ADAPTER, "lora_r": 3}, "per_device_train_batch_size": 2},
    "an adapter that starts at the weights' own factors": {"adapter": {**ADAPTER, "init_lora_weights": "pissa"}},
    "only gradients in slices": {"adapter": ADAPTER, "fsdp2": {"shard": "gradients", "prefetch": 2}},
    "direction, recomputed activations": {
        "adapter": {**ADAPTER, "type": "dora"},
        "activation_checkpointing": True,
        "fsdp2": {"prefetch": 0},
    },
    "gates": {"adapter": {"type": "sora", "lora_r": 4, "target_sparsity": 0.5}, "per_device_train_batch_size": 1},
    "gates in a direction, best published, packing, noise": {
        "adapter": {"type": "sdora", "lora_r": 4, "target_sparsity": 0.25},
        "packing": True,
        "neftune_noise_alpha": 3.0,
        "effective_batch_size": 2,
        "eval_steps": 2,
        "load_best_model_at_end": True,
    },
    "a base in few bits, only gradients in slices": {
        "adapter": ADAPTER,
        "quantization": {"load_in_4bit": True},
        "fsdp2": {"shard": "gradients"},
    },
    "a mixture of fused experts, all of it but the router": {
        "model": moe_model(),
        "per_device_train_batch_size": 2,
        "activation_checkpointing": True,
    },
    "fused experts with an adapter": {
        "model": moe_model(),
        "adapter": {**ADAPTER, "target_modules": ["q_proj", "o_proj"], "target_parameters": ["experts.down_proj"]},
    },
    "few modules, stochastic gradient descent": {
        "adapter": {**ADAPTER, "target_modules": ["q_proj", "v_proj"]},
        "optim": "sgd",
        "learning_rate": 0.05,
    },
}


def equal_logs(one: JobDir, other: JobDir, tolerance: float = 1e-5) -> None:
    for name in ("loss_log.csv", "eval_log.csv"):
        rows, others = rows_of(one.root / name), rows_of(other.root / name)
        assert len(rows) == len(others) > 0
        for row, also in zip(rows, others, strict=True):
            for key, value in row.items():
                if "loss" in key or key in ("grad_norm", "sparsity", "step", "tokens"):
                    assert float(also[key] or 0) == pytest.approx(float(value or 0), rel=tolerance, abs=1e-9), key


def equal_models(one: JobDir, other: JobDir, tolerance: float = 3e-5) -> None:
    files = sorted(one.model.rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(file), load_file(other.model / file.relative_to(one.model))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert (theirs[name] - tensor).norm() <= tolerance * tensor.norm().clamp_min(1e-3), name


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
    settings = {"adapter": ADAPTER, "effective_batch_size": 6, "per_device_train_batch_size": 2}
    one, three = make_job(tmp_path, "one", **settings), make_job(tmp_path, "three", engine="fsdp2", **settings)
    assert run(one)
    assert start(three, ranks=3).wait(timeout=300) == 0
    equal_logs(one, three)
    equal_models(one, three)


def test_another_number_of_ranks_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    settings = {"adapter": {**ADAPTER, "type": "dora"}, "max_steps": 60, "full_save_steps": 5, "logging_steps": 1}
    whole = make_job(tmp_path, "whole", **settings)
    assert run(whole)
    folder = make_job(tmp_path, "handed", engine="fsdp2", **settings)
    for ranks, steps in ((2, 5), (1, 20)):
        process = start(folder, ranks=ranks)
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
