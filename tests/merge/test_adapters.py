"""Adapters of one base as one: what plain PEFT makes of the result, against sums of the adapters' own differences."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import MergeStage
from tunestudy.merge import adapters
from tunestudy.merge.adapter_files import AdapterFiles
from tunestudy.merge.adapters import AdapterFacts, merge_adapters
from tunestudy.merge.whole import merge_differences
from tunestudy.models.roles import role_of

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
}
ATTENTION = ["q_proj", "v_proj", "o_proj"]
IDS = torch.tensor([[4, 9, 11, 30, 7, 5]])
WEIGHTS = {"en": 0.6, "ko": -0.35}


def base() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> "Maker":
    folder = tmp_path_factory.mktemp("adapters")
    base().save_pretrained(folder / "base")
    return Maker(folder)


class Maker:
    """Writes adapters of one base, each once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, Path] = {}

    def __call__(self, name: str, **options: Any) -> Path:
        """options: PEFT's. `name` seeds the factors."""
        key = f"{name}-{json.dumps(options, sort_keys=True)}"
        if key not in self.made:
            folder = self.root / f"adapter-{len(self.made)}"
            defaults = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION}
            model = get_peft_model(base(), LoraConfig(**{**defaults, **options}))
            random = torch.Generator().manual_seed(sum(map(ord, name)))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
            model.save_pretrained(folder, save_embedding_layers=False)
            config = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "../base"}))
            self.made[key] = folder
        return self.made[key]


def stage(method: str, names: Mapping[str, Any] = WEIGHTS, **more: Any) -> MergeStage:
    """names: weights, or whole settings of the models."""
    density = {} if method in ("linear", "task_arithmetic", "slerp") else {"density": 0.4}
    models = {
        name: {"path": name, **density, **(one if isinstance(one, dict) else {"weight": one})}
        for name, one in names.items()
    }
    based = {} if method in ("linear", "slerp") else {"base": "model"}
    return MergeStage.model_validate({"method": method, "models": models, "into": "adapter", **based, **more})


def merge(folders: dict[str, Path], settings: MergeStage, tmp_path: Path, seed: int = 1) -> tuple[Path, AdapterFacts]:
    prepared = tmp_path / "model"
    return prepared, merge_adapters(prepared, folders, settings, seed=seed)


def loaded(folder: Path, name: str = "default") -> Any:
    return PeftModel.from_pretrained(base(), folder, adapter_name=name)


def differences(model: Any, name: str = "default") -> dict[str, Tensor]:
    """Module → what PEFT adds to its weight."""
    with torch.no_grad():
        return {
            key.removeprefix("base_model.model."): module.get_delta_weight(name)
            for key, module in model.named_modules()
            if name in getattr(module, "lora_A", {}) or name in getattr(module, "lora_embedding_A", {})
        }


def weighted(folders: dict[str, Path], weights: Mapping[str, float], total: float = 1.0) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, folder in folders.items():
        for module, difference in differences(loaded(folder)).items():
            found[module] = found.get(module, 0) + difference * (weights[name] / total)
    return found


def require_close(mine: dict[str, Tensor], theirs: dict[str, Tensor], atol: float) -> None:
    assert mine.keys() == theirs.keys()
    for module, difference in theirs.items():
        torch.testing.assert_close(mine[module], difference, rtol=0, atol=atol)


SUMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alike": ({}, {}),
    "ranks": ({"r": 2}, {"r": 6, "lora_alpha": 3}),
    "rslora": ({"use_rslora": True}, {"r": 8}),
    "patterns": ({"rank_pattern": {"q_proj": 3, r"layers\.1\..*o_proj": 5}, "alpha_pattern": {"v_proj": 1}}, {}),
    "targets": ({"target_modules": ["q_proj"]}, {"target_modules": ["up_proj", "q_proj"]}),
    "layers": ({"target_modules": r".*layers\.0\..*_proj"}, {"target_modules": ["down_proj"]}),
    "embedding": ({"target_modules": ["embed_tokens", "lm_head"]}, {"target_modules": ["embed_tokens"], "r": 3}),
}


@pytest.mark.parametrize("case", SUMS)
def test_a_weighted_sum_is_exact_whatever_ranks_scales_and_modules(case: str, made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name, **options) for name, options in zip(WEIGHTS, SUMS[case], strict=True)}
    folder, facts = merge(folders, stage("task_arithmetic", scale=1.5), tmp_path)
    expected = {module: 1.5 * one for module, one in weighted(folders, WEIGHTS).items()}
    require_close(differences(loaded(folder)), expected, atol=1e-5)
    assert facts.exact
    assert facts.energy == {} and facts.worst is None
    assert facts.modules == len(expected)


