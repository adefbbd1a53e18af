"""Experts of a mixture: what their factors hold, and what can be none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunestudy.adapters.attach import attach
from tunestudy.adapters.expert_weights import FoundExpert, adapted_weight, sits_on
from tunestudy.adapters.experts import experts_of, linear_modules
from tunestudy.adapters.low_rank import cut, inner_product
from tunestudy.config.adapter import AnyAdapter, DoraAdapter, LoraAdapter, MoleAdapter, SoraAdapter
from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.models.publish import save_result
from tunestudy.models.results import load_whole
from tunestudy.models.start import load_start
from tunestudy.records.atomic import temporary_beside, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import seal

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
MODEL = {
    "architecture": "qwen3",
    "config": TINY,
    "tokenizer": {"type": "characters", "alphabet": "0123456789ab\n="},
}
LORA = {"type": "lora", "lora_r": 3, "lora_alpha": 6, "target_modules": "all-linear"}


class Study:
    """Jobs made and published by hand below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def job(self, stage: str, parents: Any = (), inputs: Any = None, model: Any = MODEL, **settings: Any) -> Any:
        folder = JobDir(self.root / "results" / "s" / "jobs" / f"{stage}-0")
        job = Job.model_validate(
            {
                "id": folder.root.name,
                "stage": stage,
                "fingerprint": "0" * 64,
                "seed": 1,
                "variants": ["v"],
                "parents": parents,
                "inputs": inputs or {},
                "model": model,
                "settings": {"data": ["d"], "learning_rate": 1e-3, **settings},
                "datasets": {"d": {"type": "digits"}},
                "base_dir": "../../../..",
            }
        )
        folder.root.mkdir(parents=True, exist_ok=True)
        write_json(folder.job_json, job.model_dump(mode="json"))
        return job, folder

    def publish(self, stage: str, parents: Any = (), change: Any = None, adapter: Any = None, **options: Any) -> str:
        """A stage's result, changed as `change` says; returns its job's id."""
        job, folder = self.job(stage, parents, init="continue" if parents else None, adapter=adapter, **options)
        loaded = load_start(job, folder, "cpu")
        model = loaded.model
        if job.training and job.training.adapter is not None:
            model = attach(model, job.training.adapter, job.training.train or "none", seed=1)
        with torch.no_grad():
            (change or noise)(model)
        prepared = temporary_beside(folder.model)
        facts = save_result(model, loaded.tokenizer, prepared)
        seal(prepared, folder.model, {**facts, "base": loaded.identity})
        return job.id

    def mixture(self, parent: str, experts: dict[str, Any], **options: Any) -> Any:
        """A stage with these experts (name → job id, or what the study file says) and the model that it starts from."""
        told = {"stage": "x", "use": options.pop("use", "difference")}
        named = {name: told if isinstance(expert, str) else expert for name, expert in experts.items()}
        inputs = {name: expert for name, expert in experts.items() if isinstance(expert, str)}
        adapter = {"type": "mole", "experts": {**named, "none": None}, "lora_r": 4, "min_energy": 0.0, **options}
        parents = (parent,) if parent else ()
        job, folder = self.job("mix", parents, inputs, init="continue" if parent else None, adapter=adapter)
        return job, folder, load_start(job, folder, "cpu").model

    def experts(self, parent: str, experts: dict[str, Any], **options: Any) -> Any:
        job, folder, model = self.mixture(parent, experts, **options)
        assert isinstance(job.settings.adapter, MoleAdapter)
        made = experts_of(job, folder, job.settings.adapter, model, is_writer=True)
        return made, json.loads((folder.root / "experts.json").read_text()), model

    def whole(self, job: str, dtype: Any = None) -> Any:
        return load_whole(JobDir(self.root / "results" / "s" / "jobs" / job), "cpu", dtype=dtype)


def noise(model: Any, seed: int = 0, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def low_rank(rank: int, seed: int = 0, size: float = 0.05) -> Any:
    def change(model: Any) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                rows, columns = module.weight.shape
                up, down = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
                module.weight.add_(size * up @ down)

    return change


@pytest.fixture
def study(tmp_path: Path) -> Study:
    torch.set_num_threads(1)
    return Study(tmp_path)


def linear_names(model: Any) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]


def product(pair: tuple[Tensor, Tensor]) -> Tensor:
    return pair[1] @ pair[0]


