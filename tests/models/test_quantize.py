"""Adapters on bases in few bits, through bitsandbytes on the CPU."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from tinyjob import make_job, run, tiny_model
from transformers import AutoModelForCausalLM

from tunestudy.config.errors import Exit, StudyError
from tunestudy.models import quantize
from tunestudy.models.quantize import few_bit_layers
from tunestudy.models.results import load_result
from tunestudy.records.atomic import read_json

WIDE = tiny_model(hidden_size=64, intermediate_size=64)
NF4 = {"load_in_4bit": True}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora"},
    "dora": {"type": "dora"},
    "sora": {"type": "sora", "target_sparsity": 0.5},
    "sdora": {"type": "sdora", "target_sparsity": 0.5},
}


def job(tmp_path: Path, name: str, adapter: dict[str, Any], **settings: Any) -> Any:
    return make_job(
        tmp_path, name, model=WIDE, adapter={"lora_r": 4, **adapter}, max_steps=3, full_save_steps=None, **settings
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_learns_on_nf4_and_is_scored_on_the_same(tmp_path: Path, kind: str) -> None:
    folder = job(tmp_path, kind, KINDS[kind], quantization=NF4)
    assert run(folder)
    result = read_json(folder.result_json)
    assert result["final_train_loss"] < 10
    loaded = load_result(folder, "cpu")
    layers = [m for m in loaded.model.modules() if isinstance(m, few_bit_layers())]
    assert len(layers) == 14, "seven linear layers in each of two blocks"
    assert type(loaded.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")).__module__.endswith("bnb")
    assert not isinstance(loaded.model.get_output_embeddings(), few_bit_layers())
    assert read_json(folder.model / "MANIFEST.json")["quantization"]["load_in_4bit"] is True


def test_counts_are_those_of_the_weights_not_of_their_bytes(tmp_path: Path) -> None:
    packed = job(tmp_path, "packed", KINDS["lora"], quantization=NF4)
    plain = job(tmp_path, "plain", KINDS["lora"])
    assert run(packed) and run(plain)
    one, other = read_json(packed.result_json), read_json(plain.result_json)
    for key in ("total_params", "trainable_params", "flops_per_token"):
        assert one[key] == other[key], key
    assert one["roles"] == other["roles"]


def test_merged_model_is_in_full_precision(tmp_path: Path) -> None:
    folder = job(tmp_path, "merged", KINDS["dora"], quantization=NF4, save_merged=True)
    assert run(folder)
    merged = AutoModelForCausalLM.from_pretrained(folder.merged)
    assert not any(isinstance(module, few_bit_layers()) for module in merged.modules())
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}


def test_the_adapter_lies_near_the_one_on_the_plain_base(tmp_path: Path) -> None:
    """Same rows, same start: three steps on a base that is 9 % off must not lead elsewhere."""
    packed = job(tmp_path, "p", KINDS["lora"], quantization=NF4)
    plain = job(tmp_path, "q", KINDS["lora"])
    assert run(packed) and run(plain)
    losses = [read_json(folder.result_json)["final_train_loss"] for folder in (packed, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]


def test_without_bitsandbytes_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"tunestudy\[quant\]") as caught:
        run(job(tmp_path, "lacking", KINDS["lora"], quantization=NF4))
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
