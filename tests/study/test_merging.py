"""Stages that merge and mixtures of experts in a study file: what they become, and every way to write them wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.config.merge import MergeStage
from tunestudy.launch.prepare import prepare
from tunestudy.launch.select import select
from tunestudy.preflight.checks import bytes_needed
from tunestudy.study.lineage import lineage
from tunestudy.study.load import load_study
from tunestudy.study.show import plan_lines

Folder = Any  # the class of conftest.py

STUDY = """\
study: two
seeds: [1, 2]
model:
  architecture: qwen3
  config: {hidden_size: 32, num_hidden_layers: 2}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg"}
datasets:
  en: {type: digits, held_out: 0.2}
  ko: {type: digits, rotate: 90, held_out: 0.2}
benchmarks:
  accuracy: {type: exact_match, dataset: ko@held_out, max_new_tokens: 1}
defaults: {learning_rate: 1e-3, effective_batch_size: 32, max_steps: 5}
stages:
  vision: {data: en}
  english: {data: en}
  korean: {data: ko, after: vision}
  merged:
    type: merge
    method: dare_ties
    base: vision
    models:
      en: {stage: english, weight: 0.6, density: 0.1}
      ko: {stage: korean, weight: 0.4, density: 0.1}
  experts:
    data: ko
    adapter:
      type: mole
      lora_r: 4
      experts: {en: english, ko: {stage: korean}, same: null}
variants:
  sequential: {stages: [vision, english, korean]}
  merging: {stages: [vision, english, korean, merged]}
  mixture: {from: merging@merged, stages: [experts]}