def test_a_difference_of_low_rank_is_held_whole(study: Study) -> None:
    base = study.publish("base")
    other = study.publish("other", (base,), low_rank(3))
    factors, told, model = study.experts(base, {"en": other}, min_energy=0.999)
    theirs = dict(study.whole(other).named_modules())
    assert list(factors) == ["en"] and set(factors["en"]) == set(linear_names(model))
    for name, pair in factors["en"].items():
        difference = theirs[name].weight - model.get_submodule(name).weight
        torch.testing.assert_close(product(pair), difference, atol=1e-5, rtol=1e-4)
        assert pair[0].shape[0] == 4 and pair[0].dtype == torch.float32
    assert told["experts"]["en"]["from"] == "x" and told["experts"]["en"]["rank"] == 4
    assert told["experts"]["en"]["overall"] == pytest.approx(1, abs=1e-5)
    assert told["experts"]["none"]["rank"] == 0
    assert told["min_energy"] == 0.999


def test_shares_are_those_of_the_singular_values_and_overall_is_weighted(study: Study) -> None:
    base = study.publish("base")
    other = study.publish("other", (base,), lambda model: noise(model, 3))
    factors, told, model = study.experts(base, {"en": other})
    theirs = dict(study.whole(other).named_modules())
    held = total = 0.0
    for name, share in told["experts"]["en"]["energy"].items():
        difference = (theirs[name].weight - model.get_submodule(name).weight).detach()
        squares = torch.linalg.svdvals(difference).square()
        assert share == pytest.approx(float(squares[:4].sum() / squares.sum()), rel=1e-4)
        left = (difference - product(factors["en"][name])).square().sum()
        assert 1 - float(left / squares.sum()) == pytest.approx(share, rel=1e-4)
        held, total = held + float(squares[:4].sum()), total + float(squares.sum())
    assert told["experts"]["en"]["overall"] == pytest.approx(held / total, rel=1e-4)
    assert 0 < told["experts"]["en"]["outside"] < 1  # embeddings and norms moved as well


def test_too_little_energy_names_the_share_the_worst_module_and_a_rank_that_does(study: Study) -> None:
    base = study.publish("base")
    other = study.publish("other", (base,), low_rank(12))
    with pytest.raises(StudyError, match=r"rank 4 hold \d+\.\d%.*layers.*rank (9|1[0-2]) would do.*min_energy") as told:
        study.experts(base, {"en": other}, min_energy=0.95)
    assert str(told.value.place).endswith("stages.mix.adapter.experts.en")
    factors, *_ = study.experts(base, {"en": other}, min_energy=0.2)  # from the cache, with another bound
    assert factors["en"]


def test_an_adapter_on_the_very_start_gives_its_own_factors(study: Study) -> None:
    base = study.publish("base")
    adapter = study.publish("adapt", (base,), noise, adapter={**LORA, "rank_pattern": {"q_proj": 2}})
    factors, told, _ = study.experts(base, {"en": adapter}, lora_r=1)
    stored = load_file(study.root / "results/s/jobs" / adapter / "model/adapter_model.safetensors")
    assert 2 * len(factors["en"]) == len(stored)
    for name, (down, up) in factors["en"].items():
        assert torch.equal(down, stored[f"base_model.model.{name}.lora_A.weight"])
        scale = 6 / (2 if "q_proj" in name else 3)
        assert torch.equal(up, stored[f"base_model.model.{name}.lora_B.weight"] * scale)
    assert told["experts"]["en"]["overall"] == 1 and set(told["experts"]["en"]["energy"].values()) == {1.0}


def test_an_adapter_on_random_weights_is_known_to_sit_on_them(study: Study) -> None:
    adapter = study.publish("adapt", (), noise, adapter=LORA)
    factors, told, _ = study.experts("", {"en": adapter}, lora_r=1)
    assert told["experts"]["en"]["overall"] == 1 and next(iter(factors["en"].values()))[0].shape[0] == 3


ADAPTERS = [
    LoraAdapter(lora_r=2, lora_alpha=4),
    DoraAdapter(lora_r=2, lora_alpha=4),
    SoraAdapter(lora_r=2, lora_alpha=4, sparse_lambda=0.1),
]


@pytest.mark.parametrize("kind", ADAPTERS, ids=lambda adapter: adapter.type)
def test_an_adapter_on_another_base_is_a_difference(study: Study, kind: Any) -> None:
    base = study.publish("base")
    moved = study.publish("moved", (base,), low_rank(1, seed=5))
    adapter = study.publish("adapt", (base,), noise, adapter=kind.model_dump())
    factors, told, model = study.experts(moved, {"en": adapter}, lora_r=32)
    merged = dict(study.whole(adapter).merge_and_unload().named_modules())
    for name in linear_names(model):
        difference = merged[name].weight - model.get_submodule(name).weight
        torch.testing.assert_close(product(factors["en"][name]), difference, atol=1e-5, rtol=1e-4)
    assert told["experts"]["en"]["overall"] == pytest.approx(1, abs=1e-4)


