"""Exports: what is written loads with stock classes and gives the outputs of what was published."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tinyjob import ADAPTER, make_job, run

from tunestudy.config.errors import StudyError
from tunestudy.models.results import load_result
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, read_manifest
from tunestudy.train.export import Request, _told_perplexity, export, require_finite, told
from tunestudy.train.outputs import Rows, apart, logits_of, perplexity, probe_ids

SORA = {"type": "sora", "lora_r": 4, "target_modules": "all-linear", "target_sparsity": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JobDir]:
    root = tmp_path_factory.mktemp("trained")
    settings: dict[str, Any] = {"max_steps": 4, "num_records": 24, "learning_rate": 3e-2}
    jobs = {name: make_job(root, name, adapter=kind, **settings) for name, kind in (("lora", ADAPTER), ("sora", SORA))}
    for job in jobs.values():
        run(job)
    return jobs


def exported(folder: JobDir, to: Path, form: str, dtype: str | None = None, bits: int | None = None) -> dict[str, Any]:
    facts = export(Request(folder=folder, to=to, form=form, dtype=dtype, bits=bits))
    assert not problems(to) and not list(to.parent.glob(".tmp-*"))
    assert read_manifest(to)["export"] == facts  # type: ignore[index]
    return facts


def stock_difference(folder: JobDir, to: Path) -> float:
    """Between what plain transformers makes of the export and the published result."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    published = load_result(folder, "cpu")
    ids = probe_ids(AutoTokenizer.from_pretrained(to), seed=1)
    return apart(logits_of(published.model, ids), logits_of(AutoModelForCausalLM.from_pretrained(to), ids))


@pytest.mark.parametrize("kind", ["lora", "sora"])
def test_a_merged_model_gives_the_adapter_s_outputs(trained: dict[str, JobDir], tmp_path: Path, kind: str) -> None:
    facts = exported(trained[kind], tmp_path / "out", "merged")
    assert 0 <= facts["max_difference"] <= 1e-5 * max(facts["largest_output"], 1)
    assert stock_difference(trained[kind], tmp_path / "out") <= 1e-5 * max(facts["largest_output"], 1)


def test_half_precision_is_told_with_its_price(trained: dict[str, JobDir], tmp_path: Path) -> None:
    facts = exported(trained["lora"], tmp_path / "out", "merged", dtype="bfloat16")
    assert 1e-5 < facts["max_difference"] < 0.2
    from safetensors import safe_open

    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118 - no mapping


def test_outputs_that_overflow_are_refused(
    trained: dict[str, JobDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(model: Any, ids: torch.Tensor) -> torch.Tensor:
        logits = logits_of(model, ids)
        return torch.full_like(logits, torch.inf) if model.dtype is torch.float16 else logits

    monkeypatch.setattr("tunestudy.train.export.logits_of", overflowing)
    with pytest.raises(StudyError, match="overflow in float16; nothing was written; use bfloat16 or float32"):
        exported(trained["lora"], tmp_path / "out", "merged", dtype="float16")
    assert not list(tmp_path.iterdir())


def test_a_folded_adapter_has_no_gates_and_still_finds_its_base(trained: dict[str, JobDir], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    to = tmp_path / "deep" / "out"
    exported(trained["sora"], to, "folded")
    assert not (to / "gated").exists()
    published = load_result(trained["sora"], "cpu")
    ids = probe_ids(published.tokenizer, seed=1)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(read_base(to)), to)
    assert apart(logits_of(published.model, ids), logits_of(model, ids)) <= 1e-6


def read_base(folder: Path) -> Path:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return (folder / config["base_model_name_or_path"]).resolve()


def test_four_bits_are_compared_by_outputs_and_by_perplexity(trained: dict[str, JobDir], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    facts = exported(trained["lora"], tmp_path / "out", "quantised", bits=4)
    assert facts["max_difference"] > 1e-4 > facts["max_difference_saved"]
    assert facts["rows"] > 0 and 0.5 < facts["perplexity_after"] / facts["perplexity_before"] < 2


def test_a_perplexity_beyond_floats_is_told_and_no_overflow(trained: dict[str, JobDir], tmp_path: Path) -> None:
    class Sure(torch.nn.Module):
        """Of the token 0, by 800 nats."""

        device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
            logits = torch.zeros(*input_ids.shape, 4)
            logits[..., 0] = 800
            return SimpleNamespace(logits=logits)

    rows = Rows(samples=((torch.tensor([0, 1, 2]), torch.tensor([False, True, True])),))
    facts = _told_perplexity(1.5, perplexity(Sure(), rows), rows)
    require_finite({"dtype": "float32", **facts})
    assert json.loads(json.dumps(facts, allow_nan=False)) == {
        "perplexity_before": 1.5,
        "perplexity_after": "inf",
        "rows": 1,
    }
    request = Request(folder=trained["lora"], to=tmp_path, form="merged", dtype=None, bits=None)
    lines = told(request, {"max_difference": 1.0, "largest_output": 2.0, **facts})
    assert "   perplexity on 1 held-out rows: 1.5 before, inf in few bits" in lines


def test_a_changed_byte_and_a_form_that_does_not_fit_are_refused(trained: dict[str, JobDir], tmp_path: Path) -> None:
    whole = make_job(tmp_path, "whole", max_steps=2, num_records=24)
    run(whole)
    with pytest.raises(StudyError, match="whole model; use merged"):
        exported(whole, tmp_path / "out", "folded")
    weights = trained["lora"].model / "adapter_model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StudyError, match="does not match its SHA-256"):
            exported(trained["lora"], tmp_path / "out", "merged")
    finally:
        weights.write_bytes(content)
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_base_was_exchanged_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 2, "num_records": 24}
    base, other = make_job(tmp_path, "base", **settings), make_job(tmp_path, "other", seed=8, **settings)
    adapted = make_job(tmp_path, "adapted", after=base, init="continue", adapter=ADAPTER, **settings)
    for job in (base, other, adapted):
        run(job)
    shutil.rmtree(base.model)
    shutil.copytree(other.model, base.model)
    with pytest.raises(StudyError, match="not the model it was trained on"):
        exported(adapted, tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(
    trained: dict[str, JobDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunestudy.train.export.seal", full)
    with pytest.raises(OSError, match="No space"):
        export(Request(folder=trained["lora"], to=tmp_path / "out", form="merged", dtype=None, bits=None))
    assert not list(tmp_path.iterdir())
