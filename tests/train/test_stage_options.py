"""Options of a stage beyond the recipe: patience, rates by layer, names by epoch, the merged model."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from stops import StopAt
from tinyjob import ADAPTER, facts_of, make_job, rows_of, run
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.config.stage import TrainStage
from tunestudy.records.atomic import read_json
from tunestudy.records.manifest import problems
from tunestudy.train.trainable import find_trainables

IMPATIENT = {"eval_steps": 2, "early_stopping_patience": 2, "early_stopping_threshold": 10.0, "max_steps": 30}


def test_patience_ends_the_stage(tmp_path: Path) -> None:
    folder = make_job(tmp_path, logging_steps=4, **IMPATIENT)
    assert run(folder)
    result = read_json(folder.result_json)
    assert result["stopped_early"] is True
    assert result["steps"] == 6, "the evaluation after step 2 sets the mark, those after 4 and 6 do not beat it"
    assert [int(row["step"]) for row in rows_of(folder.loss_log)] == [4, 6]
    assert folder.model.is_dir()


def test_who_improves_is_not_stopped(tmp_path: Path) -> None:
    folder = make_job(tmp_path, **{**IMPATIENT, "early_stopping_threshold": 0.0, "max_steps": 8})
    assert run(folder)
    result = read_json(folder.result_json)
    assert (result["stopped_early"], result["steps"]) == (False, 8)


@pytest.mark.parametrize("leave_in", [3, 5])
def test_patience_survives_an_interruption(tmp_path: Path, leave_in: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected, folder = make_job(tmp_path / "a", **IMPATIENT), make_job(tmp_path / "b", **IMPATIENT)
    assert run(expected)
    assert run(folder, stop=StopAt(leave_in)) is False
    assert run(folder)
    assert facts_of(folder) == facts_of(expected)


def small_model(layers: int = 3) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 20, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return AutoModelForCausalLM.from_config(Qwen3Config(**sizes, **heads, tie_word_embeddings=False))


def test_rates_fall_layer_by_layer_towards_the_embeddings() -> None:
    settings = TrainStage(data=({"dataset": "d"},), learning_rate=1.0, layer_lr_decay=0.5, train="all")
    rates = {t.name: t.learning_rate for t in find_trainables(small_model(), settings)}
    assert rates["model.layers.2.mlp.up_proj.weight"] == rates["model.norm.weight"] == rates["lm_head.weight"] == 1.0
    assert rates["model.layers.1.mlp.up_proj.weight"] == 0.5
    assert rates["model.layers.0.input_layernorm.weight"] == 0.25
    assert rates["model.embed_tokens.weight"] == 0.125


def test_rates_by_layer_reach_the_optimiser(tmp_path: Path) -> None:
    plain, slow = (make_job(tmp_path, f"d{decay}", layer_lr_decay=decay, max_steps=2) for decay in (1.0, 1e-9))
    assert run(plain) and run(slow)
    start = read_weights(plain.study.root)
    moved = {name for name, tensor in read_weights(slow.model).items() if not torch.equal(tensor, start[name])}
    assert "model.layers.1.mlp.up_proj.weight" in moved


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    file = next(iter(sorted(folder.rglob("model.safetensors"))))
    return load_file(file)


def test_checkpoints_have_names_by_epoch(tmp_path: Path) -> None:
    folder = make_job(
        tmp_path,
        checkpoint_names="epoch_step",
        save_steps=2,
        full_save_steps=4,
        save_total_limit=9,
        drop_intermediate=False,
        max_steps=8,
    )
    assert run(folder)
    links = {path.name: os.readlink(path) for path in folder.root.glob("checkpoint-epoch*")}
    assert links["checkpoint-epoch1-step2"] == "checkpoint-2"
    assert links["checkpoint-epoch1"] == "checkpoint-4"
    assert links["checkpoint-epoch2"] == "checkpoint-8"
    assert all((folder.root / name).is_dir() for name in links)


def test_names_by_epoch_go_with_their_checkpoints(tmp_path: Path) -> None:
    folder = make_job(tmp_path, checkpoint_names="epoch_step", save_steps=1, max_steps=8, save_total_limit=2)
    assert run(folder, stop=StopAt(6)) is False
    assert all(path.exists() for path in folder.root.glob("checkpoint-*"))
    assert run(folder)
    assert all(path.exists() for path in folder.root.glob("checkpoint-*"))
    assert (folder.root / "checkpoint-epoch2").is_symlink()


def test_a_result_that_cannot_be_written_leaves_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints to resume from are dropped with the stage done and not before, such as by a disk that is full."""
    folder = make_job(tmp_path, adapter=ADAPTER, save_merged=True, save_steps=1, full_save_steps=3, max_steps=4)
    with monkeypatch.context() as full_disk:
        full_disk.setattr("tunestudy.train.publish.publish_merged", _no_space)
        with pytest.raises(OSError, match="No space"):
            run(folder)
    assert read_json(folder.checkpoint(3) / "MANIFEST.json")["kind"] == "full"
    assert run(folder)
    steps = [line.split(",")[1] for line in folder.loss_log.read_text().splitlines()[1:]]
    assert steps == ["1", "2", "3", "4"] and not folder.checkpoint(3).exists()
    assert read_json(folder.result_json)["resumed_from"] == [3]


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_merged_model_is_the_adapters(tmp_path: Path) -> None:
    folder = make_job(tmp_path, adapter=ADAPTER, save_merged=True, max_steps=4)
    assert run(folder)
    assert problems(folder.merged) == []
    ids = torch.tensor([[1, 5, 3, 7]])
    merged = AutoModelForCausalLM.from_pretrained(folder.merged)
    config = read_json(folder.model / "adapter_config.json")
    base = AutoModelForCausalLM.from_pretrained(folder.model / config["base_model_name_or_path"])
    live = PeftModel.from_pretrained(base, folder.model)
    torch.testing.assert_close(merged(ids).logits, live(ids).logits, atol=1e-5, rtol=1e-5)
    assert read_json(folder.result_json)["trainable_params"] > 0
