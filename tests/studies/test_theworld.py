"""What the owner of the world study asked, answered from its small run: by the table, the report, the logs."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from badweb import Server
from five import STUDIES, Finished, tunestudy

from tunestudy.study.load import load_study

pytestmark = pytest.mark.study
NAME = "theworld_datacomp"
STUDY = STUDIES / f"{NAME}.yaml"
TRAINED = {"fast_10k", "plan_100k", "full_12_8m"}


@pytest.fixture
def study(finished: Any) -> Finished:
    return finished(NAME)


def trained(study: Finished) -> dict[str, dict[str, Any]]:
    """result.json of every job that trains."""
    return {
        job.id: json.loads((study.folder / "jobs" / job.id / "result.json").read_text())
        for job in study.jobs.values()
        if job.training is not None and not job.training.trains_nothing
    }


def compared(study: Finished) -> dict[str, dict[str, str]]:
    return {row["variant"]: row for row in study.table() if row["metric"] == "accuracy"}


def test_does_the_projection_help_against_the_model_alone_and_against_chance(study, tmp_path):
    against_base = compared(study)
    assert set(against_base) == {"base", "random_projection", *TRAINED}
    assert against_base["base"]["n_seeds"] == "1" and against_base["base"]["delta"] == ""
    copy = Finished(NAME, shutil.copytree(study.folder, tmp_path / study.folder.name, symlinks=True), "", 0)
    again = tunestudy("report", STUDY, "--tiny", "report.baseline=random_projection", "--results", tmp_path)
    assert again.returncode == 0, again.stderr
    against_chance = compared(copy)
    assert against_chance["random_projection"]["delta"] == ""
    for table in (against_base, against_chance):
        for variant in TRAINED:
            row = table[variant]
            assert row["n_seeds"] == "3" and row["delta"] and 0 < float(row["p_value"]) <= 1
    for variant in TRAINED:
        means = {name: float(row["mean"]) for name, row in against_base.items()}
        delta = float(against_chance[variant]["delta"])
        assert delta == pytest.approx(means[variant] - means["random_projection"], abs=1e-9)


def test_nothing_learns_in_the_random_projection(study):
    fixed = [job for job in study.jobs.values() if job.training is not None and job.training.trains_nothing]
    assert {job.variants for job in fixed} == {("random_projection",)} and len(fixed) == 3
    told = [json.loads((study.folder / "jobs" / job.id / "result.json").read_text()) for job in fixed]
    assert {(one["steps"], one["trainable_params"]) for one in told} == {(0, 0)}
    learnt = {tuple(role["role"] for role in one["roles"] if role["trainable"]) for one in trained(study).values()}
    assert learnt == {("world_projector",)}, "model and autoencoder stay as they are"


def test_blink_by_task(study):
    page = (study.folder / "report" / "index.html").read_text()
    assert "sub_task" in page
    for path in study.folder.glob("jobs/*/eval/blink.json"):
        told = json.loads(path.read_text())
        tasks = told["categories"]["sub_task"]
        assert sum(one["n"] for one in tasks.values()) == told["n"] > 0
        assert "Spatial_Relation" in tasks and all(f">{task}<" in page or task in page for task in tasks)


def test_the_loss_against_what_was_expected(study):
    bands = load_study(STUDY).study.expect["train_loss"]
    at_50 = next(band for band in bands if band.at_step == 50)
    for job in study.jobs.values():
        if job.variants == ("plan_100k",):
            with open(study.folder / "jobs" / job.id / "loss_log.csv", encoding="utf-8", newline="") as file:
                losses = {int(row["step"]): float(row["train_loss"]) for row in csv.DictReader(file)}
            assert losses[50] < at_50.below
    events = [json.loads(line) for path in study.folder.glob("events/*.jsonl") for line in path.open()]
    assert not [event for event in events if event["event"] == "alert"], "no first loss beyond blind guessing"


def test_dead_links_are_told_by_reason(study):
    page = (study.folder / "report" / "index.html").read_text()
    for one in trained(study):
        data = json.loads((study.folder / "jobs" / one / "data.json").read_text())
        ((name, told),) = data["sources"].items()
        lost = told["lost"]
        assert set(lost) == {"not fetched: host not found", "not fetched: http 404", "not fetched: another sha256"}
        assert told["read"] == sum(lost.values()) + told["samples"] + data["eval"]["rows"] and not told["rejected"]
        assert f"{name}: {told['read'] - sum(lost.values())} of {told['read']} images are here" in study.said
        assert all(f"{count} × {reason}" in page for reason, count in lost.items())


def test_every_size_takes_more_of_the_same_images(study):
    sizes = {}
    for path in study.folder.glob("cache/fetch/*/fetch.json"):
        count = json.loads(path.read_text())["records"]
        lines = [json.loads(line) for file in path.parent.glob("shard-*[0-9].jsonl") for line in file.open()]
        sizes[count] = {line["url"] for line in lines}
    small, middle, large = (sizes[count] for count in sorted(sizes))
    assert small < middle < large


def test_what_saving_costs(study):
    """By the plan's own figures most of the job; here the projection alone is written, beside the steps."""
    told = tunestudy("plan", STUDY, "--estimate", "--results", study.folder.parent / "plans")
    assert "375 saves × 7.5 min = 46.9 h, 3.0 times the training" in told.stdout, told.stderr
    for one, result in trained(study).items():
        assert 0 < result["save_s"] < result["train_s"]
        files = list((study.folder / "jobs" / one).glob("checkpoint-*/model.safetensors"))
        assert files and all(file.stat().st_size < result["trainable_params"] * 4 + 4096 for file in files)


