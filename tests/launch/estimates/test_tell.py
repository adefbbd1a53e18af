"""`plan --estimate` and what `run` says before it starts."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from two_stages import TWO_STAGES

from tunestudy.launch.estimates import probe, tell
from tunestudy.launch.estimates.outlook import make_outlook, outlook_lines
from tunestudy.launch.estimates.probe import probe_missing
from tunestudy.launch.estimates.tell import show_plan, tell_time
from tunestudy.launch.torchrun import Command
from tunestudy.records.atomic import write_json
from tunestudy.records.host import host_name
from tunestudy.records.layout import JobDir
from tunestudy.study.estimates.timing import speed_key
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import Plan, make_plan

pytestmark = pytest.mark.alone

STUDY = (
    TWO_STAGES
    + """\
variants:
  start: {stages: [base]}
  lora: {stages: [base, adapt]}
resources: {slots: 1}
"""
)


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedStudy:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return load_study(path)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Probes that take no time: each writes what a worker would, two seconds a step."""
    told: list[str] = []

    def command(folder: JobDir, ranks: int) -> list[str]:
        assert ranks == 1
        job = json.loads(folder.job_json.read_text())
        told.append(job["stage"])
        assert job["parents"] == []
        steps = job["settings"]["max_steps"]
        write_json(
            folder.root / "probe.json",
            {
                "setup_s": 1.0,
                "step_s": 2.0,
                "total_steps": steps,
                "evaluation_s": None,
                "evaluations": 1,
                "inside_s": 9e9,
            },
        )
        return ["true"]

    def command_for(_resources: object, base: Path, module: str) -> Command:
        assert module == "tunestudy.train.probe" and base.is_dir()
        return command

    monkeypatch.setattr(probe, "command_for", command_for)
    monkeypatch.setattr(tell, "foresee_missing", lambda *_: None)
    return told


def planned(loaded: LoadedStudy, tmp_path: Path) -> Plan:
    return make_plan(loaded, tmp_path / "results")


def text_of(lines: Sequence[str]) -> str:
    return "\n".join(lines)


def test_without_evidence_it_says_how_to_get_some(loaded: LoadedStudy, tmp_path: Path) -> None:
    lines = outlook_lines(make_outlook(planned(loaded, tmp_path)), "small.yaml")
    assert text_of(lines) == (
        "\nTime: unknown, nothing like it has run here; `tunestudy plan small.yaml --estimate` times a few steps"
    )


def test_probes_are_made_once_and_remembered(loaded: LoadedStudy, tmp_path: Path, probes: list[str]) -> None:
    plan = planned(loaded, tmp_path)
    assert probe_missing(plan, tmp_path) == []
    assert probes == ["base", "adapt"], "one for each stage, not for each seed"
    assert probe_missing(plan, tmp_path) == []
    assert len(probes) == 2
    assert sorted(path.suffix for path in (plan.folder.root / "cache").glob("probe-*")) == [".json", ".json"]
    outlook = make_outlook(plan)
    assert outlook.wall_s == 2 * (61 + 41)
    assert outlook.done_at == pytest.approx(time.time() + 204, abs=5)
    told = text_of(outlook_lines(outlook, "small.yaml"))
    assert "  start  2 min 02 s  (from timed steps)" in told
    assert "  lora   3 min 24 s  (from timed steps)" in told
    assert "together: 3 min 24 s left with jobs one at a time" in told
    assert "start of their processes" not in told, "that is in what was timed"
    seen = replace(outlook, experiments=[replace(one, evidence="from finished jobs") for one in outlook.experiments])
    assert "without the start of their processes" in text_of(outlook_lines(seen, "small.yaml"))


