"""A lock beside a study file stands where `revision:` would stand, all through the plan."""

import json
from pathlib import Path

import pytest
from locks import locked, put_into

from tunestudy.config.errors import StudyError
from tunestudy.preflight.checks import locked_problems
from tunestudy.preflight.inputs import data_points
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import Lock, read_lock, write_lock
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

from .conftest import Folder

COMMIT = locked("model", "x").commit
STUDY = """\
study: hub
seeds: [1]
model: {model_name_or_path: org/model, tokenizer: org/words}
datasets:
  data: {name: org/data, subset: a+b, held_out: 0.2}
  near: {type: digits}
defaults: {learning_rate: 1e-3, effective_batch_size: 4, max_steps: 3}
stages:
  learn: {data: data}
  rank: {data: data, order: {by: score, scorer: {model_name_or_path: org/judge, revision: v1}}}
  see:
    data: near
    world: {encoder: {model_name_or_path: org/world}}
variants:
  one: {stages: [learn, rank]}
  two: {stages: [learn]}
  three: {stages: [see]}
"""
ITEMS = (
    locked("model", "org/model", "weights", "tokenizer"),
    locked("model", "org/words", "tokenizer"),
    locked("model", "org/judge", "weights", "tokenizer", revision="v1"),
    locked("model", "org/world", "vae/"),
    locked("dataset", "org/data", "a", "b"),
)


def lock(folder: Folder, *items, name: str = "hub.lock") -> Path:
    write_lock(folder.root / name, Lock("hub").with_items(items or ITEMS))
    return folder.root / name


def test_everything_of_the_hub_is_named_once_with_its_parts(folder: Folder) -> None:
    (folder.root / "org").mkdir()
    locking = folder.load(STUDY).locking
    assert locking is not None and locking.lock is None and locking.missing == () and not locking.complete
    assert {(one.kind, one.id, one.revision, one.parts) for one in locking.named} == {
        (item.kind, item.id, item.revision, item.parts) for item in ITEMS
    }
    (folder.root / "org" / "model").mkdir()
    assert "org/model" not in {one.id for one in folder.load(STUDY).locking.named}, "it is a folder here"


def test_locked_commits_reach_every_job_as_a_revision_would(folder: Folder) -> None:
    written = (
        STUDY.replace("org/model,", f"org/model, revision: {COMMIT}, tokenizer_revision: {COMMIT},")
        .replace("revision: v1", f"revision: {COMMIT}")
        .replace("name: org/data,", f"name: org/data, revision: {COMMIT},")
        .replace("org/world}", f"org/world, revision: {COMMIT}}}")
    )
    by_hand = {one.job.id for one in folder.plan(written).jobs}
    unlocked = {one.job.id for one in folder.plan(STUDY).jobs}
    lock(folder)
    plan = folder.plan(STUDY)
    assert {one.job.id for one in plan.jobs} == by_hand and not by_hand & unlocked
    assert len(plan.jobs) == 3, "variants share a stage as before"
    assert not any("pinned" in line or "not in" in line for line in plan.warnings)
    by_stage = {one.job.stage: one.job for one in plan.jobs}
    assert all(one.job.offline for one in plan.jobs)
    assert by_stage["learn"].model.revision == by_stage["learn"].model.tokenizer_revision == COMMIT
    assert by_stage["learn"].datasets["data"].revision == COMMIT
    assert by_stage["rank"].settings.order.scorer.revision == COMMIT
    assert by_stage["see"].settings.world.encoder.revision == COMMIT


def test_without_a_lock_nothing_changes(folder: Folder) -> None:
    plan = folder.plan(STUDY)
    assert not any(one.job.offline for one in plan.jobs)
    assert any("`org/model` is not pinned to a revision" in line for line in plan.warnings)
    assert list(locked_problems(folder.load(STUDY))) == []


def test_another_id_asks_for_a_fetch(folder: Folder) -> None:
    lock(folder)
    edited = STUDY.replace("org/model,", "org/other,").replace("subset: a+b", "subset: a+c")
    loaded = folder.load(edited)
    plan = make_plan(loaded, folder.results)
    told = [line for line in plan.warnings if "is not in hub.lock" in line]
    assert [line.partition(" is")[0] for line in told] == ["`org/other`", "`org/data`"]
    assert all("first `tunestudy fetch " in line for line in told)
    assert not any("not pinned" in line for line in plan.warnings), "told once"
    assert not any(one.job.offline for one in plan.jobs)
    refused = [str(error) for error in locked_problems(loaded)]
    assert "hub.lock: does not hold model org/other; first `tunestudy fetch" in refused[0]


