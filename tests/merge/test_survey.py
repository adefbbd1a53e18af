"""What is told and refused before a merge, against whole tensors in NumPy's float64."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergelab import MergeLab, weights, write_model
from safetensors.torch import load_file, save_file

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import MergeStage
from tunestudy.merge import survey as room
from tunestudy.merge.compare import compare
from tunestudy.merge.inputs import open_inputs
from tunestudy.merge.lineage import check_lineage
from tunestudy.merge.survey import survey
from tunestudy.models.roles import role_of
from tunestudy.records.layout import JobDir


@pytest.fixture
def lab(tmp_path: Path) -> MergeLab:
    return MergeLab(tmp_path)


def surveyed(job: Any, folder: JobDir, threads: int = 2) -> dict[str, Any]:
    settings = job.merging
    compared = compare(open_inputs(job, folder), settings, job.stage)
    found = survey(compared.inputs, settings, job.stage, threads=threads, stop=lambda: False)
    assert found is not None
    return found


def of_role(tensors: dict[str, torch.Tensor], role: str) -> np.ndarray:
    return np.concatenate([t.double().flatten().numpy() for n, t in sorted(tensors.items()) if role_of(n) == role])


def test_numbers_are_those_of_whole_tensors(lab: MergeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PART", 7)
    monkeypatch.setattr(room, "TASK", 21)
    en, ko = lab.trained("en", 1), lab.trained("ko", 2)
    file = ko.model / "model.safetensors"
    tensors = load_file(file)
    half = {name: torch.where(torch.rand(t.shape) < 0.5, lab.base[name], t) for name, t in tensors.items()}
    write_model(lab.root / "ko", half)
    job, folder = lab.merging(en, models={"en": {"stage": "en"}, "ko": {"path": "ko"}}, method="task_arithmetic")
    found = surveyed(job, folder)
    assert found == surveyed(job, folder, threads=1)
    assert found["warnings"] == [] and set(found["roles"]) == {"language_model", "lm_head"}
    models = {"en": weights(1, like=lab.base), "ko": half}
    for role, told in found["roles"].items():
        base = of_role(lab.base, role)
        delta = {
            name: of_role({n: t - lab.base[n] for n, t in tensors.items()}, role) for name, tensors in models.items()
        }
        assert told["tensors"] == sum(role_of(name) == role for name in lab.base)
        assert told["parameters"] == len(base)
        for name, one in delta.items():
            expected = [np.mean(one == 0), np.linalg.norm(one), np.linalg.norm(one) / np.linalg.norm(base)]
            assert list(told["models"][name].values()) == pytest.approx(expected, rel=1e-5)
        en_, ko_ = delta["en"], delta["ko"]
        assert told["cosine"]["en|ko"] == pytest.approx(
            en_ @ ko_ / np.linalg.norm(en_) / np.linalg.norm(ko_), rel=1e-4, abs=1e-6
        )
        both = (en_ != 0) & (ko_ != 0)
        assert told["sign_conflict"]["en|ko"] == pytest.approx(np.mean(en_[both] * ko_[both] < 0))


def test_without_base_cosines_are_of_the_weights(lab: MergeLab) -> None:
    found = surveyed(*lab.merging(lab.trained("en", 1), lab.trained("ko", 2), base=None))
    for role, told in found["roles"].items():
        en, ko = (of_role(weights(seed, like=lab.base), role) for seed in (1, 2))
        assert told["models"] == {} and told["sign_conflict"] == {}
        assert told["cosine"]["en|ko"] == pytest.approx(en @ ko / np.linalg.norm(en) / np.linalg.norm(ko), rel=1e-5)


def test_adapters_leave_most_as_it_is(lab: MergeLab) -> None:
    found = surveyed(*lab.merging(lab.adapted("en", 1), lab.adapted("ko", 2), method="task_arithmetic"))
    adapted = 2 * 2 * 64 / found["roles"]["language_model"]["parameters"]
    assert found["roles"]["language_model"]["models"]["en"]["zero_share"] == pytest.approx(1 - adapted)
    head = found["roles"]["lm_head"]
    assert head["models"]["ko"] == {"zero_share": 1.0, "norm": 0.0, "relative_norm": 0.0}
    assert head["cosine"] == {} and head["sign_conflict"] == {}


def test_model_that_is_the_base_is_refused(lab: MergeLab) -> None:
    write_model(lab.root / "same", lab.base)
    en = lab.trained("en", 1)
    inputs = {"models": {"en": {"stage": "en"}, "same": {"path": "same"}}}
    with pytest.raises(StudyError, match="`same` is the base: its difference is empty"):
        surveyed(*lab.merging(en, **inputs, method="task_arithmetic"))
    assert surveyed(*lab.merging(en, **inputs, name="sum"))["warnings"] == ["`same` is the base: nothing of it differs"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_name_tensor_and_model(value: float, lab: MergeLab) -> None:
    tensors = weights(3, like=lab.base)
    tensors["model.norm.weight"][2] = value
    write_model(lab.root / "bad", tensors)
    en = lab.trained("en", 1)
    with pytest.raises(StudyError, match=r"`bad` holds values .* in model\.norm\.weight"):
        surveyed(*lab.merging(en, models={"en": {"stage": "en"}, "bad": {"path": "bad"}}))


def test_descent_that_no_job_tells_shows_in_the_numbers(lab: MergeLab) -> None:
    english = weights(1, like=lab.base)
    write_model(lab.root / "en", english)
    write_model(lab.root / "ko", weights(2, like=english, size=0.1))
    write_model(lab.root / "far", weights(3, like=lab.base))
    models = {name: {"path": name} for name in ("en", "ko", "far")}
    (warning,) = surveyed(*lab.merging(models=models, method="task_arithmetic"))["warnings"]
    assert warning.startswith("`ko` looks as if it was trained from `en`")


def test_asked_to_stop_nothing_is_told(lab: MergeLab) -> None:
    job, folder = lab.merging(lab.trained("en", 1))
    assert job.merging is not None
    compared = compare(open_inputs(job, folder), job.merging, job.stage)
    assert survey(compared.inputs, job.merging, job.stage, threads=1, stop=lambda: True) is None


def test_descendant_holds_its_ancestors_difference(lab: MergeLab) -> None:
    en = lab.trained("en", 1)
    between = lab.trained("between", 3, parents=(en.root.name,))
    ko = lab.trained("ko", 2, parents=(between.root.name,))
    with pytest.raises(StudyError, match=r"`ko` was trained from `en`.*count twice") as refused:
        check_lineage(*lab.merging(en, ko, method="ties"))
    assert refused.value.place.key == "stages.merged.models.ko"
    (allowed,) = check_lineage(*lab.merging(en, ko, method="ties", allow_descendants=True, name="allowed"))
    (linear,) = check_lineage(*lab.merging(en, ko, name="linear"))
    assert allowed.endswith("allowed") and "on the way from one to the other" in linear


def test_base_that_both_were_trained_from_is_no_descent(lab: MergeLab) -> None:
    vision = lab.trained("vision", 3)
    en, ko = (lab.trained(name, seed, parents=(vision.root.name,)) for name, seed in (("en", 1), ("ko", 2)))
    assert check_lineage(*lab.merging(en, ko, base="vision", method="ties")) == []


def test_models_that_were_not_trained_from_the_base_are_told(lab: MergeLab) -> None:
    en, ko = lab.trained("en", 1), lab.trained("ko", 2)
    other = lab.trained("other", 3)
    (warning,) = check_lineage(*lab.merging(en, ko, base=other.root.name.partition("-")[0], method="ties"))
    assert warning.startswith("`en`, `ko`: not trained from the base")


def test_what_was_merged_is_an_ancestor(lab: MergeLab) -> None:
    en, ko = lab.trained("en", 1), lab.trained("ko", 2)
    _, sum_ = lab.merging(en, ko, name="sum")
    with pytest.raises(StudyError, match="`sum` was trained from `en`"):
        check_lineage(*lab.merging(en, sum_, method="task_arithmetic"))


def broken(lab: MergeLab, tensors: dict[str, torch.Tensor], **options: Any) -> str:
    """What `compare` says of the study's model and this one."""
    config = options.pop("config", {})
    write_model(lab.root / "bad", tensors, **config)
    job, folder = lab.merging(models={"bad": {"path": "bad"}}, **options)
    assert isinstance(job.merging, MergeStage)
    try:
        return "; ".join(compare(open_inputs(job, folder), job.merging, job.stage).warnings)
    except StudyError as error:
        return error.message