def test_run_again_does_nothing_twice(study):
    def begun() -> Counter[str]:
        events = [json.loads(line) for path in study.folder.glob("events/*.jsonl") for line in path.open()]
        return Counter(event["event"] for event in events if event["event"] == "job_started")

    before, table = begun(), study.table()
    again = tunestudy("run", STUDY, "--tiny", "--results", study.folder.parent)
    assert again.returncode == 0, again.stderr
    assert begun() == before and study.table() == table
    assert "images" not in again.stdout, "what was fetched is not asked for again, dead links neither"


def test_a_list_of_real_links_is_planned_refused_and_fetched(tmp_path):
    """The way of the large study: nothing runs before the fetch, and what came decides the jobs."""
    server = Server()
    server.start()
    links = [server.url(f"image/{number}") for number in range(8)]
    links += [server.url("status/404"), server.url("body/html"), "http://10.0.0.1/a.jpg"]
    rows = [{"uid": f"{number:02}", "url": url, "text": "noise", "sha256": ""} for number, url in enumerate(links)]
    shutil.copy(STUDY, tmp_path)
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = "{type: datacomp, path: pool.jsonl, held_out: 0.2, fetch: {allow_loopback: true, backoff_s: 0.05}}"
    settings = [f"datasets.captions_{size}={pool}" for size in ("10k", "100k", "12_8m")]

    def ask(command: str, *words: str) -> tuple[int, str]:
        path: Path = tmp_path / STUDY.name
        done = tunestudy(command, path, "--tiny", *settings, *words, "--results", tmp_path / "results")
        return done.returncode, done.stdout + done.stderr

    try:
        before = json.loads(ask("plan", "--json")[1])
        code, told = ask("run")
        assert code == 3 and "datasets.captions_10k: its images have not been fetched" in told, told
        code, told = ask("fetch")
        assert code == 0 and "8 of 11 images are here" in told, told
        assert all(f"1  {reason}" in told for reason in ("http 404", "not an image", "address not public"))
        after = json.loads(ask("plan", "--json")[1])
    finally:
        server.stop()
    waiting = {job["stage"]: job["not_final"] for job in before["jobs"]}
    assert waiting["base_model"] == [] and waiting["align"][0].startswith("captions_")
    assert not any(job["not_final"] for job in after["jobs"])
    ids = [{job["id"] for job in plan["jobs"] if job["stage"] == "align"} for plan in (before, after)]
    assert ids[0].isdisjoint(ids[1])
