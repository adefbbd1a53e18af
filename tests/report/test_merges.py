"""Merges in the report: what went in, how far apart it lay over seeds, what was noticed, and what it all cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merging import MERGING, ONE_SEED, ROLES, make_merging

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.cost import costs, total
from tunestudy.report.differences import differences, not_default
from tunestudy.report.facts import StudyFacts
from tunestudy.report.findings import warnings_of
from tunestudy.report.format import share
from tunestudy.report.lineage import kind_of_job, origins
from tunestudy.report.merges import Merging, merges
from tunestudy.report.samples import unequal_samples
from tunestudy.report.spread import spread


def _reports(study_dir: StudyDir, facts: StudyFacts, variant: str) -> list[dict[str, Any]]:
    jobs = [job for job in facts.jobs if job.stage == "merged" and variant in job.variants]
    return [json.loads((study_dir.job(job.id).root / "merge_report.json").read_text()) for job in jobs]


def _of(facts: StudyFacts, variant: str) -> Merging:
    return next(one for one in merges(facts) if variant in one.variants)


def test_one_section_per_merge_and_its_variants(merging: StudyDir) -> None:
    found = merges(collect(merging))
    assert [(one.stage, one.variants) for one in found] == [
        ("merged", ("linear",)),
        ("merged", ("dare_ties", "mixture", "collapsed")),
    ]
    assert all(one.seeds == MERGING.seeds and one.reported == 3 for one in found)


def test_roles_are_what_the_files_say(merging: StudyDir) -> None:
    facts = collect(merging)
    one, reports = _of(facts, "dare_ties"), _reports(merging, facts, "dare_ties")
    assert {role.name: (role.tensors, role.parameters) for role in one.roles} == ROLES
    for role in one.roles:
        for of in role.differences:
            for key in ("zero_share", "norm", "relative_norm"):
                said = [report["roles"][role.name]["models"][of.model][key] for report in reports]
                told = getattr(of, key)
                assert told.mean == pytest.approx(np.mean(said))
                assert (told.low, told.high, told.seeds) == (min(said), max(said), 3)
        (pair,) = role.pairs
        said = [report["roles"][role.name]["cosine"]["en|ko"] for report in reports]
        assert pair.names == "en | ko"
        assert pair.cosine.mean == pytest.approx(np.mean(said))
        assert pair.sign_conflict.seeds == 3


def test_inputs_in_words(merging: StudyDir) -> None:
    facts = collect(merging)
    base, en, ko = _of(facts, "dare_ties").inputs
    assert (base.name, base.origin, base.weight, base.density) == ("base", "stage vision", "", "")
    assert (en.weight, en.density, en.kind) == ("0.6 (projector 0.5)", "0.1", "full")
    assert (ko.weight, ko.density) == ("0.4", "0.1")
    assert len(base.identities) == len(en.identities) == len(en.jobs) == 3
    assert all(job.startswith("english-") for job in en.jobs)
    assert [one.name for one in _of(facts, "linear").inputs] == ["en", "ko"]


def test_a_merge_without_a_base_compares_weights(merging: StudyDir) -> None:
    one = _of(collect(merging), "linear")
    assert not one.has_differences
    assert not one.of_differences
    assert one.has_pairs
    page = (merging.report / "index.html").read_text()
    assert "How the weights agree" in page
    assert "How the differences to the base agree" in page


def test_what_was_noticed_is_told_in_full(merging: StudyDir) -> None:
    facts = collect(merging)
    one = _of(facts, "dare_ties")
    (warning,) = one.warnings
    assert warning == _reports(merging, facts, "dare_ties")[0]["warnings"][0]
    assert any(warning in line for line in warnings_of(facts, make_headline(facts)))
    assert one.absent.startswith("12 tensors that the base lacks (average): abstractor.blocks.0.weight")
    assert one.absent.endswith("and more")
    assert one.vocabulary == "matched by token: 151,936 tokens, of these 312 from ko"
    document = merging.experiment_md.read_text()
    for text in (
        "### Merging",
        "12 tensors that the base lacks",
        "312 from ko",
        "0.6 (projector 0.5)",
        "wrote 1.8 GiB",
    ):
        assert text in document


def test_a_warning_of_one_seed_names_it(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path)
    facts = collect(study_dir)
    job = next(job for job in facts.jobs if job.stage == "merged" and job.seed == 123 and "dare_ties" in job.variants)
    path = study_dir.job(job.id).root / "merge_report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "warnings": ["the signs all agree"]}))
    warnings = _of(collect(study_dir), "dare_ties").warnings
    assert "the signs all agree (seed 123)" in warnings
    assert any(line.endswith("(seed 42, 456)") for line in warnings)


def test_the_plan_says_what_was_merged(merging: StudyDir) -> None:
    facts = collect(merging)
    by_id = {job.id: job for job in facts.jobs}
    merged = next(job for job in facts.jobs if "dare_ties" in job.variants and job.stage == "merged")
    assert merged.parents == ()
    assert [(one.role, by_id[one.what].stage) for one in origins(facts, merged)] == [
        ("base", "vision"),
        ("en", "english"),
        ("ko", "korean"),
    ]
    assert merged.needs == tuple(one.what for one in origins(facts, merged))
    assert kind_of_job(facts, merged) == "dare_ties of en, ko"
    mixed = next(job for job in facts.jobs if job.stage == "mixed" and job.seed == merged.seed)
    assert [(one.role, by_id[one.what].stage) for one in origins(facts, mixed)] == [
        ("", "merged"),
        ("en", "english"),
        ("ko", "korean"),
    ]
    assert f"en: {merged.inputs['en']}" in merging.experiment_md.read_text()


def test_the_plan_of_jobs_that_have_not_begun(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    begun = collect(study_dir)
    before = {job.id: origins(begun, job) for job in begun.jobs}
    for path in study_dir.jobs.glob("merged-*/*"):
        path.unlink() if path.is_file() else None
    facts = collect(study_dir)
    for job in facts.jobs:
        assert origins(facts, job) == before[job.id]
        assert kind_of_job(facts, job) or job.stage in ("vision", "english", "korean")
    assert all(one.reported == 0 for one in merges(facts))
    build_report(study_dir)
    assert (study_dir.report / "index.html").read_text().count("Nothing has been reported on this merge yet.") == 2


def test_what_lies_in_a_folder_or_is_the_studys_model(merging: StudyDir) -> None:
    facts = collect(merging)
    job = next(job for job in facts.jobs if job.stage == "merged")
    assert job.settings is not None
    job.settings["base"] = {"stage": "model", "path": None}
    job.settings["models"]["de"] = {"stage": None, "path": "../german", "weight": 0.2}
    told = {one.role: one.text for one in origins(facts, job)}
    assert told["base"] == "base: the study's model"
    assert told["de"] == "de: ../german"
    assert told["en"] == f"en: {job.inputs['en']}"


def test_what_goes_in_counts_once(merging: StudyDir) -> None:
    """Steps, tokens and time of a merged variant are sums over all its jobs, each once."""
    facts = collect(merging)
    found = {cost.variant: cost for cost in costs(facts)}
    for variant, cost in found.items():
        jobs = {job.id: job for job in facts.jobs if variant in job.variants}
        for key in ("steps", "tokens", "duration_s"):
            whole = sum(getattr(job.training, key) for job in jobs.values())
            assert getattr(cost, key) == pytest.approx(whole / len(facts.seeds)), (variant, key)
    assert found["linear"].steps == found["dare_ties"].steps == found["sequential"].steps == 600
    assert found["mixture"].steps == 800
    assert total(facts).job_s == pytest.approx(sum(job.training.duration_s for job in facts.jobs))


def test_a_merge_that_counts_no_tokens_leaves_the_sum(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    for path in study_dir.jobs.glob("merged-*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "tokens": None, "steps": None}))
    found = {cost.variant: cost for cost in costs(collect(study_dir))}
    assert found["linear"].steps == 600
    assert found["linear"].tokens == found["sequential"].tokens


def test_variants_that_end_in_a_merge_are_compared_by_seed(merging: StudyDir) -> None:
    headline = make_headline(collect(merging))
    cells = {cell.variant: cell for cell in headline.rows("digits")}
    for variant in ("linear", "dare_ties", "mixture"):
        assert cells[variant].comparison is not None
        assert cells[variant].comparison.seeds == MERGING.seeds
        by_hand = np.mean([cells[variant].points[s] - cells["sequential"].points[s] for s in MERGING.seeds])
        assert cells[variant].comparison.delta.mean == pytest.approx(by_hand)


def test_settings_of_merges_are_told_apart(merging: StudyDir) -> None:
    facts = collect(merging)
    chosen = not_default(facts.variants["dare_ties"].stages["merged"])
    assert chosen == {
        "type": "merge",
        "method": "dare_ties",
        "models.en.stage": "english",
        "models.en.weight": 0.6,
        "models.en.weights.projector": 0.5,
        "models.en.density": 0.1,
        "models.ko.stage": "korean",
        "models.ko.weight": 0.4,
        "models.ko.density": 0.1,
        "base.stage": "vision",
        "absent": "average",
        "vocabulary": "union",
    }
    rows = {(row.stage, row.key): row for row in differences(facts)}
    assert rows["merged", "method"].values["linear"] == "linear"
    assert rows["merged", "method"].values["mixture"] == "dare_ties"
    assert rows["korean", "after"].values["linear"] == "vision"
    assert rows["mixed", "adapter.experts.merged"].values["mixture"] == "null"


def test_merged_variants_are_asked_for_the_same_samples(tmp_path: Path) -> None:
    """A merge draws none; the stages before it are compared as those of any variant."""
    study_dir = make_merging(tmp_path, ONE_SEED)
    for path in study_dir.jobs.glob("*/data.json"):
        digest = {"vision": 1, "english": 2, "korean": 3, "mixed": 4}[path.parent.name.partition("-")[0]]
        told = {"epoch_sha256": f"{digest:064x}", "samples_sha256": f"{digest:064x}"}
        path.write_text(json.dumps({**json.loads(path.read_text()), "drawn": told}))
    assert list(unequal_samples(collect(study_dir))) == []
    korean = next(job for job in collect(study_dir).jobs if job.stage == "korean" and "linear" in job.variants)
    path = study_dir.job(korean.id).data_report
    told = {"epoch_sha256": f"{9:064x}", "samples_sha256": f"{9:064x}"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "drawn": told}))
    (line,) = unequal_samples(collect(study_dir))
    assert "linear, dare_ties" in line
    assert "sequential" in line


def test_a_running_merge_has_no_steps_to_tell(tmp_path: Path) -> None:
    from tunestudy.records.lease import Lease

    study_dir = make_merging(tmp_path, ONE_SEED)
    folder = next(study_dir.jobs.glob("merged-*"))
    (folder / "result.json").unlink()
    (folder / "progress.json").write_text(json.dumps({"phase": "survey", "t": 1.0}))
    held = Lease.acquire(study_dir.job(folder.name).lease)
    build_report(study_dir)
    assert (
        '<span class="state state-running">running</span><small>survey</small></td>'
        in (study_dir.report / "index.html").read_text()
    )
    held.release()


BROKEN = [
    b"{torn",
    b"[]",
    b"\xff\xfe\x00",
    b'{"roles": [1], "models": "x", "warnings": {"a": 1}, "absent": [], "vocabulary": 3, "duration_s": "long"}',
    b'{"roles": {"projector": {"models": {"en": {"norm": "nan"}, "ko": 3}, "cosine": {"en|ko": null}}, "x": null}}',
    b'{"base": 3, "models": {"en": {"identity": {"kind": "hub", "name": "a/b", "revision": null}, "weight": []}}}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_report_breaks_nothing(tmp_path: Path, content: bytes) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    broken = sorted(study_dir.jobs.glob("merged-*/merge_report.json"))
    for path in broken:
        path.write_bytes(content)
    build_report(study_dir)
    facts = collect(study_dir)
    assert facts.count("done") == len(facts.jobs)
    unreadable = [name for name in facts.unreadable if "merge_report.json" in name]
    assert len(unreadable) == (len(broken) if content in BROKEN[:3:2] else 0)
    assert len(merges(facts)) == 2


def test_result_json_alone_still_tells(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path)
    for path in study_dir.jobs.glob("merged-*/merge_report.json"):
        result = path.parent / "result.json"
        result.write_text(json.dumps({**json.loads(result.read_text()), "merge": json.loads(path.read_text())}))
        path.unlink()
    assert all(one.reported == 3 and one.roles for one in merges(collect(study_dir)))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"rank": 32, "exact": True, "energy": {}, "worst": None}, "of rank 32, exactly the merged difference"),
        ({"rank": 8, "exact": False, "energy": {"q": 0.4}, "worst": ["q", 0.4]}, "least is held of q: 40.0 %"),
        ({"rank": None, "exact": False, "worst": ["q"]}, "of rank —, to which the merged difference was cut"),
    ],
)
def test_adapters_that_became_one(tmp_path: Path, told: dict[str, Any], words: str) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    for path in study_dir.jobs.glob("merged-*/merge_report.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "adapter": told}))
    assert _of(collect(study_dir), "linear").adapter.endswith(words)


def test_without_merges_nothing_of_it(finished: StudyDir) -> None:
    page = (finished.report / "index.html").read_text()
    assert 'id="merging"' not in page
    assert 'id="mixtures"' not in page
    assert "### Merging" not in finished.experiment_md.read_text()
    assert merges(collect(finished)) == []


def test_shares_that_are_all_or_nothing() -> None:
    assert [share(value) for value in (0.0, 0.0002, 0.5, 0.9997, 1.0, None)] == [
        "0 %",
        "< 0.1 %",
        "50.0 %",
        "> 99.9 %",
        "100 %",
        "—",
    ]


def test_a_spread_says_what_is_known() -> None:
    assert spread([None, float("nan")]).whole(share) == "—"
    assert spread([0.5]).whole(share) == "50.0 %"
    assert spread([0.5, None, 0.7]).whole(share) == "60.0 % (50.0 % to 70.0 %)"
    assert spread([0.5, 0.5]).whole(share) == "50.0 %"