def test_factors_as_they_are_on_whatever_start(study: Study) -> None:
    base = study.publish("base")
    moved = study.publish("moved", (base,), low_rank(1, seed=5))
    adapter = study.publish("adapt", (base,), noise, adapter=LORA)
    factors, told, _ = study.experts(moved, {"en": adapter}, use="factors")
    layers = dict(study.whole(adapter).named_modules())
    for name, pair in factors["en"].items():
        delta = layers[f"base_model.model.{name}"].get_delta_weight("default")
        torch.testing.assert_close(product(pair), delta.detach(), atol=1e-6, rtol=1e-5)
    assert told["experts"]["en"]["energy"] is None and told["experts"]["en"]["overall"] is None


@pytest.mark.parametrize(
    ("adapter", "message"),
    [(DoraAdapter(lora_r=2, lora_alpha=4), "DoRA.*use: difference"), (None, "whole model and has no factors")],
)
def test_no_plain_factors(study: Study, adapter: AnyAdapter | None, message: str) -> None:
    base = study.publish("base")
    other = study.publish("adapt", (base,), noise, adapter=adapter and adapter.model_dump())
    with pytest.raises(StudyError, match=message):
        study.experts(base, {"en": other}, use="factors")


def test_factors_on_modules_that_the_stage_leaves_out(study: Study) -> None:
    base = study.publish("base")
    adapter = study.publish("adapt", (base,), noise, adapter=LORA)
    with pytest.raises(StudyError, match=r"factors on .*proj, which this stage does not adapt"):
        study.experts(base, {"en": adapter}, use="factors", target_modules=["q_proj"])
    factors, told, _ = study.experts(base, {"en": adapter}, target_modules=["q_proj"])
    assert all(name.endswith("q_proj") for name in factors["en"])
    assert told["experts"]["en"]["outside"] > 0.5


def test_an_expert_that_is_the_start_adds_nothing(study: Study) -> None:
    base = study.publish("base")
    same = study.publish("same", (base,), lambda model: model)
    with pytest.raises(StudyError, match="adds nothing; make it null"):
        study.experts(base, {"en": same})


