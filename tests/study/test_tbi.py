"""The study of vision components, merges and experts that ships: its variants, what they share, and what is merged."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hangul import need_hangul

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.job import Job
from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan

STUDY = Path(__file__).parents[2] / "studies" / "tbi_mllm.yaml"
SEEDS = (42, 123, 456)
VARIANTS = ["A0", "A1", "B1", "B2", "B3", "C1", "C2", "D1", "D2", "D3", "D4", "E1", "E2", "F1", "F2", "F3", "F4"]
STAGES = dict(zip(VARIANTS, (0, 3, 3, 3, 3, 3, 3, 5, 6, 6, 7, 3, 3, 4, 5, 5, 6), strict=True))
"""How many stages each variant passes through."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(load_study(STUDY), tmp_path_factory.mktemp("results"))


def jobs_of(plan: Plan, variant: str, seed: int = 42) -> dict[str, Job]:
    """The jobs of a trial by stage."""
    found = [planned.job for planned in plan.jobs if variant in planned.job.variants and planned.job.seed == seed]
    return {job.stage: job for job in found}


def test_seventeen_variants_share_their_jobs(plan: Plan) -> None:
    assert {name: len(variant.stages) for name, variant in plan.study.variants.items()} == STAGES
    assert plan.study.seeds == SEEDS
    trained = [planned.job for planned in plan.jobs if planned.job.settings is not None]
    assert len(plan.jobs) == len(trained) + 1, "the untouched model is scored once for all seeds"
    shared = Counter((job.stage, frozenset(job.variants)) for job in trained)
    assert set(shared.values()) == {len(SEEDS)}
    for stage, variants in [
        ("phase2", {"A1", "D1", "D2", "D3", "D4"}),
        ("phase3", {"A1", "D1", "D2", "D3", "D4"}),
        ("phase1", {"E2", "F1", "F2", "F3", "F4"}),
        ("phase2", {"E2", "F1", "F2", "F3", "F4"}),
        ("phase3", {"E2"}),
        *(("english", {f"{letter}{n}" for n in (1, 2, 3, 4)}) for letter in "DF"),
        *(("korean", {f"{letter}{n}" for n in (2, 3, 4)}) for letter in "DF"),
        ("dare_ties", {"D3", "D4"}),
        ("dare_ties", {"F2", "F4"}),
    ]:
        assert (stage, frozenset(variants)) in shared
    assert len(trained) == 36 * len(SEEDS)


def test_what_reuse_saves_is_what_the_file_says(plan: Plan) -> None:
    trials = len(SEEDS) * sum(max(stages, 1) for stages in STAGES.values())
    alone = sum(
        stage.max_steps or 0 for variant in plan.study.variants.values() for stage in variant.training.values()
    ) * len(SEEDS)
    saved = alone - sum(planned.steps or 0 for planned in plan.jobs)
    text = " ".join(line.removeprefix("#").strip() for line in STUDY.read_text(encoding="utf-8").splitlines())
    assert f"{trials - len(plan.jobs)} of {trials} stage runs, {saved:,} of {alone:,} steps" in text
    assert f"{len(plan.jobs)} jobs" in text


@pytest.mark.parametrize(
    ("variant", "base", "below"), [("D3", "phase3", ("phase2", "phase3")), ("F2", "phase2", ("phase2",))]
)
def test_both_parents_of_a_merge_start_from_its_base(
    plan: Plan, variant: str, base: str, below: tuple[str, ...]
) -> None:
    jobs = jobs_of(plan, variant)
    lineage = tuple(jobs[stage].id for stage in below)
    assert jobs["english"].parents == jobs["korean"].parents == lineage
    assert jobs["dare_ties"].parents == ()
    assert jobs["dare_ties"].inputs == {stage: jobs[of].id for stage, of in
                                        {"base": base, "english": "english", "korean": "korean"}.items()}  # fmt: skip
    merging = jobs["dare_ties"].merging
    assert merging is not None
    assert {name: (one.weight, one.density) for name, one in merging.models.items()} == {
        "english": (0.6, 0.1),
        "korean": (0.4, 0.1),
    }


def test_one_after_the_other_trains_one_adapter(plan: Plan) -> None:
    for variant, last in (("D1", "phase3"), ("F1", "phase2")):
        jobs = jobs_of(plan, variant)
        assert jobs["english"].parents[-1] == jobs[last].id
        assert jobs["korean"].parents == (*jobs["english"].parents, jobs["english"].id)
        korean = jobs["korean"].training
        assert korean is not None and korean.init == "continue"


