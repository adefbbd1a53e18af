"""Folders whose files are there and hold something else than they should: told in a line, not by a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mergelab import HIDDEN, WORDS, MergeLab, weights, write_adapter, write_model, write_tokenizer
from safetensors.torch import load_file, save_file

from tunestudy.config.errors import Exit, StudyError
from tunestudy.merge.compare import compare
from tunestudy.merge.inputs import open_inputs

ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.fixture
def lab(tmp_path: Path) -> MergeLab:
    lab = MergeLab(tmp_path)
    write_model(lab.root / "bad", weights(1, like=lab.base))
    write_tokenizer(lab.root / "bad")
    return lab


def refused(lab: MergeLab, **settings: Any) -> str:
    job, folder = lab.merging(models={"bad": {"path": "bad"}}, **settings)
    assert job.merging is not None
    with pytest.raises(StudyError) as caught:
        compare(open_inputs(job, folder), job.merging, job.stage)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    return str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": {**ENTRY, "shape": ["1"]}},
        {"a": {**ENTRY, "shape": [-1], "data_offsets": [4, 0]}},
        {"a": {**ENTRY, "data_offsets": ["0", 4]}},
        {"a": {**ENTRY, "data_offsets": [0.5, 4.5]}},
    ],
)
def test_headers(lab: MergeLab, header: Any) -> None:
    text = json.dumps(header).encode()
    (lab.root / "bad/model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    assert "not the format's" in refused(lab)


@pytest.mark.parametrize("index", ["[]", '{"weight_map": {"a": 3}}', '{"weight_map": ["a"]}', "{}"])
def test_indices(lab: MergeLab, index: str) -> None:
    (lab.root / "bad/model.safetensors").unlink()
    (lab.root / "bad/model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refused(lab)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("[]", "no settings of a model"),
        ('{"text_config": 3}', "no settings of a model"),
        ('{"vocab_size": "many"}', "vocab_size must be a whole number"),
    ],
)
def test_configurations(lab: MergeLab, config: str, told: str) -> None:
    (lab.root / "bad/config.json").write_text(config)
    assert told in refused(lab)


@pytest.mark.parametrize("definition", ['{"model": 3}', '{"model": {"vocab": 3}}', '{"added_tokens": [3]}'])
def test_tokenizers(lab: MergeLab, definition: str) -> None:
    (lab.root / "bad/tokenizer.json").write_text(definition)
    assert "tokenizer.json is no tokenizer's" in refused(lab)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lora_alpha": "8"}, "must be a number"),
        ({"alpha_pattern": [8]}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 8}}, "alpha_pattern"),
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": "nowhere"}, "no folder beside it, and no model in the hub's cache"),
    ],
)
def test_adapters(lab: MergeLab, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], told: str) -> None:
    monkeypatch.setattr("tunestudy.merge.inputs.from_hub", _nothing_there)
    (lab.root / "bad").rename(lab.root / "whole")
    write_adapter(lab.root / "bad", "../base", 1)
    file = lab.root / "bad/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    assert told in refused(lab)


@pytest.mark.parametrize("ranks", [(0, 0), (1, 2)])
def test_factors_without_a_rank_in_common(lab: MergeLab, ranks: tuple[int, int]) -> None:
    (lab.root / "bad").rename(lab.root / "whole")
    file = write_adapter(lab.root / "bad", "../base", 1) / "adapter_model.safetensors"
    down, up = ranks
    factors = load_file(file).items()
    save_file({key: (one[:down] if "lora_A" in key else one[:, :up]).contiguous() for key, one in factors}, file)
    assert f"no rank in common: {up} and {down}" in refused(lab)


def test_rows_of_a_tensor_that_nobody_has(lab: MergeLab) -> None:
    """The base is padded and its output head is tied, without its configuration saying so."""
    padded = torch.cat([lab.base["model.embed_tokens.weight"], torch.zeros(4, HIDDEN)])
    headless = {name: tensor for name, tensor in lab.base.items() if name != "lm_head.weight"}
    write_model(lab.root / "base", headless | {"model.embed_tokens.weight": padded}, vocab_size=len(WORDS) + 4)
    told = refused(lab, method="task_arithmetic", absent="average")
    assert "lm_head.weight has none for row 16" in told


def _nothing_there(name: str, _revision: str | None) -> Any:
    raise StudyError("model.model_name_or_path", f"{name} cannot be fetched", exit_code=Exit.PREFLIGHT_REFUSED)


def test_tokens_that_differ_over_embeddings_of_no_known_rows(lab: MergeLab) -> None:
    """They would be merged by number otherwise, without a word."""
    write_tokenizer(lab.root / "base", ("a", "b"))
    write_tokenizer(lab.root / "bad", ("b", "a"))
    for name in ("base", "bad"):
        file = lab.root / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": None}))
    assert "their tokens differ, and no embeddings of base, bad have as many rows" in refused(lab)


def test_huge_values_are_surveyed_all_the_same(lab: MergeLab) -> None:
    from tunestudy.merge.survey import survey

    tensors = weights(1, like=lab.base)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 1e30)
    write_model(lab.root / "huge", tensors)
    job, folder = lab.merging(models={"huge": {"path": "huge"}, "bad": {"path": "bad"}}, method="task_arithmetic")
    assert job.merging is not None
    found = survey(open_inputs(job, folder), job.merging, job.stage, threads=1, stop=lambda: False)
    assert found is not None and "Infinity" not in json.dumps(found) and "NaN" not in json.dumps(found)
    assert found["roles"]["language_model"]["models"]["huge"]["norm"] > 1e30
