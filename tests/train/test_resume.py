"""A run that is killed or stopped and started again equals one that never was, bit for bit."""

import json
from pathlib import Path

import pytest
from stops import Crash, CrashAt, StopAt
from tinyjob import ADAPTER, facts_of, make_job, run, tiny_model

from tunestudy.records.tables import read_table

DROPOUT = {**ADAPTER, "lora_dropout": 0.3}

FEATURES = {
    "gates held at a target, accumulation": {
        "adapter": {"type": "sora", "lora_r": 4, "target_sparsity": 0.5, "l1_lambda": 0.1, "lora_dropout": 0.2},
        "per_device_train_batch_size": 2,
        "logging_steps": 2,
    },
    "gates in a direction, published rule": {
        "adapter": {"type": "sdora", "lora_r": 4, "sparse_lambda": 20.0, "threshold": "official"},
    },
    "an adapter that starts at the weights' own factors": {"adapter": {**DROPOUT, "init_lora_weights": "olora"}},
    "full fine-tuning, epoch-boundary saves, gradient statistics": {
        "log_gradients": True,
        "save_steps": 4,
        "full_save_steps": 4,
        "eval_on_start": True,
        "warmup_steps": 0.5,
    },
    "adapter, dropout, accumulation, noise on embeddings, logging across saves": {
        "adapter": DROPOUT,
        "per_device_train_batch_size": 2,
        "neftune_noise_alpha": 5.0,
        "logging_steps": 4,
        "eval_steps": 3,
        "lr_scheduler_type": "cosine",
    },
    "mixture, packing, label smoothing, adafactor": {
        "two_sources": True,
        "packing": True,
        "max_length": 48,
        "label_smoothing_factor": 0.1,
        "optim": "adafactor",
        "effective_batch_size": 4,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-2,
    },
    "fp16 with its scaler, padding, sgd with momentum, best published": {
        "fp16": True,
        "padding": "right",
        "optim": "sgd",
        "momentum": 0.9,
        "learning_rate": 0.1,
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "order": "length_grouped",
    },
    "an optimiser without a state": {"optim": "sgd", "learning_rate": 0.1},
    "moments in 8 bits": {
        "optim": "paged_adamw_8bit",
        "model": tiny_model(hidden_size=64, intermediate_size=96),  # 8 bits begin at 4,096 values
    },
}


CASES = [
    pytest.param(settings, id=name, marks=[pytest.mark.slow] if number else [])
    for number, (name, settings) in enumerate(FEATURES.items())
]


@pytest.mark.parametrize("settings", CASES)
def test_killed_and_stopped_runs_end_bit_for_bit_like_undisturbed_ones(tmp_path: Path, settings: dict) -> None:
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    undisturbed.mkdir()
    disturbed.mkdir()
    expected = make_job(undisturbed, **settings)
    assert run(expected)

    folder = make_job(disturbed, **settings)
    for _ in range(2):  # first before any checkpoint, then after one: rows beyond it must be cut back
        with pytest.raises(Crash):
            run(folder, stop=CrashAt(3))
    with pytest.raises(Crash):
        run(folder, stop=CrashAt(6))
    assert run(folder, stop=StopAt(3)) is False
    assert not folder.result_json.exists()
    assert json.loads(folder.progress_json.read_text())["phase"] == "interrupted"
    assert run(folder)
    assert facts_of(folder) == facts_of(expected)
    assert json.loads(folder.result_json.read_text())["resumed_from"]


def test_a_stop_leaves_a_full_checkpoint_at_the_very_step(tmp_path: Path) -> None:
    folder = make_job(tmp_path, save_steps=None, full_save_steps=None, save_on_epoch_end=False)
    assert run(folder, stop=StopAt(3)) is False
    assert [path.name for path in folder.root.glob("checkpoint-*")] == ["checkpoint-2"]
    assert run(folder, stop=StopAt(1)) is False  # nothing new to save
    assert run(folder)
    assert [int(row["step"]) for row in read_table(folder.loss_log)] == list(range(1, 9))


def test_a_stop_before_the_first_step_saves_nothing(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    assert run(folder, stop=StopAt(1)) is False
    assert not list(folder.root.glob("checkpoint-*"))


def test_durations_add_up_over_attempts(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    assert run(folder, stop=StopAt(5)) is False
    first = json.loads(folder.progress_json.read_text())
    assert run(folder)
    result = json.loads(folder.result_json.read_text())
    assert result["duration_s"] > first["elapsed_s"]
    assert result["started_at"] == first["started_at"]
    assert result["resumed_from"] == [4]


def test_another_cut_goes_on_with_the_same_rows_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_job(tmp_path, "whole")
    assert run(whole)
    folder = make_job(tmp_path, "recut")
    assert run(folder, stop=StopAt(4)) is False
    make_job(tmp_path, "recut", per_device_train_batch_size=2)
    assert run(folder)
    assert "steps are cut differently" in capsys.readouterr().err
    before, after = facts_of(whole), facts_of(folder)
    assert before["result"]["tokens"] == after["result"]["tokens"]
    for old, new in zip(before["loss_log.csv"], after["loss_log.csv"], strict=True):
        assert (old["step"], old["tokens"], old["target_tokens"]) == (new["step"], new["tokens"], new["target_tokens"])
        assert float(new["train_loss"]) == pytest.approx(float(old["train_loss"]), rel=1e-4)
