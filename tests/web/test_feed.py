"""What the page is told: all of it once, then what changed; whatever happens to the files."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import HELD

from tunestudy.config.job import Job
from tunestudy.records.follow import last_lines
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.manifest import seal
from tunestudy.report.collect import collect
from tunestudy.report.timeline import timeline
from tunestudy.study.state import job_status
from tunestudy.web import feed as feeding
from tunestudy.web import sections
from tunestudy.web.board import Board


def states(told: dict[str, Any]) -> dict[str, str]:
    """By job id; those that are not named wait."""
    named = {job["i"]: job["s"] for job in told["jobs"]}
    return {planned[0]: named.get(place, "pending") for place, planned in enumerate(told["plan"]["jobs"])}


def folder_of(half: StudyDir, told: dict[str, Any], state: str) -> JobDir:
    return half.job(next(job for job, its in states(told).items() if its == state))


def test_states_are_those_of_status(half: StudyDir, served: Callable[..., Any]) -> None:
    told = served(half.root).get("/data").json()
    for name, state in states(told).items():
        folder = half.job(name)
        if folder.job_json.exists():
            assert state == job_status(folder, Job.model_validate_json(folder.job_json.read_text())), name
        else:
            assert state == "pending"
    assert told["counts"] == {"done": 7, "running": 1, "failed": 1, "evaluate": 1, "pending": 2}
    assert told["outlook"]["left_s"] > 41, "the running job tells 41 s; others wait for it"


def test_only_what_changed_is_told_again(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    first = client.get("/data").json()
    again = client.get(f"/data?since={first['version']}").json()
    assert again["jobs"] == [] and "plan" not in again and "counts" not in again and "alerts" not in again
    folder = folder_of(half, first, "running")
    progress = json.loads(folder.progress_json.read_text())
    folder.progress_json.write_text(json.dumps({**progress, "step": 123}))
    later = client.get(f"/data?since={again['version']}").json()
    assert [job["step"] for job in later["jobs"]] == [123]
    assert client.get(f"/data?since={again['version']}").json()["jobs"] == later["jobs"], "another reader is not late"
    assert "plan" in client.get("/data?since=00000000-1-00000000-99").json(), "of another start of the server"
    assert "plan" in client.get("/data?since=x").json()


def test_a_job_that_fails_blocks_what_needs_it(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    first = client.get("/data").json()
    base = next(name for name, *_ in first["plan"]["jobs"] if name.startswith("base") and states(first)[name] == "done")
    (half.job(base).root / "result.json").unlink()
    half.job(base).failure_json.write_text('{"kind": "oom", "message": "out of memory"}')
    told = client.get(f"/data?since={first['version']}").json()
    failed = next(job for job in told["jobs"] if job["s"] == "failed")
    assert (failed["kind"], failed["error"]) == ("oom", "out of memory")
    needing = {entry["id"] for entry in json.loads(half.plan_json.read_text())["jobs"] if base in entry["parents"]}
    after = states(client.get("/data").json())
    assert {after[name] for name in needing if states(first)[name] == "pending"} <= {"blocked"}


@pytest.mark.parametrize("damage", ["torn progress", "torn result", "torn plan", "cleaned", "moved", "gone"])
def test_the_page_goes_on_whatever_happens_to_the_files(
    half: StudyDir, served: Callable[..., Any], damage: str
) -> None:
    client = served(half.root)
    first = client.get("/data").json()
    folder = folder_of(half, first, "running" if damage == "torn progress" else "done")
    if damage == "torn progress":
        folder.progress_json.write_text('{"step": 1')
    elif damage == "torn result":
        folder.result_json.write_text('{"fingerpr')
    elif damage == "torn plan":
        half.plan_json.write_text('{"jobs": [{"id"')
    elif damage == "cleaned":
        shutil.rmtree(folder.root)
    else:
        half.root.rename(half.root.with_name("elsewhere")) if damage == "moved" else shutil.rmtree(half.root)
    told = client.get("/data").json()
    if damage in ("torn plan", "moved", "gone"):
        assert told["plan"]["jobs"] == [] and told["problem"]
    else:
        assert len(told["plan"]["jobs"]) == 12
        assert states(told)[folder.root.name] != "done"
    assert client.get("/curves").status_code == 200
    assert client.get(f"/job?id={folder.root.name}").status_code in (200, 404)
    if damage == "moved":
        half.root.with_name("elsewhere").rename(half.root)
        assert len(client.get("/data").json()["plan"]["jobs"]) == 12, "it came back"


def test_before_the_first_run_it_says_so(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root.with_name("not-there-yet"))
    assert client.get("/").status_code == 200
    assert "nothing has run yet" in client.get("/data").json()["problem"]
    assert client.get("/curves").json()["views"] == {
        "last": {key: [] for key in client.get("/curves").json()["views"]["last"]}
    }


def test_alerts_and_attempts_come_from_the_journal(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    first = client.get("/data").json()
    assert first["alerts"] == []
    slots = first["timeline"]["slots"]
    assert [slot["name"] for slot in slots] == ["gpu:0"]
    assert sum(bar[3] if isinstance(bar[3], int) else 1 for bar in slots[0]["bars"]) == 11
    line = {"t": time.time(), "event": "alert", "job": "adapt-1", "kind": "nan", "message": "the loss is NaN"}
    text = json.dumps(line)
    with open(half.events / "watcher.jsonl", "w") as file:
        file.write(text[:20])
        file.flush()
        assert client.get("/data").json()["alerts"] == [], "half a line is none"
        file.write(text[20:] + "\n")
    told = client.get(f"/data?since={first['version']}").json()
    assert told["alerts"] == [{key: line[key] for key in ("t", "job", "kind", "message")}]


def test_a_log_goes_on_where_it_ended(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    folder = folder_of(half, client.get("/data").json(), "running")
    folder.logs.mkdir()
    log = folder.rank_log(0)
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    ask = f"/log?id={folder.root.name}&name=rank-0.log"
    end = client.get(ask).json()
    assert end["text"].endswith("line 19999\n") and len(end["text"]) <= 65536
    assert end["text"].startswith("line "), "a line that was cut in half is left out"
    assert client.get(f"{ask}&from={end['next']}").json() == {"text": "", "next": end["next"]}
    with open(log, "a") as file:
        file.write("more\nand ha")
    more = client.get(f"{ask}&from={end['next']}").json()
    assert more["text"] == "more\n"
    log.write_text("begun anew\n")
    assert client.get(f"{ask}&from={more['next']}").json()["text"] == "begun anew\n"
    assert client.get(f"{ask}&from=-5").status_code == client.get(f"{ask}&from=1e99").status_code == 200


def test_a_log_goes_on_after_a_line_that_is_too_long(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("short\n" + 1000 * "x")
    assert last_lines(log, 100, start=6) == ("", 6), "its end is not written yet"
    with open(log, "a") as file:
        file.write("\nnext\nhal")
    assert last_lines(log, 100, start=6) == ("", 1007)
    assert last_lines(log, 100, start=1007) == ("next\n", 1012)


def test_a_log_that_ends_inside_of_a_long_line_never_tells_half_of_it(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("short\n" + 1000 * "x")
    text, following = last_lines(log, 100)
    assert text == ""
    with open(log, "a") as file:
        file.write("half of a token\nnext\n")
    text, following = last_lines(log, 100, start=following)
    assert text == ""
    assert last_lines(log, 100, start=following)[0] == "next\n"
    log.write_text("".join(f"\r{number} %" for number in range(100)))
    assert last_lines(log, 100)[0].startswith("8"), "a bar's states end in carriage returns"


def test_an_attempt_that_outlived_its_launcher_ends_on_the_page(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    first = client.get("/data").json()
    folder = folder_of(half, first, "running")
    job = json.loads(folder.job_json.read_text())
    folder.eval.mkdir(exist_ok=True)
    for name, wanted in job["evaluations"].items():
        folder.eval_json(name).write_text(json.dumps({"fingerprint": wanted["fingerprint"]}))
    folder.result_json.write_text(json.dumps({"fingerprint": job["fingerprint"]}))
    HELD.pop().release()
    told = client.get(f"/data?since={first['version']}").json()
    assert "running" not in told["counts"] and states(client.get("/data").json())[folder.root.name] == "done"
    bars = [bar for slot in told["timeline"]["slots"] for bar in slot["bars"]]
    assert {outcome for _, _, outcome, _ in bars} == {"done", "failed"}
    assert max(end for _, end, _, _ in bars) == pytest.approx(told["now"], abs=60), "its folder changed just now"
    *_, (_, _, _, end, outcome) = client.get(f"/job?id={folder.root.name}").json()["spans"]
    assert (end, outcome) == (pytest.approx(told["now"], abs=60), "done"), "as the bar says"
    folder.eval_json(next(iter(job["evaluations"]))).unlink()
    folder.result_json.unlink()
    bars = [bar for slot in client.get("/data").json()["timeline"]["slots"] for bar in slot["bars"]]
    assert any(outcome == "lost" and start == end for start, end, outcome, _ in bars), "the report's word"


def test_a_job_is_told_in_full(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    folder = folder_of(half, client.get("/data").json(), "failed")
    told = client.get(f"/job?id={folder.root.name}").json()
    assert told["state"] == "failed" and told["variants"] == ["full"]
    assert told["failure"]["message"] == "CUDA out of memory. Tried to allocate 1.2 GiB"
    assert [(attempt, outcome) for attempt, _, _, _, outcome in told["spans"]] == [(1, "failed"), (2, "failed")]
    assert told["settings"]["max_steps"] == "200"
    assert told["provenance"]["code"].startswith("a1cd4be") and "torch 2.13.0" in told["provenance"]["packages"]


def test_of_many_jobs_a_page_that_opens_is_told_what_is_known(half: StudyDir, served, monkeypatch) -> None:
    monkeypatch.setattr(feeding, "MANY", 1)
    client = served(half.root)
    first = client.get("/data").json()
    assert first["stale"] is False and first["counts"]["running"] == 1, "nothing was known: it looks"
    folder = folder_of(half, first, "running")
    progress = json.loads(folder.progress_json.read_text())
    folder.progress_json.write_text(json.dumps({**progress, "step": 123}))
    with monkeypatch.context() as blind:
        blind.setattr(Board, "refresh", lambda _: pytest.fail("it looked"))
        opened = client.get("/data").json()
        assert client.get("/").status_code == 200
    assert opened["stale"] is True and opened["counts"] == first["counts"] and opened["now"] == first["now"]
    then = client.get(f"/data?since={opened['version']}").json()
    assert then["stale"] is False and [job["step"] for job in then["jobs"]] == [123] and then["now"] > opened["now"]


def test_what_ran_where_stands_on_the_page_once(half: StudyDir) -> None:
    assert timeline(collect(half)) is not None
    told = sections.make(half.root)
    assert 'id="timeline"' not in told.html and 'id="cost"' in told.html


def test_a_checkpoint_without_its_score_is_not_done(half: StudyDir, served: Callable[..., Any]) -> None:
    first = served(half.root).get("/data").json()
    folder = folder_of(half, first, "done")
    told = json.loads(folder.job_json.read_text())
    name, wanted = next(iter(told["evaluations"].items()))
    wanted["benchmark"]["checkpoints"] = [4]
    folder.job_json.write_text(json.dumps(told))
    for step in (2, 4):
        prepared = folder.root / f"prepared-{step}"
        prepared.mkdir()
        seal(prepared, folder.checkpoint(step), {"step": step})
    job = Job.model_validate(told)

    def state() -> str:
        now = states(served(half.root).get("/data").json())[folder.root.name]
        assert now == job_status(folder, job)
        return now

    assert state() == "evaluate"
    score = folder.at_checkpoint("checkpoint-4").eval_json(name)
    score.parent.mkdir()
    score.write_text(json.dumps({"fingerprint": wanted["fingerprint"]}))
    assert state() == "done"