def test_the_revisions_that_a_lock_holds_in_place_of_the_named_one_are_told(folder: Folder) -> None:
    lock(folder)
    told = [str(error) for error in locked_problems(folder.load(STUDY.replace("revision: v1", "revision: v2")))]
    assert "hub.lock: does not hold model org/judge @ v2, only org/judge @ v1; first `tunestudy fetch" in told[0]


def test_what_this_machine_lacks_is_told_before_a_run(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(folder.root / "cache"))
    lock(folder)
    put_into(folder.root / "cache", *ITEMS[1:])
    (told,) = locked_problems(folder.load(STUDY))
    assert "org/model: config.json is missing" in str(told) and "brings just what is wrong" in str(told)
    put_into(folder.root / "cache", ITEMS[0])
    assert list(locked_problems(folder.load(STUDY))) == []


def test_a_newer_commit_changes_the_jobs_that_read_it(folder: Folder) -> None:
    from tunestudy.launch.prepare import prepare

    lock(folder)
    loaded = folder.load(STUDY)
    plan = make_plan(loaded, folder.results)
    prepare(loaded.study, STUDY.encode(), [one.job for one in plan.jobs], plan.as_json(), plan.folder)
    lock(folder, *ITEMS[:-1], locked("dataset", "org/data", "a", "b", commit="f" * 40))
    told = [str(change) for change in folder.plan(STUDY).changes]
    assert any(line.startswith("learn (one, two)") and "datasets.data.revision c0ffee" in line for line in told)
    assert not any(line.startswith("see") for line in told)


def test_the_small_form_has_a_lock_of_its_own(folder: Folder) -> None:
    lock(folder)
    folder.write(STUDY + "tiny: {model: {model_name_or_path: org/small}}\n")
    small = load_study(folder.path, tiny=True)
    assert small.locking.path.name == "hub-tiny.lock" and small.locking.lock is None


def test_harness_tasks_keep_jobs_online(folder: Folder) -> None:
    lock(folder)
    text = STUDY + "benchmarks: {arc: {type: lm_eval, tasks: arc_easy}}\n"
    why = "which data arc_easy reads is known once they are fetched"
    assert folder.load(text).locking.unlockable == {"benchmarks.arc": why}
    assert not any(one.job.offline for one in folder.plan(text).jobs)


ARC = STUDY + "benchmarks: {arc: {type: lm_eval, tasks: [arc_easy, own.yaml]}}\n"


def tasks_lock(folder: Folder, reads: object, *items) -> None:
    told = {"arc_easy": {"harness": "1", "reads": reads, "why": None if reads else "it loads by code of its own"}}
    held = Lock("hub", tasks=told).with_items((*ITEMS, *items))
    write_lock(folder.root / "hub.lock", held)
    assert read_lock(folder.root / "hub.lock") == held


def test_data_of_harness_tasks_are_pinned_as_others_are(folder: Folder) -> None:
    (folder.root / "own.yaml").write_text("task: own")
    unlocked = {one.job.id: one.job for one in folder.plan(ARC).jobs}
    tasks_lock(folder, [["org/arc", "easy", None]])
    assert [(one.id, one.parts) for one in folder.load(ARC).locking.missing] == [("org/arc", ("easy",))]
    tasks_lock(folder, [["org/arc", "easy", None]], locked("dataset", "org/arc", "easy"))
    loaded, jobs = folder.load(ARC), [one.job for one in folder.plan(ARC).jobs]
    assert loaded.locking.complete and loaded.study.benchmarks["arc"].revisions == {"org/arc": COMMIT}
    assert all(one.offline for one in jobs) and not unlocked.keys() & {one.id for one in jobs}
    by_hand = ARC.replace("own.yaml]", "own.yaml], revisions: {org/arc: v1}")
    assert folder.load(by_hand).locking.missing[0].revision == "v1", "what the file asks for is what is locked"


def test_harness_tasks_that_load_by_code_say_so(folder: Folder) -> None:
    (folder.root / "own.yaml").write_text("task: own")
    tasks_lock(folder, None)
    assert folder.load(ARC).locking.unlockable == {"benchmarks.arc": "it loads by code of its own"}