"""
LORA = "adapter: {lora_r: 2}"


@pytest.fixture
def text() -> Callable[..., str]:
    def edited(*changes: tuple[str, str]) -> str:
        found = STUDY
        for old, new in changes:
            assert old in found, old
            found = found.replace(old, new, 1)
        return found

    return edited


def line_of(text: str, piece: str) -> int:
    return text[: text.index(piece)].count("\n") + 1


def test_a_merge_reads_earlier_stages_and_is_shared(folder: Folder) -> None:
    plan = folder.plan(STUDY)
    jobs = {(planned.job.stage, planned.job.seed): planned for planned in plan.jobs}
    assert len(jobs) == len(plan.jobs) == 2 * 5, "every stage once per seed, whatever the variants"
    for seed in (1, 2):
        merged, experts = jobs["merged", seed].job, jobs["experts", seed].job
        inputs = {"base": "vision", "en": "english", "ko": "korean"}
        assert merged.inputs == {name: jobs[stage, seed].job.id for name, stage in inputs.items()}
        assert merged.parents == () and experts.parents == (merged.id,)
        assert experts.inputs == {name: merged.inputs[name] for name in ("en", "ko")}
        assert merged.variants == ("merging", "mixture")
        assert jobs["korean", seed].job.parents == (jobs["vision", seed].job.id,), "it says after: vision"
        told = jobs["merged", seed].as_json()
        assert told["parents"] == list(merged.needs) and set(merged.needs) == set(merged.inputs.values())
        assert told["steps"] == told["tokens"] == 0
    assert plan.totals()["stages_without_reuse"] == 2 * (3 + 4 + 5)
    assert plan.totals()["steps"] == 2 * 4 * 5, "a merge takes no steps, and they are known"
    assert not plan.warnings, "stages of different names are no rivals"


def test_one_stage_of_a_variant_brings_what_it_reads(folder: Folder) -> None:
    jobs = [planned.job for planned in folder.plan(STUDY).jobs]
    chosen = select(jobs, ["merging@merged"], [2])
    assert {job.seed for job in chosen} == {2}
    assert sorted(job.stage for job in chosen) == ["english", "korean", "merged", "vision"]


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ([("weight: 0.6", "weight: 0.5")], {"merged", "experts"}),
        ([("method: dare_ties", "method: dare_linear")], {"merged", "experts"}),
        ([("base: vision", "base: model")], {"merged", "experts"}),
        ([("    base: vision", "    threads: 3\n    max_shard_size: 1GB\n    base: vision")], set()),
        ([("    base: vision", "    allow_descendants: true\n    base: vision")], set()),
        (
            [("{data: ko, after: vision}", "{data: ko, after: vision, weight_decay: 0.1}")],
            {"korean", "merged", "experts"},
        ),
        (
            [
                ("{data: ko, after: vision}", "{data: ko, after: english}"),
                ("base: vision", "base: vision\n    allow_descendants: true"),
            ],
            {"korean", "merged", "experts"},
        ),
        ([("same: null", "other: null")], {"experts"}),
    ],
)
def test_fingerprints_cover_what_is_merged(
    folder: Folder, text: Callable[..., str], changes: list[tuple[str, str]], again: set[str]
) -> None:
    before = {planned.job.id for planned in folder.plan(STUDY).jobs}
    after = {planned.job.id: planned.job.stage for planned in folder.plan(text(*changes)).jobs}
    assert {stage for job, stage in after.items() if job not in before} == again


def test_names_of_stages_do_not_count(folder: Folder) -> None:
    """What a stage holds is in the fingerprint, not how it is called: jobs of a merge keep theirs."""
    before = {planned.job.fingerprint for planned in folder.plan(STUDY).jobs}
    renamed = STUDY.replace("english", "anglais")
    assert {planned.job.fingerprint for planned in folder.plan(renamed).jobs} == before


def test_path_inputs_count_by_content(folder: Folder, text: Callable[..., str]) -> None:
    model(folder.root / "m", "one")
    changed = text(("{stage: korean, weight", "{path: m, weight"))
    first, again = ({planned.job.fingerprint for planned in folder.plan(changed).jobs} for _ in range(2))
    (folder.root / "m" / "model.safetensors").write_text("another one")
    other = {planned.job.fingerprint for planned in folder.plan(changed).jobs}
    (folder.root / "m").rename(folder.root / "elsewhere")
    moved = {planned.job.fingerprint for planned in folder.plan(changed.replace("path: m", "path: elsewhere")).jobs}
    assert first == again != other == moved
    job = next(
        p.job for p in folder.plan(changed.replace("path: m", "path: elsewhere")).jobs if p.job.stage == "merged"
    )
    assert set(job.inputs) == {"base", "en"}


def model(folder: Path, weights: str = "w", **adapter: Any) -> Path:
    folder.mkdir(parents=True)
    if adapter:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **adapter}))
        (folder / "adapter_model.safetensors").write_text(weights)
    else:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(weights)
    return folder


def test_what_stages_leave(folder: Folder) -> None:
    left = lineage(folder.load(STUDY).study.variants["mixture"].stages)
    assert left["korean"].ancestors == ("vision",) and left["korean"].start == "vision"
    assert left["merged"].ancestors == ("vision", "english", "korean") and left["merged"].kind == "model"
    assert left["experts"].start == "merged" and left["experts"].kind == "mole"


MERGED = "    base: vision\n"
EN = "{stage: english, weight: 0.6, density: 0.1}"
KO = "{stage: korean, weight: 0.4, density: 0.1}"
AFTER_MERGED = "    data: ko\n    adapter"
MOLE = "    adapter:\n      type: mole"
TWO_RANKS = ("variants:", "resources: {ranks: 2}\nvariants:")
WITHOUT_DENSITY = [(", density: 0.1}", "}"), (", density: 0.1}", "}")]
MISTAKES: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "no base": ([(MERGED, "")], "merged:", "dare_ties adds up differences to a base, and there is none"),
    "density of 0": ([("density: 0.1}", "density: 0}")], "density: 0}", "must be greater than 0"),
    "density of 1.5": ([("density: 0.1}", "density: 1.5}")], "density: 1.5", "must be at most 1"),
    "no density": ([(", density: 0.1}", "}")], "en: {stage", "keeps a share of each difference; say which"),
    "misspelt method": ([("method: dare_ties", "method: dareties")], "dareties", "did you mean `dare_ties`?"),
    "method with a dash": ([("method: dare_ties", "method: dare-ties")], "dare-ties", "did you mean `dare_ties`?"),
    "misspelt type": ([("type: merge", "type: merged")], "type: merged", "did you mean `merge`?"),
    "a key that a benchmark has": (
        [("method:", "normalise: true\n    method:")],
        "normalise",
        "did you mean `normalize`?",
    ),
    "misspelt key": ([("method:", "methode:")], "methode", "did you mean `method`?"),
    "misspelt key of a model": ([("weight: 0.6", "wieght: 0.6")], "wieght", "did you mean `weight`?"),
    "misspelt key of an expert": ([("ko: {stage: korean}", "ko: {stge: korean}")], "stge", "did you mean `stage`?"),
    "a training key": ([(MERGED, "    learning_rate: 1e-3\n" + MERGED)], "learning_rate: 1e-3\n", "stages that train"),
    "data": ([(MERGED, "    data: en\n" + MERGED)], "data: en\n    base", "this stage merges, and takes no steps"),
    "method in a training stage": (
        [("english: {data: en", "english: {data: en, method: ties")],
        "method: ties",
        "it belongs in a stage that merges (`type: merge`); this one trains",
    ),
    "merge in defaults": ([("defaults: {", "defaults: {type: merge, ")], "defaults:", "are of stages that train"),
    "another type in an override": (
        [("korean, merged]}", "korean, merged], overrides: {korean: {type: merge}}}")],
        "overrides",
        "trains or merges in all variants alike",
    ),
    "an unknown stage": (
        [("stage: english", "stage: englsh")],
        "stage: englsh",
        "no earlier stage `englsh` in this variant; did you mean `english`?",
    ),
    "a stage of another variant": (
        [("[vision, english, korean, merged]", "[vision, korean, merged]")],
        EN,
        "reached by `from:`",
    ),
    "a later stage": (
        [("[vision, english, korean, merged]", "[vision, english, merged, korean]")],
        KO,
        "does not come before",
    ),
    "a folder as a stage": ([("stage: english", "stage: ./english")], "./english", "a folder is written `{path: …}`"),
    "an unknown base": ([("base: vision", "base: visoin")], "base: visoin", "did you mean `vision`?"),
    "an unknown expert": ([("en: english,", "en: inglish,")], "experts: {en", "did you mean `english`?"),
    "a model that is the base": (
        [("stage: english", "stage: vision")],
        "stage: vision",
        "its difference would be empty",
    ),
    "one model twice": ([("stage: english", "stage: korean")], KO, "is `en` already; give that one a larger weight"),
    "a model of the other": ([(", after: vision}", "}")], KO, "`korean` was trained from `english`"),
    "a stranger to the base": (
        [("{data: en}\n  korean", "{data: en, init: base}\n  korean")],
        EN,
        "`english` was not trained from the base `vision`",
    ),
    "a missing folder": ([("stage: english", "path: there")], "path: there", "there is no folder `there`"),
    "a hub id": ([("stage: english", "path: org/model")], "path: org", "download it first"),
    "a file": ([("stage: english", "path: study.yaml")], "path: study", "is a file; give the folder that holds it"),
    "weights in few bits": (
        [("english: {data: en", "english: {data: en, adapter: {lora_r: 2}, quantization: {load_in_4bit: true}")],
        EN,
        "trained on weights in few bits",
    ),
    "whole models into an adapter": (
        [(MERGED, MERGED + "    into: adapter\n"), (AFTER_MERGED, f"    init: merge_then_new\n{AFTER_MERGED}")],
        EN,
        "is a whole model, and `into: adapter`",
    ),
    "slerp of PEFT": (
        [("method: dare_ties", "method: slerp\n    compat: peft"), *WITHOUT_DENSITY],
        "compat: peft",
        "PEFT has no slerp of models",
    ),
    "a name that is taken": ([("      en: {stage: e", "      base: {stage: e")], "models:", "`base` is the name of"),
    "an empty expert": ([("en: english,", "en: merged,")], "experts: {en", "its difference is empty; write `en: null`"),
    "factors of a whole model": (
        [("ko: {stage: korean}", "ko: {stage: korean, use: factors}")],
        "experts: {en",
        "no LoRA whose factors",
    ),
    "experts in few bits": (
        [(MOLE, f"    quantization: {{load_in_4bit: true}}\n{MOLE}")],
        "quantization:",
        "experts are laid over weights in full",
    ),
    "experts in slices": (
        [(MOLE, f"    engine: fsdp2\n{MOLE}"), TWO_RANKS],
        "engine: fsdp2",
        "cannot slice a mixture of experts",
    ),
    "experts in ZeRO-3": (
        [(MOLE, f"    engine: deepspeed\n    deepspeed: {{zero_optimization: {{stage: 3}}}}\n{MOLE}"), TWO_RANKS],
        "engine: deepspeed",
        "ZeRO stage 3 cannot slice a mixture",
    ),
    "experts on an adapter": (
        [
            ("after: vision}", f"after: vision, {LORA}}}"),
            ("merging@merged", "sequential@korean"),
            (AFTER_MERGED, f"    init: continue\n{AFTER_MERGED}"),
        ],
        "init: continue",
        "a mixture of experts sits on a whole model",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(folder: Folder, text: Callable[..., str], name: str) -> None:
    changes, marked, message = MISTAKES[name]
    written = text(*changes)
    told = folder.error(written)
    assert message in told, told
    assert f"study.yaml:{line_of(written, marked)}:" in told, told
    assert "Traceback" not in told and "pydantic" not in told


def test_a_model_of_the_other_may_be_meant(folder: Folder, text: Callable[..., str]) -> None:
    written = text((", after: vision}", "}"), (MERGED, MERGED + "    allow_descendants: true\n"))
    assert folder.load(written).study.variants["merging"].stages["merged"].allow_descendants


def test_weights_of_a_way_may_be_averaged_with_a_warning(folder: Folder, text: Callable[..., str]) -> None:
    plain = [("method: dare_ties", "method: linear"), (", density: 0.1}", "}"), (", density: 0.1}", "}"), (MERGED, "")]
    assert not folder.plan(text(*plain)).warnings
    (warning,) = folder.plan(text(*plain, (", after: vision}", "}"))).warnings
    assert warning.startswith("`merged`: `korean` was trained from `english`")


def test_shared_training_in_each_difference_is_told(folder: Folder, text: Callable[..., str]) -> None:
    (warning,) = folder.plan(text(("base: vision", "base: model"))).warnings
    assert "all its models were trained from `vision`" in warning and "`base: vision`" in warning


ADAPTERS = [
    ("english: {data: en", f"english: {{data: en, {LORA}"),
    ("after: vision}", f"after: vision, {LORA}}}"),
    (MERGED, MERGED + "    into: adapter\n"),
    ("    data: ko\n    adapter", "    init: merge_then_new\n    data: ko\n    adapter"),
]


def test_adapters_of_one_base_become_one(folder: Folder, text: Callable[..., str]) -> None:
    written = text(*ADAPTERS, ("english, korean]}", "english]}"))
    jobs = {planned.job.stage: planned.job for planned in folder.plan(written).jobs if planned.job.seed == 1}
    assert jobs["experts"].parents == (jobs["vision"].id, jobs["merged"].id)
    assert "of `vision`, not of `model`" in folder.error(text(*ADAPTERS, ("base: vision", "base: model")))
    alone = [("method: dare_ties", "method: linear"), (", density: 0.1}", "}"), (", density: 0.1}", "}"), (MERGED, "")]
    assert "set `base: vision`" in folder.error(text(*ADAPTERS, *alone))
    assert "is a DoRA" in folder.error(text(*ADAPTERS, ("{lora_r: 2}", "{type: dora, lora_r: 2}")))


def test_adapters_of_folders(folder: Folder, text: Callable[..., str]) -> None:
    model(folder.root / "lora", r=2)
    model(folder.root / "dora", r=2, use_dora=True)
    model(folder.root / "prompt", r=2, peft_type="PROMPT_TUNING")
    model(folder.root / "whole")
    (folder.root / "job").mkdir()
    (folder.root / "job" / "job.json").write_text("{}")
    into = (MERGED, "    base: model\n    into: adapter\n")
    both = [into, ("{stage: english", "{path: lora"), ("ko: {stage: korean, weight", "ko: {path: OTHER, weight")]
    only = [("experts: {en: english, ko: {stage: korean}", "experts: {en: {path: lora, use: factors}, ko: null"),
            ("    data: ko\n    adapter", "    init: merge_then_new\n    data: ko\n    adapter")]  # fmt: skip
    for other, message in {
        "dora": "is a DoRA",
        "prompt": "of type PROMPT_TUNING",
        "whole": "holds no adapter_config.json",
        "job": "its result is `job/model`",
    }.items():
        assert message in folder.error(text(*both, *only).replace("OTHER", other))
    model(folder.root / "lora2", r=2)
    assert folder.load(text(*both, *only).replace("OTHER", "lora2"))


def test_gates_that_see_their_input_fold_into_nothing(folder: Folder, text: Callable[..., str]) -> None:
    more = ("variants:", "  last: {data: ko, init: merge_then_new}\nvariants:")
    used = ("stages: [experts]", "stages: [experts, last]")
    assert "gates see each token, so it folds into no weights" in folder.error(text(more, used))
    assert folder.load(text(more, used, ("type: mole", "type: mole\n      gate: layer")))


def test_overrides_reach_into_models(folder: Folder, text: Callable[..., str]) -> None:
    sweep = """\
  "w{w}":
    matrix: {w: [0.2, 0.8]}
    stages: [vision, english, korean, merged]
    overrides: {merged: {models: {en: {weight: "{w}"}, ko: {stage: english2}}}}
