"""The studies that ship are the ones that were asked for, and small siblings differ in size alone."""

from pathlib import Path

import pytest

from tunestudy.config.order import order_words
from tunestudy.study.footing import parts_warnings
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

STUDIES = Path(__file__).parents[2] / "studies"
WANTED = {
    "lora": ("lora", None, None),
    "dora": ("dora", None, None),
    "sora_lambda0.1": ("sora", 0.1, 0.25),
    "sora_lambda0.3": ("sora", 0.3, 0.50),
    "sora_lambda0.5": ("sora", 0.5, 0.75),
    "sdora_lambda0.3": ("sdora", 0.3, 0.50),
}


@pytest.mark.parametrize(("name", "seeds"), [("adapter_sparsity", 3), ("adapters_digits", 5)])
def test_six_experiments(name: str, seeds: int, tmp_path: Path) -> None:
    loaded = load_study(STUDIES / f"{name}.yaml")
    found = {
        variant: (a.type, getattr(a, "sparse_lambda", None), getattr(a, "target_sparsity", None))
        for variant, of in loaded.study.variants.items()
        if (a := of.stages["adapt"].adapter)
    }
    assert found == WANTED
    assert len(loaded.study.seeds) >= seeds
    plan = make_plan(loaded, tmp_path)
    assert [gated.forecast.target for gated in plan.gates] == [0.25, 0.5, 0.75, 0.5]
    assert not [line for line in plan.warnings if "pinned" not in line]


def test_the_numbers_of_the_first_runs(tmp_path: Path) -> None:
    variants = load_study(STUDIES / "adapter_sparsity.yaml").study.variants
    stages = {name: variant.stages["adapt"] for name, variant in variants.items()}
    assert {stage.adapter.lora_r for stage in stages.values() if stage.adapter} == {16}
    assert {stage.adapter.lora_alpha for stage in stages.values() if stage.adapter} == {32}
    assert {name: stage.learning_rate for name, stage in stages.items()} == {
        **dict.fromkeys(WANTED, 1e-4),
        "lora": 3e-4,
    }
    assert {(s.effective_batch_size, s.per_device_train_batch_size, s.num_train_epochs) for s in stages.values()} == {
        (32, 8, 3)
    }
    assert {(s.save_steps, s.logging_steps, s.checkpoint_names) for s in stages.values()} == {(500, 100, "epoch_step")}
    assert all(stage.save_on_epoch_end and stage.save_merged for stage in stages.values())


def test_five_curricula(tmp_path: Path) -> None:
    loaded = load_study(STUDIES / "qwen3vl_curriculum.yaml")
    variants = loaded.study.variants
    orders = {
        name.partition("_")[0]: [order_words(stage.order) for stage in variant.stages.values()]
        for name, variant in variants.items()
    }
    by_score = "by score of base, ascending"
    assert orders == {
        "exp1": ["shuffle"],
        "exp2": [by_score],
        "exp3": [
            f"{by_score}, shuffled, from {part} of it" for part in ("0 to 0.3333", "0.3333 to 0.6667", "0.6667 to 1")
        ],
        "exp4": [f"{by_score}, from {part} of it" for part in ("0 to 0.5", "0.5 to 1")],
        "exp5": ["sequential"],
    }
    stages = [stage for variant in variants.values() for stage in variant.stages.values()]
    assert {stage.effective_batch_size for stage in stages} == {16}
    assert {stage.gradient_accumulation_steps for stage in stages} == {4}
    assert all(stage.quantization and stage.quantization.bnb_4bit_quant_type == "nf4" for stage in stages)
    assert len({stage.model_dump_json(exclude={"order", "init", "data"}) for stage in stages}) == 1
    data = {name: {part.dataset for s in v.stages.values() for part in s.data} for name, v in variants.items()}
    assert [name for name, used in data.items() if used != {"answers"}] == ["exp5_sequential_cot"]
    assert loaded.study.datasets["thoughts"].chain_of_thought == "before_answer"
    assert not [line for line in make_plan(loaded, tmp_path).warnings if "pinned" not in line]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("easy.order.take=[0.0,0.3]", "easy, medium, hard of exp3_three_stages together leave out 0.3 to 0.3333"),
        ("medium.order.take=[0.3,0.6667]", "together take 0.3 to 0.3333 twice"),
        ("harder_half.order.take=[0.5,0.9]", "harder_half of exp4_two_stages_curriculum together leave out 0.9 to 1"),
    ],
)
def test_parts_of_a_curriculum_that_do_not_join_are_told(tmp_path: Path, change: str, told: str) -> None:
    study = STUDIES / "qwen3vl_curriculum.yaml"
    (line,) = parts_warnings(load_study(study, [f"stages.{change}"]).study)
    assert told in line
    assert line in make_plan(load_study(study, [f"stages.{change}"]), tmp_path).warnings
    assert not parts_warnings(load_study(study).study)
