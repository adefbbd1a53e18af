"""Sections for DeepSpeed in a study file: every key of the table fed, honoured or refused where it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.deepspeed import KEYS, REFUSED, WITHOUT_EFFECT, mistakes, passed_on, zero_stage
from tunestudy.config.errors import StudyError
from tunestudy.config.stage import TrainStage
from tunestudy.study.load import load_study

STAGE = TrainStage(
    data=("digits",),
    learning_rate=1e-3,
    engine="deepspeed",
    effective_batch_size=16,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    adam_beta2=0.95,
)
AGREEING = {
    "train_batch_size": 16,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 1.0,
    "bf16.enabled": False,
    "fp16.enabled": False,
    "optimizer.type": "AdamW",
    "optimizer.params.lr": 1e-3,
    "optimizer.params.betas": [0.9, 0.95],
    "optimizer.params.eps": 1e-8,
    "optimizer.params.weight_decay": 0,
}
OTHERS = {"optimizer.type": "Lion", "optimizer.params.betas": [0.9, 0.98], "bf16.enabled": True, "fp16.enabled": True}


def section(name: str, value: Any) -> dict[str, Any]:
    """A section with one key, at stage 2 unless that is the key."""
    whole: dict[str, Any] = {"zero_optimization": {"stage": 2}}
    place = whole
    *outer, last = name.split(".")
    for part in outer:
        place = place.setdefault(part, {})
    place[last] = value
    return whole


def found(name: str, value: Any) -> list[str]:
    return list(mistakes(section(name, value), STAGE))


def example(values: Any) -> Any:
    if isinstance(values, tuple):
        return values[0]
    return {bool: True, int: 3, int | float: 1e6, str: "x"}.get(values, {})


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.kind == "passed on"])
def test_a_key_that_is_passed_on(name: str) -> None:
    value = example(KEYS[name].values)
    assert found(name, value) == []
    assert passed_on(section(name, value)) == section(name, value)
    assert "must be" in found(name, object())[0]
    assert found(name, "auto") == [] or name == "zero_optimization.stage"


@pytest.mark.parametrize("name", AGREEING)
def test_a_key_that_the_study_has_too(name: str) -> None:
    assert KEYS[name].kind == "held against the study"
    assert found(name, AGREEING[name]) == found(name, "auto") == []
    assert "contradicts" in found(name, OTHERS.get(name, 12345))[0]
    assert passed_on(section(name, AGREEING[name])) == {"zero_optimization": {"stage": 2}}


def test_every_key_that_the_study_has_too_is_fed() -> None:
    assert set(AGREEING) == {name for name, key in KEYS.items() if key.kind == "held against the study"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_key_that_is_refused_with_the_reason(name: str) -> None:
    assert found(name, {"enabled": True}) == [f"{name}: {REFUSED[name]}"]
    assert found(name, False) == found(name, {"enabled": False}) == []
    assert passed_on(section(name, True)) == {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_key_without_effect(name: str) -> None:
    assert found(name, 1) == []
    assert passed_on(section(name, 1)) == {"zero_optimization": {"stage": 2}}


def test_stages_of_zero() -> None:
    assert zero_stage({}) == 2 and zero_stage({"zero_optimization": {"stage": 3}}) == 3
    assert list(mistakes({}, STAGE)) == []
    assert "must be one of 1, 2, 3" in next(mistakes({"zero_optimization": {"stage": 0}}, STAGE))
    assert "give 1, 2 or 3" in next(mistakes({"zero_optimization": {"overlap_comm": True}}, STAGE))


STUDY = """name: zero
model:
  architecture: qwen3
  config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2, head_dim: 16}
  tokenizer: {type: characters, alphabet: abc}
resources: {ranks: 2}
datasets: {digits: {type: digits}}
stages:
  a: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, SETTINGS}
variants: {v: {stages: [a]}}
seeds: [0]
"""


def test_a_model_in_float16_needs_a_scaler(tmp_path: Path) -> None:
    text = STUDY.replace("  architecture: qwen3", "  architecture: qwen3\n  dtype: float16")
    (tmp_path / "zero.yaml").write_text(text.replace("SETTINGS", "engine: deepspeed"))
    with pytest.raises(StudyError, match="loss scaler"):
        load_study(tmp_path / "zero.yaml")


def load(tmp_path: Path, settings: str) -> TrainStage:
    (tmp_path / "zero.yaml").write_text(STUDY.replace("SETTINGS", settings))
    return load_study(tmp_path / "zero.yaml").study.variants["v"].stages["a"]


def test_a_file_of_hugging_faces_kind(tmp_path: Path) -> None:
    config = {
        "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "sub_group_size": 1e9},
        "gradient_clipping": "auto",
        "train_batch_size": 8,
        "wall_clock_breakdown": False,
    }
    (tmp_path / "ds.json").write_text(json.dumps(config))
    stage = load(tmp_path, "engine: deepspeed, deepspeed: ds.json")
    expected = {"zero_optimization": {"stage": 3, "sub_group_size": 1e9}, "wall_clock_breakdown": False}
    assert passed_on(stage.deepspeed) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("engine: deepspeed, deepspeed: none.json", "there is no file `none.json`"),
        ("engine: deepspeed, deepspeed: zero.yaml", "cannot be read as JSON"),
        ("deepspeed: {zero_optimization: {stage: 2}}", "set engine: deepspeed"),
        ("engine: deepspeed, deepspeed: {zero_optimization: {stage: 4}}", "must be one of 1, 2, 3"),
        ("engine: deepspeed, deepspeed: {zero_optimisation: {stage: 2}}", "did you mean zero_optimization.stage"),
        ("engine: deepspeed, deepspeed: {train_batch_size: 64}", "contradicts effective_batch_size of the study, 8"),
        ("engine: deepspeed, deepspeed: {gradient_accumulation_steps: 3}", "contradicts gradient_accumulation_steps"),
        ("engine: deepspeed, deepspeed: {zero_optimization: true}", "must be a mapping of keys"),
        ("engine: deepspeed, fp16: true", "use bf16"),
        ("engine: deepspeed, optim: adamw_8bit", "cannot work on slices"),
        (
            "engine: deepspeed, deepspeed: {zero_optimization: {stage: 3}}, adapter: {type: lora, lora_r: 4}, "
            "quantization: {load_in_4bit: true}",
            "use stage 2",
        ),
    ],
)
def test_what_is_wrong_is_told_at_its_line(tmp_path: Path, settings: str, said: str) -> None:
    with pytest.raises(StudyError, match=r"zero\.yaml:9") as told:
        load(tmp_path, settings)
    assert said in str(told.value)


def test_the_page_of_keys_is_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root / "tools")
    from deepspeed_keys import page

    assert (root / "docs" / "deepspeed.md").read_text() == page()