def test_the_merged_adapter_speaks_as_the_summed_weights_do(made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name, r=rank) for name, rank in zip(WEIGHTS, (3, 5), strict=True)}
    folder, _ = merge(folders, stage("linear", normalize=False), tmp_path)
    summed = base()
    with torch.no_grad():
        for module, difference in weighted(folders, WEIGHTS).items():
            summed.get_submodule(module).weight += difference
        torch.testing.assert_close(
            loaded(folder).eval()(input_ids=IDS).logits, summed.eval()(input_ids=IDS).logits, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(("method", "normalize", "divided"), [("linear", None, True), ("task_arithmetic", True, True)])
def test_normalising_divides_by_all_weights(
    method: str, normalize: bool | None, divided: bool, made: Maker, tmp_path: Path
) -> None:
    folders = {"en": made("en"), "ko": made("ko", target_modules=["q_proj"])}
    folder, facts = merge(folders, stage(method, normalize=normalize), tmp_path)
    expected = weighted(folders, WEIGHTS, sum(WEIGHTS.values()) if divided else 1.0)
    require_close(differences(loaded(folder)), expected, atol=1e-5)
    assert "ko leaves out" in " ".join(facts.warnings)


def test_weights_of_a_role_win(made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name, target_modules=["q_proj", "lm_head"]) for name in WEIGHTS}
    models = {"en": {"weight": 0.5, "weights": {"lm_head": 2.0}}, "ko": {"weight": 0.3}}
    folder, _ = merge(folders, stage("task_arithmetic", models), tmp_path)
    one, other = (differences(loaded(path)) for path in folders.values())
    expected = {
        module: (2.0 if role_of(module) == "lm_head" else 0.5) * one[module] + 0.3 * other[module] for module in one
    }
    require_close(differences(loaded(folder)), expected, atol=1e-5)


def test_a_lower_rank_is_the_best_one_and_tells_what_it_holds(made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name) for name in WEIGHTS}
    folder, facts = merge(folders, stage("task_arithmetic", result_rank=3), tmp_path)
    mine, whole = differences(loaded(folder)), weighted(folders, WEIGHTS)
    assert not facts.exact
    assert facts.rank == 3
    for module, exact in whole.items():
        left, sizes, right = torch.linalg.svd(exact.double(), full_matrices=False)
        best = left[:, :3] * sizes[:3] @ right[:3]
        torch.testing.assert_close(mine[module].double(), best, rtol=0, atol=1e-5)
        held = float(sizes[:3].square().sum() / sizes.square().sum())
        assert facts.energy[module] == pytest.approx(held, abs=1e-5)
    assert facts.worst == min(facts.energy.items(), key=lambda item: item[1])
    assert facts.worst[0] in " ".join(facts.warnings)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_sparse_methods_see_whole_differences(method: str, made: Maker, tmp_path: Path) -> None:
    """At full rank nothing is cut off, so the result is the method's own."""
    folders = {"en": made("en"), "ko": made("ko", target_modules=["q_proj"])}
    settings = stage(method, {"en": 0.6, "ko": 0.35}, result_rank=32)
    folder, facts = merge(folders, settings, tmp_path, seed=5)
    one, other = (differences(loaded(path)) for path in folders.values())
    for module, difference in differences(loaded(folder)).items():
        given = {"en": one[module], "ko": other.get(module, torch.zeros_like(one[module]))}
        exact = merge_differences(f"{module}.weight", given, settings, seed=5)
        torch.testing.assert_close(difference, exact, rtol=0, atol=1e-5)
        assert facts.energy[module] == pytest.approx(1, abs=1e-6)


def test_ties_is_cut_to_the_sum_of_ranks_by_default(made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name, r=rank, lora_alpha=4) for name, rank in zip(WEIGHTS, (2, 3), strict=True)}
    folder, facts = merge(folders, stage("ties"), tmp_path)
    assert facts.rank == 5
    ranks = {torch.linalg.matrix_rank(difference).item() for difference in differences(loaded(folder)).values()}
    assert ranks == {5}


def test_what_is_lost_is_warned_of(made: Maker, tmp_path: Path) -> None:
    _, facts = merge({name: made(name) for name in WEIGHTS}, stage("ties", result_rank=1), tmp_path)
    assert facts.worst is not None
    assert 0 < facts.worst[1] < 0.9
    assert facts.worst[0] in facts.warnings[0]
    assert "raise result_rank" in facts.warnings[0]


def test_the_seed_decides_what_dare_drops_and_nothing_else(made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name) for name in WEIGHTS}
    bytes_of = []
    for number, seed in enumerate((1, 1, 2)):
        folder, _ = merge(folders, stage("dare_linear"), tmp_path / str(number), seed=seed)
        bytes_of.append((folder / "adapter_model.safetensors").read_bytes())
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]