def test_metrics_that_evaluate_loads_are_not_locked_and_keep_jobs_online(folder: Folder) -> None:
    (folder.root / "own.yaml").write_text("task: own")
    told = {"arc_easy": {"harness": "1", "reads": [["org/arc", "easy", None]], "why": None, "metrics": ["bleu", "wer"]}}
    items = (*ITEMS, locked("dataset", "org/arc", "easy"))
    write_lock(folder.root / "hub.lock", Lock("hub", tasks=told).with_items(items))
    loaded = folder.load(ARC)
    why = "`evaluate` loads bleu, wer, of the metrics of arc_easy, from the hub at run time"
    assert loaded.locking.unlockable == {"benchmarks.arc": why}
    assert not any(one.job.offline for one in folder.plan(ARC).jobs)
    points = [(one.state, one.found) for one in data_points(loaded) if one.check == "benchmarks.arc"]
    assert points == [("warning", f"{why}, so not locked: jobs ask the hub")]


def test_bases_that_adapters_in_folders_name(folder: Folder) -> None:
    """Locked as they are asked for; the commit stands where the adapter's own configuration has none."""
    merge = "{type: merge, method: linear, into: adapter, models: {a: {path: near}, b: {path: far}}}"
    text = STUDY.replace("variants:", f"  soup: {merge}\nvariants:\n  four: {{stages: [soup]}}")
    for name, base in (("near", "../.."), ("far", "org/base")):
        (folder.root / name).mkdir()
        (folder.root / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    lock(folder)
    loaded, before = folder.load(text), {one.job.id for one in folder.plan(text).jobs}
    assert [(one.id, one.revision) for one in loaded.locking.missing] == [("org/base", None)]
    assert loaded.study.variants["four"].stages["soup"].models["b"].base_revision is None
    lock(folder, *ITEMS, locked("model", "org/base", "tokenizer", "weights"))
    loaded = folder.load(text)
    soup = loaded.study.variants["four"].stages["soup"]
    assert loaded.locking.complete
    assert {name: one.base_revision for name, one in soup.models.items()} == {"a": None, "b": COMMIT}
    assert len(before - {one.job.id for one in folder.plan(text).jobs}) == 1, "the commit is part of the merge's name"
    asked = text.replace("b: {path: far}", "b: {path: far, base_revision: v1}")
    assert [(one.id, one.revision) for one in folder.load(asked).locking.missing] == [("org/base", "v1")]
    pinned = {"base_model_name_or_path": "org/base", "revision": COMMIT}
    (folder.root / "far" / "adapter_config.json").write_text(json.dumps(pinned))
    assert [(one.id, one.revision) for one in folder.load(text).locking.missing] == [("org/base", COMMIT)]
    lock(folder, *ITEMS, locked("model", "org/base", "tokenizer", "weights", revision=COMMIT))
    assert folder.load(text).locking.complete


def test_a_lock_that_is_none_stops_every_command(folder: Folder) -> None:
    (folder.root / "hub.lock").write_text("<<<<<<< HEAD\n" + json.dumps({"version": 1}))
    with pytest.raises(StudyError, match="is no lock"):
        folder.load(STUDY)


def test_images_that_came_otherwise_elsewhere_are_told(folder: Folder) -> None:
    from tunestudy.records.atomic import write_json
    from tunestudy.records.fetched import FetchDir
    from tunestudy.study.identity import Identities

    text = STUDY.replace("near: {type: digits}", "near: {path: near.jsonl, fetch: {}}")
    (folder.root / "near.jsonl").write_text('{"image": "http://example.com/a.jpg"}\n')
    loaded = folder.load(text)
    study = StudyDir(folder.results / "hub")
    key = Identities(loaded.study, folder.root, study).datasets["near"]["images"][0]
    for shard, digest in enumerate(("aa", "bb")):
        write_json(FetchDir(study.fetch / key).summary(shard), {"images_sha256": digest})
    for theirs, differ in ((["aa", "bb"], 0), (["aa", "b0", "cc"], 1)):
        write_lock(folder.root / "hub.lock", Lock("hub", images={"near": {"key": key, "shards": theirs}}))
        told = [line for line in folder.plan(text).warnings if "shards of its images" in line]
        assert len(told) == differ
    assert told[0].startswith("datasets.near: 1 shards of its images (the first is 1) are not those")
