"""The timeline: what packing.json foresaw and the journals tell, as spans, words and SVG."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from studies import STARTED, Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.page import render_page
from tunestudy.report.timeline import Bar, Timeline, timeline
from tunestudy.report.timeline_svg import draw

COLOURS = {"untrained": "c0", "full": "c1", "lora_r4": "c2", "lora_r16": "c3"}


@pytest.fixture
def study(tmp_path: Path) -> StudyDir:
    """Of which one job failed twice and one is running; its jobs were planned on two slots."""
    study_dir = make_study(tmp_path, Recipe(failed=(("full", 2),), running=(("lora_r4", 3),)))
    jobs = [job["id"] for job in json.loads(study_dir.plan_json.read_text())["jobs"]]
    plan = {
        name: {"slot": f"gpu{place % 2}", "start": STARTED + 20 * place, "end": STARTED + 20 * place + 18}
        for place, name in enumerate(jobs)
    }
    keep(study_dir, {"slots": ["gpu0", "gpu1"], "until": STARTED + 100, "jobs": {**plan, "gone-1": plan[jobs[0]]}})
    return study_dir


def keep(study_dir: StudyDir, packing: dict[str, Any]) -> None:
    study_dir.packing.write_text(json.dumps(packing))


def found(study_dir: StudyDir) -> Timeline:
    made = timeline(replace(collect(study_dir), gathered_at=STARTED + 118))
    assert made is not None
    return made


def test_attempts_and_their_ends(study: StudyDir) -> None:
    of = found(study)
    assert len(of.planned) == len(json.loads(study.plan_json.read_text())["jobs"]), "jobs of older plans are left out"
    endings = {ending: sum(bar.ending == ending for bar in of.happened) for ending in ("done", "failed", "running")}
    assert endings == {"done": 10, "failed": 2, "running": 1}
    failed = [bar for bar in of.happened if bar.ending == "failed"]
    assert [(bar.attempt, bar.end - bar.start) for bar in failed] == [(1, 4), (2, 3)]
    assert failed[0].title == "adapt, full, seed 2: failed after 4.0 s (oom)"
    assert of.now is not None
    assert "2 failed attempts; 1 started again; the budget is passed by" in of.text
    assert json.loads(json.dumps(of.as_json()))["until"] == STARTED + 100


def test_an_attempt_whose_launcher_was_killed_lasts_until_its_last_sign_of_life(study: StudyDir) -> None:
    journal = next(study.events.glob("*.jsonl"))
    lines = [line for line in journal.read_text().splitlines() if "job_finished" not in line]
    journal.write_text("\n".join(lines) + "\n")
    facts = collect(study)
    job = next(job for job in facts.jobs if job.status == "done")
    job.progress["t"] = STARTED + 3600.0
    facts = replace(facts, jobs=[job])
    bar = timeline(facts).happened[0]
    assert (bar.ending, bar.end) == ("done", STARTED + 3600.0), "its folder tells how it ended"
    gone = timeline(replace(facts, jobs=[replace(job, status="interrupted")])).happened[0]
    assert (gone.ending, gone.end) == ("lost", STARTED + 3600.0)
    begun = next(event for event in facts.events if event["event"] == "job_started" and event["job"] == job.id)
    last = begun["t"] + 7.0
    again = {**begun, "t": STARTED + 3590.0, "attempt": 2, "left": {"attempt": 1, "t": last}}
    lost, other = timeline(replace(facts, events=[*facts.events, again])).happened
    assert (lost.end, other.end) == (last, STARTED + 3600.0), "each has its own"
    assert (lost.ending, other.ending) == ("lost", "done")


@pytest.mark.parametrize(
    "packing", [{}, {"jobs": []}, {"jobs": {"x": 3}, "slots": 4, "until": "soon"}, {"slots": ["gpu0"], "jobs": {}}]
)
def test_a_plan_that_is_missing_or_broken_leaves_what_happened(study: StudyDir, packing: dict[str, Any]) -> None:
    keep(study, packing)
    of = found(study)
    assert not of.planned and of.until is None and len(of.happened) == 13


def test_nothing_planned_and_nothing_begun_is_no_picture(study: StudyDir) -> None:
    facts = replace(collect(study), packing={}, events=[])
    assert timeline(facts) is None
    assert 'id="timeline"' not in render_page(facts, make_headline(facts))


def test_the_picture_is_well_formed_and_marks_failures(study: StudyDir) -> None:
    svg = str(draw(found(study), COLOURS))
    root = ET.fromstring(svg)
    assert len(root.findall("rect[title]")) == len(found(study).planned) + 13
    assert root.find("path[@class='cross']").get("d").count("M") == 2
    assert root.find("path[@class='again']").get("d").count("M") == 1
    assert {text.text for text in root.findall("text")} >= {"gpu0", "gpu1", "budget", "now", "start"}
    page = render_page(collect(study), make_headline(collect(study)))
    assert 'href="#timeline"' in page and '<svg class="timeline"' in page


def test_names_cannot_break_out_of_the_picture() -> None:
    bar = Bar(job="j", slot='<b>"', start=0, end=9, ending="done", variants=("v",), title="</svg><script>")
    of = Timeline(planned=[], happened=[bar], planned_slots=[], slots=['<b>"'], until=None, now=None)
    svg = str(draw(of, {}))
    assert "<script" not in svg and "<b>" not in svg
    ET.fromstring(svg)


def test_a_thousand_jobs_stay_light_and_no_failure_is_lost() -> None:
    """Bars below two pixels become one block with their neighbours; what failed among them keeps its mark."""
    slots = [f"gpu{number}" for number in range(4)]
    bars = [
        Bar(job=f"j{n}", slot=slots[n % 4], start=n // 4, end=n // 4 + 1, ending="failed" if n == 501 else "done",
            variants=(f"v{n % 3}",), title=f"job {n}")
        for n in range(10_000)
    ]  # fmt: skip
    of = Timeline(planned=bars, happened=bars, planned_slots=slots, slots=slots, until=2600, now=None)
    svg = str(draw(of, {f"v{n}": f"c{n}" for n in range(3)}))
    assert len(svg) < 200_000
    assert 'class="cross"' in svg
    drawn = [float(x) for x in re.findall(r"M([\d.]+) [\d.]+h", svg)]
    assert len(drawn) < 4_000