def test_threads_change_no_byte_and_are_given_back(made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name, target_modules=["lm_head", "up_proj"]) for name in WEIGHTS}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            folder, _ = merge(folders, stage("ties"), tmp_path / str(threads))
            found.append((folder / "adapter_model.safetensors").read_bytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def added_by_peft(folders: dict[str, Path], combination: str, weights: Mapping[str, float]) -> dict[str, Tensor]:
    names = list(folders)
    model = loaded(folders[names[0]], names[0])
    for name in names[1:]:
        model.load_adapter(folders[name], adapter_name=name)
    density = {} if combination == "linear" else {"density": 0.4}
    model.add_weighted_adapter(names, [weights[n] for n in names], "merged", combination_type=combination, **density)
    return differences(model, "merged")


@pytest.mark.parametrize("combination", ["linear", "ties"])
@pytest.mark.parametrize("options", [{}, {"lora_alpha": 3}, {"target_modules": ["q_proj", "down_proj"]}])
def test_compat_peft_is_pefts_weighted_adapter(
    combination: str, options: dict[str, Any], made: Maker, tmp_path: Path
) -> None:
    folders = {"en": made("en"), "ko": made("ko", **options)}
    folder, facts = merge(folders, stage(combination, compat="peft"), tmp_path)
    require_close(differences(loaded(folder)), added_by_peft(folders, combination, WEIGHTS), atol=1e-6)
    assert not facts.exact


@pytest.mark.parametrize("combination", ["dare_linear", "dare_ties"])
def test_compat_peft_draws_as_peft_does(
    combination: str, made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT draws in the order of the model's modules, which for these two is that of their names."""
    from peft.tuners.lora import model as of_peft

    freeze = of_peft._freeze_adapter

    def freeze_and_seed(*arguments: Any) -> None:
        """PEFT calls it when the new adapter's own start has been drawn."""
        freeze(*arguments)
        torch.manual_seed(9)

    folders = {name: made(name, target_modules=["k_proj", "o_proj"]) for name in WEIGHTS}
    folder, _ = merge(folders, stage(combination, compat="peft"), tmp_path, seed=9)
    monkeypatch.setattr(of_peft, "_freeze_adapter", freeze_and_seed)
    with torch.random.fork_rng(devices=[]):
        theirs = added_by_peft(folders, combination, WEIGHTS)
    require_close(differences(loaded(folder)), theirs, atol=1e-6)


def test_one_adapter_alone_is_scaled_by_compat_peft(made: Maker, tmp_path: Path) -> None:
    folders = {"en": made("en")}
    folder, _ = merge(folders, stage("ties", {"en": 0.5}, compat="peft"), tmp_path)
    require_close(differences(loaded(folder)), weighted(folders, {"en": 0.5}), atol=1e-6)


def test_the_result_names_the_base_from_where_it_lies_and_has_a_scale_of_one(made: Maker, tmp_path: Path) -> None:
    folders = {"en": made("en", use_rslora=True, alpha_pattern={"q_proj": 3}), "ko": made("ko", r=2)}
    folder, _ = merge(folders, stage("linear"), tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert not Path(config["base_model_name_or_path"]).is_absolute()
    assert (folder / config["base_model_name_or_path"]).resolve() == (made.root / "base").resolve()
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["alpha_pattern"]) == (6, 6, False, {})
    assert sorted(config["target_modules"]) == sorted(ATTENTION)


def test_types_are_the_adapters_own_or_those_asked_for(made: Maker, tmp_path: Path) -> None:
    folders = {name: made(name) for name in WEIGHTS}
    for dtype, expected in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        folder, _ = merge(folders, stage("linear", dtype=dtype), tmp_path / str(dtype))
        assert {tensor.dtype for tensor in load_file(folder / "adapter_model.safetensors").values()} == {expected}


def test_modules_that_all_trained_to_the_same_are_taken_over(made: Maker, tmp_path: Path) -> None:
    folders = {"en": made("en", modules_to_save=["norm"]), "ko": tmp_path / "ko"}
    copied(folders["en"], folders["ko"])
    folder, facts = merge(folders, stage("task_arithmetic"), tmp_path)
    assert torch.equal(
        loaded(folder).base_model.model.model.norm.modules_to_save["default"].weight,
        loaded(folders["en"]).base_model.model.model.norm.modules_to_save["default"].weight,
    )
    assert "taken over" in " ".join(facts.warnings)


def copied(folder: Path, to: Path, **changed: Any) -> Path:
    """An adapter with other options, or with other tensors: `tensors` maps them."""
    to.mkdir()
    change = changed.pop("tensors", lambda tensors: tensors)
    save_file(change(load_file(folder / "adapter_model.safetensors")), to / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    base_folder = str((folder / config["base_model_name_or_path"]).resolve())
    text = json.dumps({**config, "base_model_name_or_path": base_folder, **changed})
    (to / "adapter_config.json").write_text(text)
    return to


def with_nan(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    next(iter(tensors.values())).view(-1)[3] = float("nan")
    return tensors


def without_one(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: one for key, one in tensors.items() if "layers.1.self_attn.q_proj.lora_B" not in key}


def narrower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: one[:, :-2].contiguous() if "lora_A" in key else one for key, one in tensors.items()}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"use_dora": True}, "magnitude.*into: model"),
        ({"base_model_name_or_path": "other/model"}, "of other/model.*only adapters of one base"),
        ({"tensors": with_nan}, "NaN"),
        ({"tensors": without_one}, "without"),
        ({"tensors": narrower}, "their bases differ"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"bias": "lora_only"}, "biases"),
        ({"init_lora_weights": "pissa"}, "changes its base"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "fused experts"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ],
)
def test_adapters_that_cannot_become_part_of_one_are_refused_by_name(
    changed: dict[str, Any], words: str, made: Maker, tmp_path: Path
) -> None:
    folders = {"en": made("en"), "ko": copied(made("ko"), tmp_path / "ko", **changed)}
    with pytest.raises(StudyError, match=words) as error:
        merge(folders, stage("linear"), tmp_path)
    assert error.value.place.key == "models.ko"
    assert not (tmp_path / "model").exists()


