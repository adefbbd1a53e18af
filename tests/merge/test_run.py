"""A job that merges, from its folder to what it publishes; killed, stopped, refused, and on a full disk."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mergelab import WORDS, MergeLab, weights, write_adapter, write_model, write_tokenizer
from safetensors.torch import load_file

from tunestudy.config.errors import StudyError
from tunestudy.merge import run as room
from tunestudy.merge.adapter_source import AdapterSource
from tunestudy.merge.run import run_merge
from tunestudy.merge.source import FolderSource
from tunestudy.models.results import load_result
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, read_manifest
from tunestudy.records.stop import StopRequest

LAB = Path(__file__).parents[1] / "lab"
SCRIPT = (
    "import sys, json; from pathlib import Path; from tunestudy.config.job import Job;"
    "from tunestudy.merge.run import run_merge; from tunestudy.records.layout import JobDir;"
    "from tunestudy.records.stop import StopRequest; folder = JobDir(Path(sys.argv[1]));"
    "run_merge(Job.model_validate(json.loads(folder.job_json.read_text())), folder, StopRequest())"
)
"""A merge in a process of its own, without the worker around it."""


@pytest.fixture
def lab(tmp_path: Path) -> MergeLab:
    return MergeLab(tmp_path)


def merged(lab: MergeLab, *inputs: JobDir, **settings: Any) -> JobDir:
    job, folder = lab.merging(*inputs, **settings)
    assert run_merge(job, folder, StopRequest())
    return folder


def hashes(folder: Path) -> dict[str, str]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return {name: one["sha256"] for name, one in manifest["files"].items()}


def test_result_is_whole_sealed_and_loadable(lab: MergeLab) -> None:
    en, ko = lab.trained("en", 1), lab.trained("ko", 2)
    folder = merged(lab, en, ko, models={"en": {"stage": "en", "weight": 3}, "ko": {"stage": "ko"}})
    assert problems(folder.model) == []
    assert set(hashes(folder.model)) == {
        "config.json",
        "generation_config.json",
        "merge.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    made = load_file(folder.model / "model.safetensors")
    for name, tensor in made.items():
        expected = (3 * weights(1, like=lab.base)[name] + weights(2, like=lab.base)[name]) / 4
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0)
    result = json.loads(folder.result_json.read_text())
    assert result["model_kind"] == "full" and result["steps"] == 0
    assert result["total_params"] == sum(tensor.numel() for tensor in made.values())
    assert result["merge"] == {"method": "linear", "compat": "paper", "models": ["en", "ko"], "warnings": []}
    loaded = load_result(folder, "cpu")
    assert torch.equal(loaded.model.state_dict()["lm_head.weight"], made["lm_head.weight"])
    assert loaded.tokenizer.convert_ids_to_tokens(4) == "a"


def test_report_and_provenance(lab: MergeLab) -> None:
    en, ko = lab.adapted("en", 1), lab.trained("ko", 2)
    folder = merged(lab, en, ko, method="task_arithmetic")
    report = json.loads(folder.merge_report.read_text())
    assert report["models"]["en"]["kind"] == "adapter" and report["models"]["ko"]["weight"] == 1.0
    assert set(report["roles"]["lm_head"]) == {"tensors", "parameters", "models", "cosine", "sign_conflict"}
    assert report["absent"] == {"policy": "error", "tensors": 0, "names": []} and report["vocabulary"] is None
    size = (lab.root / "base" / "model.safetensors").stat().st_size
    assert report["threads"] == 2 and report["duration_s"] > 0 and 0 < report["written_bytes"] <= size
    told = json.loads((folder.model / "merge.json").read_text())
    assert told["settings"]["method"] == "task_arithmetic" and told["inputs"]["en"]["job"] == en.root.name
    assert told["inputs"]["base"]["identity"] == report["base"] and "torch" in told["versions"]
    phases = json.loads(folder.progress_json.read_text())
    assert phases["phase"] == "save"


def test_adapters_folded_into_a_model(lab: MergeLab) -> None:
    en, ko = lab.adapted("en", 1), lab.adapted("ko", 2)
    folder = merged(lab, en, ko, method="task_arithmetic")
    base = FolderSource(lab.root / "base")
    made = load_file(folder.model / "model.safetensors")
    for name, tensor in made.items():
        changes = [AdapterSource(base, one.model).difference(base, name).view(tensor.shape) for one in (en, ko)]
        torch.testing.assert_close(tensor, lab.base[name] + sum(changes), atol=1e-5, rtol=0)


@pytest.mark.parametrize("base", [None, "model"])
def test_adapters_without_tokenizers_on_a_base_that_stores_its_tied_head(lab: MergeLab, base: str | None) -> None:
    """A copy of the embeddings in the base's file, which loading ignores; the tokenizer is the base's."""
    write_model(lab.root / "base", lab.base, tie_word_embeddings=True)
    models = {}
    for seed, name in enumerate(("en", "ko"), 1):
        folder = write_adapter(lab.root / name, "../base", seed)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).unlink()
        models[name] = {"path": name}
    method = "linear" if base is None else "task_arithmetic"
    folder = merged(lab, base=base, models=models, method=method)
    assert "lm_head.weight" not in load_file(folder.model / "model.safetensors")
    assert (folder.model / "tokenizer.json").read_bytes() == (lab.root / "base/tokenizer.json").read_bytes()


def test_adapters_become_an_adapter_that_loads(lab: MergeLab) -> None:
    en, ko = lab.adapted("en", 1), lab.adapted("ko", 2)
    folder = merged(lab, en, ko, method="task_arithmetic", into="adapter")
    assert problems(folder.model) == [] and json.loads(folder.result_json.read_text())["model_kind"] == "adapter"
    assert {"merge.json", "tokenizer.json", "adapter_model.safetensors"} <= set(hashes(folder.model))
    assert not (folder.model / "config.json").exists()
    config = json.loads((folder.model / "adapter_config.json").read_text())
    assert (folder.model / config["base_model_name_or_path"]).resolve() == lab.root / "base"
    base = FolderSource(lab.root / "base")
    source = AdapterSource(base, folder.model)
    for name in source.tensors:
        changes = [AdapterSource(base, one.model).difference(base, name) for one in (en, ko)]
        torch.testing.assert_close(source.difference(base, name), sum(changes), atol=1e-5, rtol=0)
    assert load_result(folder, "cpu").model.peft_config["default"].r == 4


def test_what_an_adapters_merge_warns_of_is_reported(lab: MergeLab) -> None:
    en, ko = lab.adapted("en", 1), lab.adapted("ko", 2)
    models = {"en": {"stage": "en", "density": 0.3}, "ko": {"stage": "ko", "density": 0.3}}
    folder = merged(lab, en, ko, method="ties", into="adapter", result_rank=1, models=models)
    for file, found in ((folder.merge_report, lambda told: told), (folder.result_json, lambda told: told["merge"])):
        (warning,) = found(json.loads(file.read_text()))["warnings"]
        assert "cut to a low rank" in warning and "raise result_rank" in warning


def test_stages_tokenizer_goes_before_the_bases(lab: MergeLab) -> None:
    """It has the study's chat template; without one of a stage, the base's."""
    folder = merged(lab, lab.trained("en", 1), lab.trained("ko", 2))
    assert json.loads((folder.model / "tokenizer_config.json").read_text())["x"] == 1
    write_model(lab.root / "own", weights(3, like=lab.base))
    own = merged(lab, models={"own": {"path": "own"}}, name="own")
    assert (own.model / "tokenizer_config.json").read_bytes() == (lab.root / "base/tokenizer_config.json").read_bytes()


def test_processors_and_components_are_carried(lab: MergeLab) -> None:
    en = lab.root / "en"
    write_model(en, weights(1, like=lab.base))
    (en / "preprocessor_config.json").write_text("{}")
    (lab.root / "base" / "components.json").write_text("{}")
    (lab.root / "base" / "notes.md").write_text("not of the model")
    folder = merged(lab, models={"en": {"path": "en"}})
    assert {"preprocessor_config.json", "components.json"} <= set(hashes(folder.model))
    assert "notes.md" not in hashes(folder.model)


def test_dtype_is_told_in_the_configuration(lab: MergeLab) -> None:
    folder = merged(lab, lab.trained("en", 1), dtype="bfloat16")
    assert json.loads((folder.model / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert load_file(folder.model / "model.safetensors")["lm_head.weight"].dtype is torch.bfloat16


def test_union_of_vocabularies(lab: MergeLab) -> None:
    words = (*WORDS, "가", "나")
    tensors = weights(1, like=lab.base)
    new = torch.full((2, 8), 5.0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], new])
    write_model(lab.root / "ko", tensors, vocab_size=len(words))
    write_tokenizer(lab.root / "ko", words)
    models = {"en": {"stage": "en"}, "ko": {"path": "ko"}}
    folder = merged(lab, lab.trained("en", 2), models=models, method="task_arithmetic", vocabulary="union")
    loaded = load_result(folder, "cpu")
    assert loaded.model.config.vocab_size == len(words) == len(loaded.tokenizer)
    assert loaded.tokenizer("가").input_ids == [16]
    assert torch.equal(loaded.model.get_input_embeddings().weight[16:], new)
    report = json.loads(folder.merge_report.read_text())
    assert report["vocabulary"] == {"tokens": 18, "added": {"ko": 2}}
    base = merged(lab, lab.trained("en", 2), models=models, method="task_arithmetic", name="narrow")
    assert load_result(base, "cpu").model.config.vocab_size == len(WORDS)


def test_same_inputs_give_the_same_bytes(lab: MergeLab) -> None:
    en, ko = lab.trained("en", 1), lab.adapted("ko", 2)
    job, folder = lab.merging(en, ko, method="dare_ties")
    assert run_merge(job, folder, StopRequest())
    first = hashes(folder.model)
    shutil.rmtree(folder.model)
    folder.result_json.unlink()
    assert run_merge(job, folder, StopRequest())
    assert hashes(folder.model) == first


def test_asked_to_stop_nothing_is_published(lab: MergeLab) -> None:
    job, folder = lab.merging(lab.trained("en", 1))
    stop = StopRequest()
    stop.wanted = True
    assert not run_merge(job, folder, stop)
    assert not folder.model.exists() and not folder.result_json.exists()
    assert json.loads(folder.progress_json.read_text())["phase"] == "interrupted"
    assert not list(folder.root.glob(".tmp-*"))


def test_full_disk_is_told_and_leaves_nothing(lab: MergeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(prepared: Path, *_: Any, **__: Any) -> None:
        prepared.mkdir()
        (prepared / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(room, "merge_into", full)
    job, folder = lab.merging(lab.trained("en", 1))
    with pytest.raises(OSError, match="no space left to publish") as error:
        run_merge(job, folder, StopRequest())
    assert error.value.errno == errno.ENOSPC
    assert not folder.model.exists() and not list(folder.root.glob(".tmp-*"))


def test_refusal_leaves_nothing(lab: MergeLab) -> None:
    job, folder = lab.merging(models={"same": {"path": "base"}}, method="task_arithmetic")
    with pytest.raises(StudyError, match="its difference is empty"):
        run_merge(job, folder, StopRequest())
    assert not folder.model.exists() and not folder.result_json.exists()


def test_plain_merges_start_without_large_libraries(lab: MergeLab) -> None:
    _, folder = lab.merging(lab.trained("en", 1), lab.trained("ko", 2))
    script = f"{SCRIPT}; print(sorted({{'transformers', 'peft', 'tokenizers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script, folder.root], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and folder.result_json.exists()


KILL_EVENTS = "tunestudy.fsync,tunestudy.manifest,tunestudy.publish,os.rename"


def run_killed(folder: JobDir, at: int) -> int:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(LAB / "killpoints"), os.environ.get("PYTHONPATH", "")]),
        "KILL_EVENTS": KILL_EVENTS,
        "KILL_PATH": f"{folder.root.name}/",
        "KILL_AT": str(at),
        "OMP_NUM_THREADS": "1",
    }
    script = (
        "import sys, json; from pathlib import Path; from tunestudy.config.job import Job;"
        "from tunestudy.merge.run import run_merge; from tunestudy.records.layout import JobDir;"
        "from tunestudy.records.stop import StopRequest; folder = JobDir(Path(sys.argv[1]));"
        "run_merge(Job.model_validate(json.loads(folder.job_json.read_text())), folder, StopRequest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, folder.root], env=environment, capture_output=True, check=False
    )
    return done.returncode


def test_killed_merges_look_like_no_model_and_start_over(lab: MergeLab) -> None:
    """At a durable step of the middle, and at the rename: `model/` is whole or absent, result.json last."""
    en, ko = lab.trained("en", 1), lab.trained("ko", 2)
    undisturbed = merged(lab, en, ko, method="dare_ties", name="reference")
    expected = hashes(undisturbed.model)
    job, folder = lab.merging(en, ko, method="dare_ties", name="killed")
    for at in (6, 12):
        assert run_killed(folder, at) == -9
        assert not folder.result_json.exists()
        assert not folder.model.exists() or problems(folder.model) == []
        shutil.rmtree(folder.model, ignore_errors=True)
        assert run_merge(job, folder, StopRequest())
        assert hashes(folder.model) == expected
        folder.result_json.unlink()
        shutil.rmtree(folder.model)
