"""Where inputs are found, and what is refused before a tensor is read."""

import json
from pathlib import Path

import pytest
import torch
from mergelab import MergeLab, weights, write_adapter, write_model
from safetensors.torch import load_file

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import BASE
from tunestudy.config.model import CharacterTokenizer, ModelConfig
from tunestudy.merge.adapter_source import AdapterSource
from tunestudy.merge.inputs import open_inputs
from tunestudy.merge.source import FolderSource
from tunestudy.models.identity import Identity, folder_identity

SHAPE = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}
DRAWN = ModelConfig(
    architecture="qwen3",
    config={**SHAPE, "num_key_value_heads": 2},
    tokenizer=CharacterTokenizer(type="characters", alphabet="abc"),
)


@pytest.fixture
def lab(tmp_path: Path) -> MergeLab:
    return MergeLab(tmp_path)


def test_stages_folders_and_the_studys_model(lab: MergeLab) -> None:
    en = lab.trained("en", 1)
    write_model(lab.root / "own", weights(2, like=lab.base))
    job, folder = lab.merging(en, models={"en": {"stage": "en"}, "own": {"path": "own"}})
    inputs = open_inputs(job, folder)
    assert list(inputs.models) == ["en", "own"] and inputs.kinds == {BASE: "full", "en": "full", "own": "full"}
    assert inputs.carried_from == lab.root / "base"
    assert inputs.identities["en"] == folder_identity(en.model)
    name = "model.norm.weight"
    for got, seed in ((inputs.models["en"], 1), (inputs.models["own"], 2)):
        assert torch.equal(got.read(name), weights(seed, like=lab.base)[name])
    assert inputs.base is not None and torch.equal(inputs.base.read(name), lab.base[name])


def test_without_base_the_first_model_gives_the_configuration(lab: MergeLab) -> None:
    en, ko = lab.trained("en", 1), lab.trained("ko", 2)
    inputs = open_inputs(*lab.merging(en, ko, base=None))
    assert inputs.base is None and inputs.first is inputs.models["en"] and inputs.carried_from == en.model


def test_adapters_are_read_on_their_base(lab: MergeLab) -> None:
    en, ko = lab.adapted("en", 1), lab.adapted("ko", 2)
    inputs = open_inputs(*lab.merging(en, ko, method="task_arithmetic"))
    source = inputs.models["en"]
    assert isinstance(source, AdapterSource) and inputs.kinds["en"] == "adapter"
    assert inputs.model_folder("en") == lab.root / "base" and inputs.folders["en"] == en.model
    assert source.is_untouched("model.norm.weight") and not source.is_untouched(
        "model.layers.0.self_attn.q_proj.weight"
    )
    factors = load_file(en.model / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    change = 2 * factors[f"{key}B.weight"] @ factors[f"{key}A.weight"]
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(source.read(name), (lab.base[name] + change).flatten(), atol=1e-6, rtol=0)
    assert inputs.identities["en"]["base"] == folder_identity(lab.root / "base")
    assert inputs.identities["en"] != inputs.identities["ko"]


def test_adapter_as_base_is_folded_once_and_kept(lab: MergeLab) -> None:
    """As the model that later stages start from (`init: merge_then_new`), in the same place."""
    en = lab.adapted("en", 1)
    ko = lab.trained("ko", 2)
    job, folder = lab.merging(ko, base="en", method="task_arithmetic")
    inputs = open_inputs(job, folder)
    kept = lab.study / "cache" / "models" / f"merged-{en.root.name}"
    assert isinstance(inputs.base, FolderSource) and inputs.base.folder == kept.resolve()
    assert inputs.kinds[BASE] == "full" and inputs.carried_from == kept.resolve()
    name = "model.layers.0.self_attn.q_proj.weight"
    folded = AdapterSource(FolderSource(lab.root / "base"), en.model).read(name)
    torch.testing.assert_close(inputs.base.read(name), folded, atol=1e-6, rtol=0)
    before = (kept / "MANIFEST.json").read_bytes()
    open_inputs(job, folder)
    assert (kept / "MANIFEST.json").read_bytes() == before


def test_random_study_model_is_drawn_by_the_seed(lab: MergeLab) -> None:
    job, folder = lab.merging(lab.trained("en", 1))
    first, again, other = (
        open_inputs(job.model_copy(update={"model": DRAWN, "seed": seed}), folder) for seed in (1, 1, 9)
    )
    assert first.identities[BASE]["kind"] == "random"
    assert first.folders[BASE] == again.folders[BASE] != other.folders[BASE]
    name = "model.embed_tokens.weight"
    assert first.base is not None and other.base is not None
    assert not torch.equal(first.base.read(name), other.base.read(name))


def test_random_study_model_may_be_that_of_one_seed_for_all(lab: MergeLab) -> None:
    model = DRAWN.model_copy(update={"weights_seed": 3})
    job, folder = lab.merging(lab.trained("en", 1))
    opened = [open_inputs(job.model_copy(update={"model": model, "seed": seed}), folder) for seed in (1, 2)]
    assert opened[0].folders[BASE] == opened[1].folders[BASE]
    assert opened[0].identities[BASE] == opened[1].identities[BASE]
    assert opened[0].identities[BASE]["seed"] == 3


def test_result_that_was_changed_is_refused(lab: MergeLab) -> None:
    en = lab.trained("en", 1)
    file = en.model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StudyError, match="does not match its SHA-256"):
        open_inputs(*lab.merging(en))