"""
    more = ("  merged:\n", "  english2: {data: en, after: vision, max_steps: 7}\n  merged:\n")
    written = text(more) + sweep.replace("korean, merged]", "korean, english2, merged]")
    stages = [folder.load(written).study.variants[f"w{w}"].stages["merged"] for w in (0.2, 0.8)]
    assert all(isinstance(stage, MergeStage) for stage in stages)
    assert [stage.models["en"].weight for stage in stages] == [0.2, 0.8]
    assert {stage.models["en"].stage for stage in stages} == {"english"} and stages[0].models["ko"].stage == "english2"
    assert stages[0].models["ko"].density == 0.1


FOREIGN = {
    "the seed's command line": (
        "    lambda_en: 0.6\n    lambda_ko: 0.4\n    dare_drop_rate: 0.9\n",
        "{stage: english}",
        ["0.6 → weight of en: 0.6", "0.9 → density of en: 0.1, ko: 0.1"],
    ),
    "PEFT's list": ("    weights: [0.6, 0.4]\n    density: 0.1\n", "english", ["→ weight of en: 0.6, ko: 0.4"]),
    "by name": ("    weights: {en: 0.6, ko: 0.4}\n    density: 0.1\n", "english", ["→ weight of en: 0.6, ko: 0.4"]),
    "in each model": ("", "{stage: english, lambda: 0.6, drop_rate: 0.9}", ["0.6 → weight: 0.6", "0.9 → density: 0.1"]),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_spellings(folder: Folder, text: Callable[..., str], name: str) -> None:
    beside, entry, told = FOREIGN[name]
    entry_of_ko = "{stage: korean}" if beside else KO
    loaded = folder.load(text((MERGED, MERGED + beside), (EN, entry), (KO, entry_of_ko)))
    ours = folder.load(STUDY).study.variants["merging"].stages["merged"]
    assert loaded.study.variants["merging"].stages["merged"] == ours
    assert all(any(line in known for known in loaded.translations) for line in told), loaded.translations


WITHOUT_COUNTERPART = {
    "weights: [0.6]": "are 1 numbers for 2 models",
    "weights: {fr: 1}": "there is no model `fr` here",
    "lambda_en: 0.3": "means `weight` of `en`",
    "density: lots": "must be a number",
    "combination_type: cat": "`method: task_arithmetic` with `into: adapter`",
    "combination_type: magnitude_prune": "not among the methods here",
    "base_model: org/m": "is `base:` here",
    "parameters: {normalize: true}": "stand by themselves here",
    "seed: 3": "`seeds: [1, 2, 3]` at the top",
    "merge_method: ties": "means `stages.merged.method`",
}


@pytest.mark.parametrize("line", WITHOUT_COUNTERPART)
def test_foreign_spellings_without_a_counterpart(folder: Folder, text: Callable[..., str], line: str) -> None:
    written = text((MERGED, f"    {line}\n{MERGED}"))
    told = folder.error(written)
    assert WITHOUT_COUNTERPART[line] in told and f"study.yaml:{line_of(written, line)}:" in told, told


def test_the_plan_says_what_is_merged(folder: Folder) -> None:
    lines = plan_lines(folder.plan(STUDY))
    models = "en (english × 0.6, density 0.1) and ko (korean × 0.4, density 0.1)"
    assert f"  merged (merging, mixture): dare_ties of {models} over vision" in lines
    (row,) = [line.split() for line in lines if line.startswith("merged  ")]
    assert row[-3:] == ["-", "-", "-"]
    assert any(line.startswith("Together: 40 steps") for line in lines)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([("weight: 0.6", "weight: 0.5")], {"merged": "models.en.weight 0.6 → 0.5", "experts": "after merged"}),
        ([("base: vision", "base: model")], {"merged": "base.stage vision → model", "experts": "after merged"}),
        (
            [("after: vision}", "after: vision, weight_decay: 0.1}")],
            {"korean": "weight_decay 0.0 → 0.1", "merged": "after korean", "experts": "after merged; after korean"},
        ),
        ([("en: english,", "en: korean,"), ("{stage: korean}", "english")], {"experts": "adapter.experts.en.stage"}),
        (
            [(", after: vision}", ", after: vision, init: base}"), ("base: vision", "base: model")],
            {"korean": "init", "merged": "base.stage", "experts": "after merged"},
        ),
        (
            [("    base: vision", "    base: vision\n    threads: 2"), ("density: 0.1}", "density: 0.2}")],
            {"merged": "models.en.density 0.1 → 0.2", "experts": "after merged"},
        ),
    ],
)
def test_changes_of_merges_are_explained(
    folder: Folder, text: Callable[..., str], changes: list[tuple[str, str]], told: dict[str, str]
) -> None:
    first = folder.plan(STUDY)
    prepare(first.study, STUDY.encode(), [planned.job for planned in first.jobs], first.as_json(), first.folder)
    found = {change.stage: str(change) for change in folder.plan(text(*changes)).changes}
    assert found.keys() == told.keys() and "→ null" not in str(found)
    for stage, why in told.items():
        assert why in found[stage], found
    assert "threads" not in str(found) and "newer tunestudy" not in str(found)


def test_other_weights_in_a_folder_are_told(folder: Folder, text: Callable[..., str]) -> None:
    model(folder.root / "m", "one")
    written = text(("{stage: korean, weight", "{path: m, weight"))
    first = folder.plan(written)
    prepare(first.study, written.encode(), [planned.job for planned in first.jobs], first.as_json(), first.folder)
    assert not folder.plan(written).changes
    (folder.root / "m" / "model.safetensors").write_text("another one")
    told = [str(change) for change in folder.plan(written).changes]
    assert any("models.ko.path" in line and "other content" in line for line in told), told


def test_disk_for_a_merged_model(folder: Folder, text: Callable[..., str]) -> None:
    model(folder.root / "m", "w" * 5000)
    written = text(("    base: vision", "    base: {path: m}"), ("stage: korean", "path: m2"))
    model(folder.root / "m2", "w" * 7000)
    (merged, *_) = [planned.job for planned in folder.plan(written).jobs if planned.job.stage == "merged"]
    assert bytes_needed([merged], folder.root) - bytes_needed([], folder.root) == 5000


TINY = "tiny: {stages: {merged: {%s}}}\n"


def test_the_small_form_of_a_merge(folder: Folder) -> None:
    small = load_study(folder.write(STUDY + TINY % "threads: 1"), tiny=True).study.variants["merging"].stages["merged"]
    assert small.threads == 1 and small.models["en"].weight == 0.6


@pytest.mark.parametrize("refused", ["method: ties", "models: {en: {weight: 1}}", "absent: average", "base: model"])
def test_the_small_form_merges_the_same(folder: Folder, refused: str) -> None:
    with pytest.raises(StudyError, match="of a merge the small study may change"):
        load_study(folder.write(STUDY + TINY % refused), tiny=True)


def test_a_job_is_read_as_it_was_written(folder: Folder) -> None:
    for planned in folder.plan(STUDY).jobs:
        assert Job.model_validate_json(planned.job.model_dump_json()) == planned.job
