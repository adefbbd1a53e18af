"""Live curves are the report's where nothing had to be thinned."""

from collections.abc import Callable
from typing import Any

import pytest

from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect
from tunestudy.report.curves import as_json, make_views
from tunestudy.web import curves


def lines(told: dict[str, Any], view: str, chart: str) -> dict[str, Any]:
    return {line["label"]: line for line in told["views"][view][chart]}


def test_they_are_the_reports(half: StudyDir, served: Callable[..., Any]) -> None:
    told = served(half.root).get("/curves?view=stage:adapt").json()
    facts = collect(half)
    expected: Any = as_json(make_views(facts))
    for chart in ("train_loss", "eval_loss", "learning_rate", "grad_norm"):
        mine, theirs = lines(told, "stage:adapt", chart), lines(expected, "stage:adapt", chart)
        assert mine.keys() == theirs.keys() == {"full", "lora_r4", "lora_r16"}
        for label, line in theirs.items():
            assert {key: mine[label][key] for key in ("x", "mean", "low", "high")} == {
                key: line[key] for key in ("x", "mean", "low", "high")
            }
            assert mine[label]["seeds"] == line["seeds"]


def test_stages_stand_one_after_the_other(half: StudyDir, served: Callable[..., Any]) -> None:
    told = served(half.root).get("/curves").json()
    assert told["view"] == "trial" and [key for key, _ in told["choices"]] == [
        "trial",
        "last",
        "stage:base",
        "stage:adapt",
    ]
    assert told["boundaries"] == [{"x": 300.0, "label": "adapt"}]
    full = lines(told, "trial", "train_loss")["full"]
    assert [seed["x"][-1] for seed in full["seeds"]] == [500.0, 390.0, 500.0]
    assert lines(told, "trial", "train_loss")["untrained"]["x"][-1] == 300.0


def test_only_what_was_chosen_is_drawn_and_nothing_is_sent_twice(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    first = client.get("/curves?variant=lora_r4&variant=no-such&view=no-such")
    assert first.json()["shown"] == ["lora_r4"] and first.json()["view"] == "trial"
    ask = {"If-None-Match": first.headers["etag"]}
    assert client.get("/curves?variant=lora_r4&variant=no-such&view=no-such", headers=ask).status_code == 304
    job = next(path for path in sorted(half.jobs.iterdir()) if path.name.startswith("base"))
    with open(job / "loss_log.csv", "a") as file:
        file.write("7.0,310,0.125,0.0,412.0,,0.4,1,1,1.0\n")
    grown = client.get("/curves?variant=lora_r4&variant=no-such&view=no-such", headers=ask)
    assert grown.status_code == 200
    seeds = lines(grown.json(), "trial", "train_loss")["lora_r4"]["seeds"]
    assert any(310.0 in seed["x"] for seed in seeds)


def test_logs_that_wait_for_their_turn_are_left_to_read(
    half: StudyDir, served: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served(half.root)
    jobs = [job for job, *_ in client.get("/data").json()["plan"]["jobs"] if job.startswith("base")]
    sizes = [(half.job(job).root / "loss_log.csv").stat().st_size for job in jobs]
    monkeypatch.setattr(curves, "READ_BYTES", sizes[0])
    asked = "/curves?view=stage:base&variant=untrained"
    assert client.get(asked).json()["left"] > sum(sizes[1:]), "logs that were not looked at yet count, too"
    while client.get(asked).json()["left"]:
        pass
    told = client.get(asked).json()
    assert [len(line["seeds"]) for line in told["views"]["stage:base"]["train_loss"]] == [3]