@pytest.mark.parametrize(("kind", "told"), [("mole", "export it folded first"), ("world", "not a model")])
def test_results_that_are_no_weights_are_refused(kind: str, told: str, lab: MergeLab) -> None:
    with pytest.raises(StudyError, match=told):
        open_inputs(*lab.merging(lab.adapted("en", 1, kind=kind)))


def test_folders_that_are_no_models_are_refused(lab: MergeLab) -> None:
    (lab.root / "empty").mkdir()
    for path, told in (("nowhere", "there is no folder"), ("empty", r"no config\.json")):
        with pytest.raises(StudyError, match=told):
            open_inputs(*lab.merging(models={"a": {"path": path}}, name=f"of-{path}"))


def test_adapters_of_different_bases_name_both(lab: MergeLab) -> None:
    write_model(lab.root / "other", weights(5))
    write_adapter(lab.root / "far", "../other", 1)
    en = lab.adapted("en", 1)
    with pytest.raises(StudyError, match=r"`far` .*/other, and `en` is one of .*/base"):
        open_inputs(*lab.merging(en, models={"en": {"stage": "en"}, "far": {"path": "far"}}))


def test_copies_of_one_base_are_one_base(lab: MergeLab) -> None:
    write_model(lab.root / "copy", lab.base)
    write_adapter(lab.root / "far", "../copy", 1)
    en = lab.adapted("en", 1)
    inputs = open_inputs(*lab.merging(en, models={"en": {"stage": "en"}, "far": {"path": "far"}}))
    assert not inputs.models["far"].is_untouched("model.norm.weight")  # it lies elsewhere: a look tells
    assert inputs.base is not None
    assert (inputs.models["far"].difference(inputs.base, "model.norm.weight") == 0).all()


def test_base_that_is_gone_or_another_is_told(lab: MergeLab) -> None:
    write_adapter(lab.root / "far", "../gone", 1)
    with pytest.raises(StudyError, match="that folder is gone"):
        open_inputs(*lab.merging(models={"far": {"path": "far"}}))
    en = lab.adapted("en", 1)
    manifest = json.loads((en.model / "MANIFEST.json").read_text())
    manifest["base"] = {"kind": "folder", "sha256": "0" * 64}
    (en.model / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(StudyError, match="not the model it was trained on"):
        open_inputs(*lab.merging(en, name="again"))


def test_a_base_of_the_hub_is_read_at_the_revision_that_the_study_gives(
    lab: MergeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def from_hub(name: str, revision: str | None) -> tuple[Path, Identity]:
        asked.append((name, revision))
        return lab.root / "base", {"kind": "hub", "name": name, "revision": "0" * 40}

    monkeypatch.setattr("tunestudy.merge.inputs.from_hub", from_hub)
    write_adapter(lab.root / "far", "org/base", 1)
    open_inputs(*lab.merging(models={"far": {"path": "far"}}))
    open_inputs(*lab.merging(models={"far": {"path": "far", "base_revision": "v1"}}, name="given"))
    assert asked == [("org/base", None), ("org/base", "v1")]
    write_adapter(lab.root / "near", "../base", 1)
    with pytest.raises(StudyError, match="has no revisions: take base_revision out"):
        open_inputs(*lab.merging(models={"near": {"path": "near", "base_revision": "v1"}}, name="near"))


def test_whole_models_make_no_adapter(lab: MergeLab) -> None:
    en, ko = lab.adapted("en", 1), lab.trained("ko", 2)
    with pytest.raises(StudyError, match="ko: no adapter"):
        open_inputs(*lab.merging(en, ko, into="adapter"))
