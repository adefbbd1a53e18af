"""Trials share what they have in common; the plan says so, and what an edit changes."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tunestudy.config.job import Job
from tunestudy.launch.prepare import prepare
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import StudyDir
from tunestudy.study.clean import clean_lines
from tunestudy.study.graph import BASE_MODEL
from tunestudy.study.plan import Plan
from tunestudy.study.show import plan_lines

Folder = Any
Edit = Callable[..., str]


def by_stage(plan: Plan) -> dict[str, int]:
    return {stage: sum(one.job.stage == stage for one in plan.jobs) for stage in {one.job.stage for one in plan.jobs}}


def keep(folder: Folder, plan: Plan) -> None:
    """Put the plan on disk as `run` does."""
    study = StudyDir(folder.results / plan.study.study)
    prepare(plan.study, folder.path.read_bytes(), [one.job for one in plan.jobs], plan.as_json(), study)


def finish(folder: Folder, job: Job, *, scores: bool = True) -> None:
    """Leave the files of a finished job."""
    place = StudyDir(folder.results / "digits").job(job.id)
    write_json(place.result_json, {"fingerprint": job.fingerprint})
    for name, evaluation in job.evaluations.items() if scores else ():
        write_json(place.eval_json(name), {"fingerprint": evaluation.fingerprint})


class TestGraph:
    def test_the_shared_stage_runs_once_per_seed(self, folder: Folder) -> None:
        plan = folder.plan()
        assert by_stage(plan) == {"base": 3, "adapt": 9}
        base = next(one for one in plan.jobs if one.job.stage == "base")
        assert base.job.variants == ("untrained", "full", "lora_r4", "lora_r16")
        assert base.job.variants[1:] == ("full", "lora_r4", "lora_r16")

    def test_what_differs_is_not_shared(self, folder: Folder, edited: Edit) -> None:
        plan = folder.plan(edited(), "variants.full.overrides.base.max_steps=7")
        assert by_stage(plan) == {"base": 6, "adapt": 9}

    def test_equal_variants_are_one(self, folder: Folder, edited: Edit) -> None:
        plan = folder.plan(edited(("full: {stages", "twin: {stages: [base, adapt]}\n  full: {stages")))
        assert by_stage(plan) == {"base": 3, "adapt": 9}
        assert any(one.job.variants == ("twin", "full") for one in plan.jobs)

    def test_parents_come_first_and_exist(self, folder: Folder) -> None:
        seen: set[str] = set()
        for one in folder.plan().jobs:
            assert set(one.job.parents) <= seen
            seen.add(one.job.id)
            assert bool(one.job.parents) == (one.job.stage == "adapt")

    def test_lineage_reaches_back_to_the_last_whole_model(self, folder: Folder, edited: Edit) -> None:
        text = edited(
            (
                "stages:\n  base",
                "stages:\n  stacked: {data: rotated, max_steps: 9, init: stack, adapter: {}}\n"
                "  whole: {data: rotated, max_steps: 9, init: merge_then_new}\n"
                "  again: {data: rotated, max_steps: 9}\n"
                "  fresh: {data: rotated, max_steps: 9, init: base}\n  base",
            ),
            ("    stages: [base, adapt]\n", "    stages: [base, adapt, stacked, whole, again, fresh]\n"),
        )
        jobs = {one.job.stage: one.job for one in folder.plan(text, "seeds=[1]").jobs if "lora_r4" in one.job.variants}
        parents = {stage: [parent.rpartition("-")[0] for parent in job.parents] for stage, job in jobs.items()}
        assert parents == {
            "base": [],
            "adapt": ["base"],
            "stacked": ["base", "adapt"],
            "whole": ["base", "adapt", "stacked"],
            "again": ["whole"],
            "fresh": [],
        }

    def test_benchmarks_stand_where_a_variant_ends(self, folder: Folder) -> None:
        assert all(list(one.job.evaluations) == ["accuracy"] for one in folder.plan().jobs)
        alone = folder.plan(folder.path.read_text().replace("  untrained: {stages: [base]}\n", ""))
        assert {one.job.stage for one in alone.jobs if one.job.evaluations} == {"adapt"}

    def test_jobs_hold_only_the_data_they_read(self, folder: Folder) -> None:
        text = folder.write().read_text().replace("  untrained: {stages: [base]}\n", "")
        names = {one.job.stage: set(one.job.datasets) for one in folder.plan(text).jobs}
        assert names == {"base": {"upright"}, "adapt": {"rotated"}}

    def test_the_model_as_it_comes_is_scored_once_or_once_per_seed(self, folder: Folder, edited: Edit) -> None:
        random = edited(("untrained: {stages: [base]}", "untrained: {stages: []}"))
        assert by_stage(folder.plan(random))[BASE_MODEL] == 3
        assert by_stage(folder.plan(random, "model.weights_seed=5"))[BASE_MODEL] == 1
        pretrained = random.replace(
            "  architecture: qwen3\n  config: {hidden_size: 32, num_hidden_layers: 2}\n",
            "  model_name_or_path: org/model\n",
        )
        plan = folder.plan(pretrained)
        assert by_stage(plan)[BASE_MODEL] == 1
        assert next(one.job.settings for one in plan.jobs if one.job.stage == BASE_MODEL) is None

    def test_order_is_priority_then_seed_then_the_file(self, folder: Folder, edited: Edit) -> None:
        plan = folder.plan(edited(), "variants.full.priority=1")
        order = [(one.job.variants[0], one.job.seed) for one in plan.jobs if one.job.stage == "adapt"]
        assert order[:4] == [("full", 1), ("full", 2), ("full", 3), ("lora_r4", 1)]
        assert order[4:6] == [("lora_r16", 1), ("lora_r4", 2)]

    def test_every_job_survives_its_file(self, folder: Folder) -> None:
        for one in folder.plan().jobs:
            assert Job.model_validate_json(one.job.model_dump_json()) == one.job

    def test_batch_numbers_are_explicit(self, folder: Folder) -> None:
        settings = folder.plan().jobs[0].job.settings
        assert (
            settings.effective_batch_size,
            settings.per_device_train_batch_size,
            settings.gradient_accumulation_steps,
        ) == (32, 8, 4)


class TestStatus:
    def test_read_from_the_files(self, folder: Folder) -> None:
        jobs = [one.job for one in folder.plan().jobs]
        finish(folder, jobs[0])
        finish(folder, jobs[1], scores=False)
        place = StudyDir(folder.results / "digits")
        write_json(place.job(jobs[2].id).failure_json, {"kind": "error", "message": "x"})
        write_json(place.job(jobs[3].id).progress_json, {"phase": "interrupted"})
        write_json(place.job(jobs[4].id).result_json, {"fingerprint": "0" * 64})
        place.job(jobs[5].id).root.mkdir(parents=True)
        states = [one.status for one in folder.plan().jobs]
        assert states[:7] == ["done", "evaluate", "failed", "interrupted", "pending", "pending", "pending"]
        assert folder.plan().totals()["jobs_to_do"] == 11

    def test_torn_files_prove_nothing(self, folder: Folder) -> None:
        job = folder.plan().jobs[0].job
        place = StudyDir(folder.results / "digits").job(job.id)
        place.root.mkdir(parents=True)
        place.result_json.write_text('{"fingerpr')
        assert folder.plan().jobs[0].status == "pending"


class TestChanges:
    def test_nothing_to_tell_at_first_and_without_an_edit(self, folder: Folder) -> None:
        plan = folder.plan()
        assert plan.changes == []
        keep(folder, plan)
        again = folder.plan()
        assert (again.changes, again.orphans) == ([], [])

    def test_the_key_that_did_it_old_and_new(self, folder: Folder, edited: Edit) -> None:
        keep(folder, folder.plan())
        plan = folder.plan(edited(), "variants.full.overrides.adapt.weight_decay=0.5", "defaults.logging_steps=1")
        assert [str(change) for change in plan.changes] == [
            "adapt (full): 3 jobs trained again: weight_decay 0.0 → 0.5"
        ]
        assert len(plan.orphans) == 3
        assert all(orphan.size_bytes > 0 for orphan in plan.orphans)

    def test_a_stage_carries_those_after_it_along(self, folder: Folder, edited: Edit) -> None:
        keep(folder, folder.plan())
        told = [str(change) for change in folder.plan(edited(), "stages.base.max_steps=7").changes]
        assert told == [
            "base (untrained, full, lora_r4 and 1 more): 3 jobs trained again: max_steps 300 → 7",
            "adapt (full, lora_r4, lora_r16): 9 jobs trained again: after base",
        ]

    def test_data_model_and_adapter(self, folder: Folder, edited: Edit) -> None:
        keep(folder, folder.plan())
        plan = folder.plan(edited(("[4, 16]", "[8, 16]")), "datasets.rotated.rotate=180", "model.dtype=float16")
        told = "\n".join(map(str, plan.changes))
        assert "datasets.rotated.rotate 90 → 180" in told
        assert "model.dtype float32 → float16" in told
        assert "adapt (lora_r8): 3 jobs new" in told

    def test_benchmarks_and_seeds(self, folder: Folder, edited: Edit) -> None:
        keep(folder, folder.plan())
        plan = folder.plan(edited(), "benchmarks.accuracy.max_new_tokens=3", "seeds=[1,2,3,4]")
        told = [str(change) for change in plan.changes]
        assert any("scored again: benchmarks.accuracy.max_new_tokens 1 → 3" in line for line in told)
        assert any(line.startswith("base") and line.endswith("1 job new") for line in told)
        assert plan.orphans == []

    def test_clean_lists_then_deletes(self, folder: Folder, edited: Edit) -> None:
        keep(folder, folder.plan())
        loaded = folder.load(edited().replace("seeds: [1, 2, 3]", "seeds: [1]"))
        jobs = folder.results / "digits" / "jobs"
        lines = clean_lines(loaded, folder.results, delete=False)
        assert len(lines) == 9
        assert len(list(jobs.iterdir())) == 12
        assert "deleted" in clean_lines(loaded, folder.results, delete=True)[-1]
        assert len(list(jobs.iterdir())) == 4
        assert clean_lines(loaded, folder.results, delete=True)[0].startswith("nothing to clean")


class TestFooting:
    @pytest.mark.parametrize(
        ("override", "words", "intent"),
        [
            (
                "effective_batch_size=8",
                "the effective batch size of `adapt` differs: 32 in lora_r4, lora_r16; 8 in full",
                "effective_batch_size",
            ),
            ("max_steps=9", "how long it trains of `adapt` differs", "steps"),
            ("max_length=9", "how samples become tokens of `adapt` differs", "tokens"),
            ("data=upright", "the data of `adapt` differs", "data"),
            ("order=as_given", "the order of samples of `adapt` differs: shuffle in lora_r4", "order"),
            ("eval_subset_size=9", "the evaluation rows of `adapt` differs", "evaluation"),
        ],
    )
    def test_accidents_are_told_unless_meant(
        self, folder: Folder, edited: Edit, override: str, words: str, intent: str
    ) -> None:
        change = f"variants.full.overrides.adapt.{override}"
        warnings = folder.plan(edited(), change).warnings
        assert len(warnings) == 1
        assert sorted(words.replace(":", ";").split("; ")[:1]) == sorted(warnings[0].replace(":", ";").split("; ")[:1])
        assert f"intends: [{intent}]" in warnings[0]
        assert folder.plan(edited(), change, f"variants.full.intends=[{intent}]").warnings == []

    def test_other_data_come_in_another_order(self, folder: Folder, edited: Edit) -> None:
        assert (
            folder.plan(
                edited(), "variants.full.overrides.adapt.order=as_given", "variants.full.intends=[data]"
            ).warnings
            == []
        )

    def test_what_variants_are_for_is_no_accident(self, folder: Folder) -> None:
        assert folder.plan().warnings == []


class TestEstimates:
    def test_steps_from_records_epochs_and_batch(self, folder: Folder, edited: Edit) -> None:
        (folder.root / "train.jsonl").write_text('{"text": "a"}\n' * 100)
        text = edited(
            ("upright: {type: digits, held_out: 0.2}", "upright: {path: train.jsonl, held_out: 0.1}"),
            ("base: {data: upright, max_steps: 300}", "base: {data: upright, num_train_epochs: 2.5}"),
        )
        base = folder.plan(text).jobs[0]
        assert base.steps == 3 + 3 + 2
        assert base.estimate.steps.exact is False
        assert base.job.stage == "base"

    def test_digits_as_characters(self, folder: Folder) -> None:
        base = folder.plan().jobs[0]
        assert base.tokens == 300 * 32 * 75
        assert str(base.estimate.tokens) == "≈720,000"

    def test_packed_rows_are_full(self, folder: Folder, edited: Edit) -> None:
        text = edited(("max_steps: 300", "packing: true, max_length: 750"))
        samples = round(1797 * 0.8)
        base = folder.plan(text).jobs[0]
        assert base.steps == math.ceil(math.ceil(samples / 10) / 32)
        assert base.tokens == base.steps * 32 * 750

    def test_what_a_job_has_counted_wins(self, folder: Folder, edited: Edit) -> None:
        text = edited(("max_steps: 300", "num_train_epochs: 2"))
        job = next(one.job for one in folder.plan(text).jobs if one.job.stage == "base")
        place = StudyDir(folder.results / "digits").job(job.id)
        write_json(place.data_report, {"sources": {"upright": {"samples": 320, "tokens": 3200}}})
        plans = {one.job.stage: one for one in folder.plan(text).jobs if one.job.seed == 3}
        assert (str(plans["base"].estimate.steps), plans["base"].tokens) == ("20", 6400)
        assert plans["adapt"].tokens == 200 * 32 * 75
        other = folder.plan(text, "stages.base.max_length=70").jobs[0]
        assert str(other.estimate.steps) == "≈90"

    def test_unknown_stays_unknown(self, folder: Folder, edited: Edit) -> None:
        text = edited(
            ("upright: {type: digits, held_out: 0.2}", "upright: {name: org/data}"),
            ("base: {data: upright, max_steps: 300}", "base: {data: upright}"),
        )
        plan = folder.plan(text)
        assert (plan.jobs[0].steps, plan.jobs[0].tokens, plan.jobs[0].checkpoints) == (None, None, None)
        assert plan.totals()["steps"] is None
        assert "an unknown number of steps" in "\n".join(plan_lines(plan))

    def test_checkpoints_by_both_cadences(self, folder: Folder, edited: Edit) -> None:
        text = edited(
            ("defaults:\n", "defaults:\n  save_steps: 100\n  full_save_steps: 150\n  save_on_epoch_end: false\n")
        )
        assert folder.plan(text).jobs[0].checkpoints == len({100, 200, 300, 150})

    def test_checkpoints_of_more_steps_than_can_be_listed(self, folder: Folder, edited: Edit) -> None:
        cadence = "defaults:\n  save_steps: 4\n  full_save_steps: 6\n  save_on_epoch_end: false\n"
        text = edited(("defaults:\n", cadence), ("max_steps: 300", "max_steps: 12000000000000"))
        assert folder.plan(text).jobs[0].checkpoints == 4 * 10**12


def test_json_is_the_contract(folder: Folder) -> None:
    told = json.loads(json.dumps(folder.plan().as_json()))
    assert list(told)[:6] == ["study", "jobs", "totals", "orphans", "changes", "warnings"]
    assert list(told["jobs"][0]) == [
        *("id", "stage", "variants", "seed", "parents", "fingerprint", "status", "steps", "tokens", "checkpoints"),
        "not_final",
    ]


def test_table_says_what_is_shared(folder: Folder) -> None:
    text = "\n".join(plan_lines(folder.plan()))
    assert "base: 1 job per seed, shared by 4 variants" in text
    assert "4 variants × 3 seeds = 12 trials, 12 jobs (12 to do)" in text
    assert "Reuse saves 9 of 21 stage runs" in text


def test_planning_never_imports_torch(folder: Folder) -> None:
    code = (
        "import sys; from pathlib import Path; from tunestudy.study.load import load_study; "
        "from tunestudy.study.plan import make_plan; import tunestudy.cli, tunestudy.study.show; "
        f"make_plan(load_study(Path({str(folder.write())!r})), Path({str(folder.results)!r})); "
        "print([name for name in ('torch', 'transformers', 'peft', 'scipy', 'rich') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