def test_a_trained_dora_is_refused_by_its_tensors_as_well(made: Maker, tmp_path: Path) -> None:
    folders = {"en": made("en"), "ko": copied(made("ko", use_dora=True), tmp_path / "ko", use_dora=False)}
    with pytest.raises(StudyError, match="magnitude"):
        merge(folders, stage("linear"), tmp_path)


def test_whole_modules_that_differ_are_refused(made: Maker, tmp_path: Path) -> None:
    for name, options in {"ko": {"modules_to_save": ["norm"]}, "ja": {}}.items():
        folders = {"en": made("en", modules_to_save=["norm"]), name: made(name, **options)}
        with pytest.raises(StudyError, match=r"norm.*into: model") as error:
            merge(folders, stage("linear", {"en": 1, name: 1}), tmp_path)
        assert error.value.place.key == f"models.{name}"


def test_the_raw_form_with_gates_and_a_full_model_are_no_adapters(made: Maker, tmp_path: Path) -> None:
    raw = tmp_path / "gated"
    raw.mkdir()
    (raw / "gated_adapter_config.json").write_text("{}")
    for folder, words in ((raw, "raw form"), (made.root / "base", "into: model")):
        with pytest.raises(StudyError, match=words):
            merge({"en": made("en"), "ko": folder}, stage("linear"), tmp_path)


@pytest.mark.parametrize(
    ("method", "more", "key", "words"),
    [
        ("linear", {"compat": "mergekit"}, "compat", "merges no adapters"),
        ("slerp", {}, "method", "no low rank holds"),
        ("linear", {"scale": 2.0}, "scale", "differences"),
        ("task_arithmetic", {"compat": "peft"}, "method", "use linear"),
        ("linear", {"compat": "peft", "result_rank": 3}, "result_rank", "own rank"),
        ("ties", {"compat": "peft", "normalize": True}, "normalize", "leave it out"),
    ],
)
def test_settings_that_adapters_cannot_have_are_refused(
    method: str, more: dict[str, Any], key: str, words: str, made: Maker, tmp_path: Path
) -> None:
    folders = {name: made(name) for name in WEIGHTS}
    with pytest.raises(StudyError, match=words) as error:
        merge(folders, stage(method, **more), tmp_path)
    assert error.value.place.key == key


def test_weights_that_cancel_cannot_be_divided_by(made: Maker, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="sum up to 0"):
        merge({name: made(name) for name in WEIGHTS}, stage("linear", {"en": 0.5, "ko": -0.5}), tmp_path)


def test_compat_peft_needs_one_rank(made: Maker, tmp_path: Path) -> None:
    folders = {"en": made("en"), "ko": made("ko", r=2)}
    with pytest.raises(StudyError, match=r"one rank.*en: 4, ko: 2"):
        merge(folders, stage("linear", compat="peft"), tmp_path)


def test_files_are_closed_however_a_merge_ends(made: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(AdapterFiles, "close", lambda self: closed.append(self.name))
    folders = {"en": made("en"), "ko": made("ko", target_modules=["q_proj"])}
    settings = stage("linear")
    monkeypatch.setattr(adapters, "_merge_module", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merge_adapters(tmp_path / "out", folders, settings, seed=0)
    assert sorted(closed) == ["en", "ko"]
