"""ZeRO's three stages learn as one rank does: losses, weights, files, resumed or not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from alike import CASES, equal_logs, equal_models
from tinyjob import facts_of, make_job, run
from tinyranks import start, start_afresh, wait_for_step

from tunestudy.config.deepspeed import KEYS, passed_on
from tunestudy.launch.torchrun import ask_to_stop
from tunestudy.train.engines.deepspeed import _Root, config_of, import_deepspeed
from tunestudy.train.loss import LossSums

SOME_WHOLE = {"stage3_param_persistence_threshold": 300}
"""Under stage 3 the smallest tensors of these models stay whole beside their slices, the others do not."""


def zero(stage: int, **keys: Any) -> dict[str, Any]:
    """The settings of a stage."""
    keys = {**(SOME_WHOLE if stage == 3 else {}), **keys}
    return {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage, **keys}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "stage"),
    [
        ("full fine-tuning, accumulation, gradient statistics", 3),
        ("gates", 2),
        ("gates in a direction, best published, packing, noise", 3),
        ("a mixture of fused experts, all of it but the router", 3),
        ("few modules, only gradients in slices, stochastic gradient descent", 1),
    ],
)
def test_each_stage_learns_as_one_rank_does(tmp_path: Path, case: str, stage: int) -> None:
    settings = {key: value for key, value in CASES[case].items() if key != "fsdp2"}
    one, two = make_job(tmp_path, "one", **settings), make_job(tmp_path, "two", **zero(stage), **settings)
    assert run(one)
    assert start(two).wait(timeout=300) == 0
    equal_logs(one, two)
    equal_models(one, two)
    results = [json.loads(job.result_json.read_text()) for job in (one, two)]
    for fact in ("total_params", "trainable_params", "effective_params", "flops_per_token", "roles"):
        assert results[0][fact] == results[1][fact], fact
    assert (two.root / "gradient_log.csv").is_file() == settings.get("log_gradients", False)


@pytest.mark.slow
def test_state_in_the_hosts_memory_and_no_clipping(tmp_path: Path) -> None:
    settings = {"max_grad_norm": None, "weight_decay": 0.1, "layer_lr_decay": 0.8}
    offloaded = zero(
        3,
        offload_optimizer={"device": "cpu"},
        offload_param={"device": "cpu"},
        overlap_comm=True,
        stage3_param_persistence_threshold=0,
    )
    one, two = make_job(tmp_path, "one", **settings), make_job(tmp_path, "two", **offloaded, **settings)
    assert run(one)
    assert start(two).wait(timeout=300) == 0
    equal_logs(one, two)
    equal_models(one, two)


@pytest.mark.slow
def test_half_precision_is_on_in_training_and_gates_have_their_published_epsilon(tmp_path: Path) -> None:
    adapter = {"type": "sora", "lora_r": 4, "threshold": "official", "sparse_lambda": 0.01, "prox": "lr_scaled"}
    settings = {"adapter": adapter, "bf16": True, "max_steps": 4}
    one, two = make_job(tmp_path, "one", **settings), make_job(tmp_path, "two", **zero(3), **settings)
    assert run(one)
    assert start_afresh(two).wait(timeout=300) == 0
    equal_logs(one, two, tolerance=5e-3)


class _Seen(torch.nn.Module):
    """Stands for a LossModel: tells what holds inside."""

    def forward(self, batch: Any, **_: Any) -> LossSums:
        zeros = torch.zeros(1)
        return LossSums(zeros.sum() + float(torch.is_autocast_enabled("cpu")), 0, zeros, zeros)


def test_autocast_inside_is_that_of_the_call() -> None:
    """What DeepSpeed's forward does on a GPU: another autocast, switched off, around the wrapped module."""
    root = _Root(_Seen())  # type: ignore[arg-type]
    for wanted in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=wanted):
            root.take_over_autocast("cpu")
            with torch.autocast("cpu", enabled=False):
                assert bool(root(None)) is wanted


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bit_and_on_other_ranks_nearly(tmp_path: Path) -> None:
    adapter = {"type": "sdora", "lora_r": 4, "target_sparsity": 0.25}
    settings = {"adapter": adapter, "max_steps": 24, "full_save_steps": 5, "logging_steps": 1}
    whole = make_job(tmp_path, "whole", **settings, **zero(3))
    assert start(whole).wait(timeout=300) == 0
    went_on = {"same": [(2, 3, 5), (2, 3, None)], "other": [(1, 1, 5), (2, 2, None)]}
    for name, attempts in went_on.items():
        for ranks, stage, steps in attempts:
            folder = make_job(tmp_path, name, **settings, **zero(stage))
            process = start(folder, ranks=ranks, step_s=0.1 if steps else 0.0)
            if steps is None:
                assert process.wait(timeout=300) == 0
                continue
            wait_for_step(folder, process, steps)
            ask_to_stop(process.pid)
            process.wait(timeout=120)
            assert json.loads(folder.progress_json.read_text())["phase"] == "interrupted"
        facts, expected = facts_of(folder), facts_of(whole)
        for told in (facts, expected):
            del told["result"]["fingerprint"]
        assert (facts == expected) is (name == "same")
        equal_logs(whole, folder, tolerance=1e-4)
        equal_models(whole, folder, tolerance=1e-3)


def test_what_is_passed_on_is_what_deepspeed_reads() -> None:
    """Every key of its own configuration of ZeRO is in the table, and what is passed on passes its validation."""
    import_deepspeed("error")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    theirs = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    ours = {name.split(".")[1] for name in KEYS if name.startswith("zero_optimization.")}
    assert theirs <= ours
    given: dict[str, Any] = {"zero_optimization": {"stage": 3, "offload_optimizer": {}, "offload_param": {}}}
    for name, key in KEYS.items():
        if key.kind == "passed on" and name.startswith("zero_optimization.") and name != "zero_optimization.stage":
            place = given["zero_optimization"]
            *outer, last = name.split(".")[1:]
            for part in outer:
                place = place[part]
            place[last] = EXAMPLES[key.values] if not isinstance(key.values, tuple) else key.values[0]
    config = config_of(given)
    assert config["zero_optimization"] == passed_on(given)["zero_optimization"] == given["zero_optimization"]
    read = DeepSpeedZeroConfig(**config["zero_optimization"])
    assert read.stage == 3 and read.offload_param.device == "cpu" and read.reduce_bucket_size == 7


EXAMPLES: dict[Any, Any] = {bool: True, int: 1, int | float: 7}
