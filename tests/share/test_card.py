"""The card: what the run's files say, in a form that the hub's client reads back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from published import seal_files
from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.records.manifest import read_manifest
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.share.card import CardFacts, render_card

HUB = {"d": {"type": "hub", "name": "org/data", "revision": "r1"}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyDir:
    return make_study(tmp_path_factory.mktemp("study"), Recipe())


def facts_of(study: StudyDir, folder: Path, *, base: str = "org/base", **model: object) -> CardFacts:
    config = json.dumps({"base_model_name_or_path": base}).encode()
    seal_files(folder, {"adapter_model.safetensors": b"w", "adapter_config.json": config}, **model)
    facts = collect(study)
    variant = next(name for name in facts.variants if name != facts.baseline and facts.last_jobs(name))
    return CardFacts(
        repo="me/it",
        folder=folder,
        manifest=read_manifest(folder) or {},
        study=facts,
        headline=make_headline(facts),
        job=facts.last_jobs(variant)[0],
        datasets=HUB,
        identities={},
        licence="apache-2.0",
    )


def test_the_hub_s_client_reads_the_metadata_back(study: StudyDir, tmp_path: Path) -> None:
    facts = facts_of(study, tmp_path / "model")
    data = ModelCard(render_card(facts)).data
    assert (data.base_model, data.library_name, data.license, data.datasets) == (
        "org/base",
        "peft",
        "apache-2.0",
        ["org/data"],
    )
    scores = {one.metric_name: one.metric_value for one in data.eval_results}
    for name, score in facts.job.scores.items():
        assert scores[f"{name} {score.primary}"] == pytest.approx(score.metrics[score.primary])
    assert scores


def test_people_read_results_with_intervals_and_how_to_load(study: StudyDir, tmp_path: Path) -> None:
    facts = facts_of(study, tmp_path / "model")
    card = render_card(facts)
    cell = next(one for one in facts.headline.cells if one.variant in facts.job.variants and one.primary)
    assert f"{cell.summary.ci_low:.3f} to {cell.summary.ci_high:.3f}" in card
    assert f"Baseline: `{facts.study.baseline}`" in card
    assert 'from_pretrained("org/base", revision="abc")' in card
    assert 'PeftModel.from_pretrained(base, "me/it")' in card
    assert f"seed {facts.job.seed}" in card
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")


def test_equal_facts_give_equal_bytes(study: StudyDir, tmp_path: Path) -> None:
    facts = facts_of(study, tmp_path / "model")
    later = replace(facts, study=replace(facts.study, gathered_at=facts.study.gathered_at + 1000))
    assert render_card(facts) == render_card(later)


def test_what_is_not_known_is_left_out(study: StudyDir, tmp_path: Path) -> None:
    facts = facts_of(study, tmp_path / "model", base="../../base")
    bare = replace(
        facts,
        licence=None,
        manifest={**facts.manifest, "base": {"kind": "folder", "sha256": "0"}},
        datasets={},
        job=replace(facts.job, training=None, scores={}, data={}, environment={}),
    )
    card = render_card(bare)
    data = ModelCard(card).data
    assert data.base_model is None and data.license is None and data.datasets is None and data.eval_results is None
    assert "Its base is not on the hub" in card and "../" not in card
    assert "None" not in card and "## Results" not in card and "## Data" not in card