def test_experts_that_are_one_are_told(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    base = study.publish("base")
    ko = study.publish("ko", (base,), low_rank(2))
    en = study.publish("en", (ko,), lambda model: noise(model, 1, 1e-4))
    other = study.publish("other", (base,), low_rank(2, seed=9))
    study.experts(base, {"en": en, "ko": ko, "other": other})
    told = capsys.readouterr().err
    assert "en and ko are almost the same" in told and "other are" not in told


def test_another_shape_names_the_tensor(study: Study) -> None:
    base = study.publish("base")
    other = {**MODEL, "config": {**TINY, "intermediate_size": 40}}
    wide = study.publish("wide", (), noise, model=other)
    with pytest.raises(StudyError, match=r"another architecture: .*mlp\.\w+\.weight has shape"):
        study.experts(base, {"en": wide})


def test_another_depth_names_the_tensor(study: Study) -> None:
    base = study.publish("base")
    flat = study.publish("flat", (), noise, model={**MODEL, "config": {**TINY, "num_hidden_layers": 1}})
    with pytest.raises(StudyError, match=r"another architecture: it has no model\.layers\.1\.\S+\.weight"):
        study.experts(base, {"en": flat})


def test_values_that_are_not_finite(study: Study) -> None:
    def spoil(model: Any) -> None:
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan

    base = study.publish("base")
    broken = study.publish("broken", (base,), spoil)
    with pytest.raises(StudyError, match=r"layers\.1\.mlp\.up_proj\.weight holds values that are not finite"):
        study.experts(base, {"en": broken})


def test_folders_and_the_studys_own_model(study: Study) -> None:
    base = study.publish("base")
    other = study.publish("other", (base,), low_rank(2))
    path = f"results/s/jobs/{other}/model"
    by_path, told, model = study.experts(base, {"en": {"path": path}, "own": {"stage": "model"}})
    by_job, *_ = study.experts(base, {"en": other})
    for name, pair in by_path["en"].items():
        assert torch.equal(product(pair), product(by_job["en"][name]))
    own = load_start(*study.job("own"), "cpu").model
    for name in linear_names(model):
        difference = (own.get_submodule(name).weight - model.get_submodule(name).weight).detach()
        best = cut(difference, 4, name=name)
        torch.testing.assert_close(product(by_path["own"][name]), best.up @ best.down, atol=1e-6, rtol=1e-5)
    assert told["experts"]["en"]["from"] == path and told["experts"]["own"]["from"] == "model"
    with pytest.raises(StudyError, match="there is no folder nowhere"):
        study.experts(base, {"en": {"path": "nowhere"}})


def test_made_once_and_made_again_when_broken(study: Study) -> None:
    base = study.publish("base")
    other = study.publish("other", (base,), low_rank(2))
    first, *_ = study.experts(base, {"en": other})
    [kept] = (study.root / "results/s/cache/experts").iterdir()
    before = (kept / "experts.safetensors").stat().st_mtime_ns
    again, *_ = study.experts(base, {"en": other}, gate="layer", balance_coefficient=0.5)
    assert (kept / "experts.safetensors").stat().st_mtime_ns == before
    (kept / "experts.safetensors").unlink()
    third, *_ = study.experts(base, {"en": other})
    for name, (down, up) in first["en"].items():
        for made in (again, third):
            assert torch.equal(made["en"][name][0], down) and torch.equal(made["en"][name][1], up)


def test_another_rank_or_expert_is_another_folder(study: Study) -> None:
    base = study.publish("base")
    one, two = (study.publish(name, (base,), low_rank(2, seed)) for seed, name in enumerate(("one", "two")))
    for experts, rank in (({"en": one}, 4), ({"en": two}, 4), ({"en": one}, 5)):
        study.experts(base, experts, lora_r=rank)
    assert len(list((study.root / "results/s/cache/experts").iterdir())) == 3


def test_a_damaged_expert_is_told(study: Study) -> None:
    base = study.publish("base")
    other = study.publish("other", (base,), low_rank(2))
    file = study.root / "results/s/jobs" / other / "model/model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1}, file, metadata={"format": "pt"})
    with pytest.raises(StudyError, match="does not match its SHA-256"):
        study.experts(base, {"en": other})


def test_a_target_that_is_no_linear_layer(study: Study) -> None:
    _, _, model = study.mixture("", {"own": {"stage": "model"}})
    adapter = MoleAdapter(experts={"a": {"stage": "model"}, "b": None}, target_modules=["embed_tokens"])
    with pytest.raises(StudyError, match="embed_tokens is no linear layer"):
        linear_modules(model, adapter, "mix")


def test_a_large_matrix_is_cut_nearly_as_well_as_can_be() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(800, 900, generator=generator)
    sloping = flat @ torch.diag(torch.arange(1, 901).float() ** -0.5)
    for matrix, least in ((flat, 0.9), (sloping, 0.9999)):
        best = torch.linalg.svdvals(matrix).square()
        made, again = (cut(matrix, 8, name="a") for _ in range(2))
        assert made.spectrum is None and torch.equal(made.up, again.up)
        left = (matrix - made.up @ made.down).square().sum()
        assert 1 - float(left / best.sum()) == pytest.approx(made.share, abs=1e-4)
        assert least * float(best[:8].sum() / best.sum()) <= made.share


def test_every_row_of_a_cut_can_learn() -> None:
    """Factors of a matrix whose rank is below theirs: no row of A is zero where the column of B is, too."""
    made = cut(torch.ones(6, 5), 3, name="a")
    assert bool((made.down.norm(dim=1) > 0).all())
    torch.testing.assert_close(made.up @ made.down, torch.ones(6, 5))
    zero = cut(torch.zeros(6, 5), 3, name="a")
    assert zero.share == 1 and not (zero.up @ zero.down).any()


def test_inner_product_is_that_of_the_products() -> None:
    one, other = ((torch.randn(r, 7), torch.randn(5, r)) for r in (2, 3))
    assert inner_product(one, other) == pytest.approx(float((product(one) * product(other)).sum()), rel=1e-4)


def test_a_row_of_zeros_under_a_dora_stays_one() -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), LoraConfig(r=2, target_modules=["0"], use_dora=True))
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.get_base_layer().weight[1] = 0
    found = adapted_weight(layer)
    assert bool(torch.isfinite(found).all()) and not found[1].any() and bool(found[0].any())


def test_the_studys_revision_tells_that_an_adapter_sits_on_the_start(tmp_path: Path) -> None:
    """Its own configuration names a model of the hub and no commit, as PEFT's often do."""
    told = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "lora_alpha": 2, "r": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    start = {"kind": "hub", "name": "org/base", "revision": "c" * 40}
    for revision, certain in ((None, False), ("d" * 40, False), ("c" * 40, True)):
        found = FoundExpert("ko", "ko", "stages.mix", {}, "adapter", tmp_path, base_revision=revision)
        assert sits_on(found, None, start) is certain