def test_models_that_do_not_fit_name_both(lab: MergeLab) -> None:
    tensors = weights(1, like=lab.base)
    name = "model.layers.0.mlp.up_proj.weight"
    assert "`base` and `bad`" in broken(lab, tensors, config={"num_hidden_layers": 3})
    assert "tie_word_embeddings is False and True" in broken(lab, tensors, config={"tie_word_embeddings": True})
    told = broken(lab, {**tensors, name: tensors[name][:4]})
    assert told.startswith(f"{name} is (12, 8) in `base` and (4, 8) in `bad`")
    assert f"`bad` lacks 1 tensors: {name}" in broken(lab, {n: t for n, t in tensors.items() if n != name})
    assert "in few bits" in broken(lab, {**tensors, name: torch.zeros(12, 8, dtype=torch.uint8)})
    half = {n: t.to(torch.bfloat16) for n, t in tensors.items()}
    assert broken(lab, half) == "21 tensors are bfloat16 in `bad` and float32 in `base`; the result is as in the latter"


def test_new_tensors_need_a_policy(lab: MergeLab) -> None:
    tensors = {**weights(1, like=lab.base), "multi_modal_projector.weight": torch.ones(2)}
    assert "the base lacks 1 tensors: multi_modal_projector.weight" in broken(lab, tensors)
    assert broken(lab, tensors, absent="average") == ""


def test_tied_head_that_was_stored_does_not_count(lab: MergeLab) -> None:
    """Some folders hold a tied head, others do not: loading ignores it."""
    write_model(lab.root / "base", lab.base, tie_word_embeddings=True)
    tensors = {name: t for name, t in weights(1, like=lab.base).items() if name != "lm_head.weight"}
    write_model(lab.root / "tied", tensors, tie_word_embeddings=True)
    job, folder = lab.merging(models={"tied": {"path": "tied"}})
    assert job.merging is not None
    inputs = compare(open_inputs(job, folder), job.merging, job.stage).inputs
    assert set(inputs.first.tensors) == set(inputs.models["tied"].tensors) == set(tensors)


def test_nothing_but_zeros_in_adapters_is_empty(lab: MergeLab) -> None:
    en = lab.adapted("en", 1)
    ko = lab.root / "ko"
    from shutil import copytree

    copytree(en.model, ko, ignore=lambda _folder, _names: ["MANIFEST.json"])
    config = (ko / "adapter_config.json").read_text().replace("../../../../../base", "../base")
    (ko / "adapter_config.json").write_text(config)
    factors = load_file(ko / "adapter_model.safetensors")
    save_file({n: t * ("lora_A" in n) for n, t in factors.items()}, ko / "adapter_model.safetensors")
    with pytest.raises(StudyError, match="`ko` is the base"):
        surveyed(*lab.merging(en, models={"en": {"stage": "en"}, "ko": {"path": "ko"}}, method="task_arithmetic"))