@pytest.mark.parametrize(("executor", "where"), [("ray", "the Ray cluster's machines"), ("local", "")])
def test_where_steps_were_timed_is_told_where_jobs_run_elsewhere(
    loaded: LoadedStudy, tmp_path: Path, probes: list[str], executor: str, where: str
) -> None:
    resources = loaded.study.resources.model_copy(update={"executor": executor})
    there = replace(loaded, study=loaded.study.model_copy(update={"resources": resources}))
    plan = planned(there, tmp_path)
    assert make_outlook(plan).as_json()["timed_on"] is None
    probe_missing(plan, tmp_path)
    outlook = make_outlook(plan)
    told = text_of(outlook_lines(outlook, "small.yaml"))
    assert outlook.timed_on == host_name() and probes
    assert (f"steps were timed on {host_name()}; jobs run on {where}, which" in told) is bool(where)


def test_json_holds_every_job(
    loaded: LoadedStudy, tmp_path: Path, probes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(loaded, tmp_path / "results", estimate=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert set(told["time"]["jobs"]) == {job["id"] for job in told["jobs"]}
    assert told["time"]["left_s"] == 204
    assert [one["variant"] for one in told["time"]["experiments"]] == ["start", "lora"]
    assert probes


def test_run_keeps_what_it_expected(
    loaded: LoadedStudy, tmp_path: Path, probes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(loaded, tmp_path)
    tell_time(plan, loaded, estimate=False, quiet=False)
    assert capsys.readouterr().out == "", "nothing known, nothing said"
    tell_time(plan, loaded, estimate=True, quiet=False)
    assert "together: 3 min 24 s left" in capsys.readouterr().out
    kept = json.loads(plan.folder.estimates.read_text())
    assert {entry["train_s"] for entry in kept.values()} == {61.0, 41.0}
    assert len(probes) == 2


def test_what_is_not_known_is_counted(loaded: LoadedStudy, tmp_path: Path, probes: list[str]) -> None:
    plan = planned(loaded, tmp_path)
    probe_missing(plan, tmp_path)
    job = next(p.job for p in plan.jobs if p.job.stage == "adapt")
    plan.folder.probe(speed_key(plan, job, ranks=1, host=host_name())).unlink()
    told = text_of(outlook_lines(make_outlook(plan), "small.yaml"))
    assert "  lora   ?  (from timed steps; nothing is known of 2 of its 4 jobs)" in told
    assert "together: unknown, 2 jobs have no evidence yet" in told
    assert probes


def test_two_that_time_the_same_at_once_do_not_take_each_other_s_folder(
    loaded: LoadedStudy, tmp_path: Path, probes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(loaded, tmp_path)
    quick = probe.command_for(plan.study.resources, tmp_path, "tunestudy.train.probe")

    def beside_another(folder: JobDir, ranks: int) -> list[str]:
        monkeypatch.setattr(probe, "command_for", lambda *_: quick)
        monkeypatch.setattr(probe, "writer_name", lambda: "another")
        assert probe_missing(plan, tmp_path) == []
        return quick(folder, ranks)

    monkeypatch.setattr(probe, "command_for", lambda *_: beside_another)
    assert probe_missing(plan, tmp_path) == []
    assert {path.suffix for path in (plan.folder.root / "cache").glob("probe-*")} == {".json"}


def test_a_probe_that_fails_is_told_and_leaves_nothing(
    loaded: LoadedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "echo 'ValueError: no such layer'; exit 3"
    monkeypatch.setattr(probe, "command_for", lambda *_: lambda *_: ["sh", "-c", script])
    plan = planned(loaded, tmp_path)
    failed = probe_missing(plan, tmp_path)
    told = text_of(outlook_lines(make_outlook(plan), "small.yaml"))
    assert told.startswith("\nTime: unknown")
    assert failed[0] == "base (start) could not be timed: ValueError: no such layer"
    assert len(failed) == 2
    assert list((plan.folder.root / "cache").glob("probe-*")) == []


@pytest.mark.slow
def test_a_real_probe(loaded: LoadedStudy, tmp_path: Path) -> None:
    plan = planned(loaded, tmp_path)
    assert probe_missing(plan, tmp_path) == []
    outlook = make_outlook(plan)
    assert outlook.wall_s is not None
    assert outlook.wall_s > 0
    assert {one.evidence for one in outlook.experiments} == {"from timed steps"}
    assert not plan.folder.jobs.exists()