@pytest.mark.parametrize(("variant", "start"), [("D4", "dare_ties"), ("F4", "dare_ties"), ("F3", "phase2")])
def test_experts_are_the_two_adapters_on_what_lies_below(plan: Plan, variant: str, start: str) -> None:
    jobs = jobs_of(plan, variant)
    mole = jobs["mole"]
    assert mole.parents == (jobs[start].id,)
    assert mole.inputs == {language: jobs[language].id for language in ("english", "korean")}
    adapter = mole.training and mole.training.adapter
    assert isinstance(adapter, MoleAdapter)
    assert {name: one and one.use for name, one in adapter.experts.items()} == {
        "english": "factors",
        "korean": "factors",
        "none": None,
    }


def test_parts_of_the_vision_pipeline(plan: Plan) -> None:
    def parts(variant: str) -> dict[str, int | None]:
        first = plan.study.variants[variant].training["phase1"].components
        named = first.named if first else ()
        return {name: first.c_abstractor.num_queries if name == "c_abstractor" else None for name in named}  # type: ignore[union-attr]

    assert {name: parts(name) for name, of in plan.study.variants.items() if "phase1" in of.stages and name < "D"} == {
        "A1": {},
        "B1": {"rope2d": None},
        "B2": {"pyramid": None},
        "B3": {"rope2d": None, "pyramid": None},
        "C1": {"c_abstractor": 144},
        "C2": {"c_abstractor": 256},
    }
    assert parts("E1") == {"rope2d": None, "c_abstractor": 256}
    assert parts("E2") == {"rope2d": None, "pyramid": None, "c_abstractor": 256}
    assert all(parts(f"D{n}") == {} and parts(f"F{n}") == parts("E2") for n in (1, 2, 3, 4))


def test_the_numbers_of_the_phases(plan: Plan) -> None:
    stages = plan.study.variants["A1"].training
    found = {
        name: (stage.max_steps, stage.effective_batch_size, stage.gradient_accumulation_steps, stage.learning_rate)
        for name, stage in stages.items()
    }
    assert found == {
        "phase1": (10_000, 256, 16, 1e-3),
        "phase2": (20_000, 128, 8, 2e-5),
        "phase3": (50_000, 64, 4, 2e-4),
    }
    assert stages["phase1"].train == ("projector",) and stages["phase2"].train == ("vision_tower", "projector")
    assert stages["phase2"].learning_rates == {"projector": 5e-5}
    every = [stage for variant in plan.study.variants.values() for stage in variant.training.values()]
    assert {(stage.engine, stage.deepspeed["zero_optimization"]["stage"]) for stage in every} == {("deepspeed", 2)}
    assert all(stage.bf16 and stage.activation_checkpointing and stage.drop_intermediate for stage in every)
    assert {(stage.save_steps, stage.save_best_k, stage.save_total_limit) for stage in every} == {(2_500, 3, 1)}
    assert plan.study.resources.ranks == 8


def test_the_order_of_the_owner(plan: Plan) -> None:
    by_priority: dict[int, set[str]] = defaultdict(set)
    for name, variant in plan.study.variants.items():
        by_priority[variant.priority].add(name)
    first = [by_priority[priority] for priority in sorted(by_priority, reverse=True)][:5]
    assert first == [{"A0"}, {"A1"}, {"E2"}, {"F4"}, {"B3", "C2", "D4"}]


def test_differences_are_meant(plan: Plan) -> None:
    assert not [line for line in plan.warnings if "pinned" not in line]


def test_no_language_is_unknown_to_the_small_model() -> None:
    from tunestudy.config.model import CharacterTokenizer
    from tunestudy.data.sources import Folders, source_of

    need_hangul()
    study = load_study(STUDY, tiny=True).study
    assert isinstance(study.model.tokenizer, CharacterTokenizer)
    folders = Folders(STUDY.parent, STUDY.parent)
    stages = [stage for variant in study.variants.values() for stage in variant.training.values()]
    trained = [study.datasets[name] for name in {part.dataset for stage in stages for part in stage.data}]
    rows = [raw.columns for data in trained for raw in source_of(data).read(data, folders)]
    written = set().union(*(str(row["prompt"]) + str(row["completion"]) for row in rows))
    assert any("가" <= letter <= "힣" for letter in written)
    assert written <= set(study.model.tokenizer.alphabet)
