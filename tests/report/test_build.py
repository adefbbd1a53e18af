"""build_report end to end: files, exit codes, copied folders, secrets, text of strangers."""

import json
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from studies import Recipe, make_study

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.study import ReportSettings
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease
from tunestudy.report import build
from tunestudy.report.build import build_report
from tunestudy.report.compare import Headline
from tunestudy.report.facts import StudyFacts

FILES = {"index.html", "results.csv", "results.md", "results.tex"}


def written(study_dir: StudyDir) -> dict[str, str]:
    paths = [study_dir.experiment_md, *(path for path in study_dir.report.iterdir() if path.is_file())]
    return {path.name: path.read_text() for path in paths}


def test_all_forms_are_written_and_the_table_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_dir = make_study(tmp_path)
    assert build_report(study_dir) == Exit.DONE
    assert FILES | {"EXPERIMENT.md"} <= written(study_dir).keys()
    out = capsys.readouterr().out
    assert "lora_r16" in out and "0.951 ± 0.017" in out
    assert "cannot decide (smallest reachable p 0.75)" in out and "It could with 7 seeds" in " ".join(out.split())
    assert str(study_dir.report / "index.html") in out


def test_again_gives_the_same_but_for_the_time(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    build_report(study_dir)
    first = written(study_dir)
    build_report(study_dir)
    stamp = re.compile(r"Generated [0-9: UTC-]+")
    for name, text in written(study_dir).items():
        assert stamp.sub("", text) == stamp.sub("", first[name]), name


def test_broken_conditions_exit_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(report={"require": {"untrained.digits": "<= 0.15", "*.digits": ">= 0.93"}})
    assert build_report(make_study(tmp_path, recipe)) == Exit.JOBS_FAILED
    out = capsys.readouterr().out
    assert "lora_r4.digits should be >= 0.93, but is 0.900" in out and "untrained.digits" not in out


def test_another_baseline_than_the_run_had(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    build_report(study_dir, quiet=True, settings=ReportSettings(baseline="full"))
    rows = [line.split(",") for line in written(study_dir)["results.csv"].splitlines()]
    delta = {row[0]: row[rows[0].index("delta")] for row in rows[1:]}
    assert delta["full"] == "" and float(delta["untrained"]) < 0


def test_quiet_tells_what_was_not_met_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(report={"require": {"*.digits": ">= 0.93"}})
    assert build_report(make_study(tmp_path, recipe), quiet=True) == Exit.JOBS_FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith("not met: ") for line in lines)


def test_no_results_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such results folder"):
        build_report(StudyDir(tmp_path / "nowhere"))


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    study_dir.report.write_text("a file where the folder should be")
    with pytest.raises(StudyError, match="cannot be written") as caught:
        build_report(study_dir)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED


@pytest.mark.slow
def test_who_looked_earlier_does_not_write_over_what_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1, 2)))
    later = threading.Thread(target=build_report, args=(study_dir,), kwargs={"quiet": True})
    headline = build.make_headline

    def meanwhile(facts: StudyFacts) -> Headline:
        monkeypatch.undo()
        next(study_dir.jobs.glob("*/eval/digits.json")).unlink()
        later.start()
        later.join(0.5)
        return headline(facts)

    monkeypatch.setattr(build, "make_headline", meanwhile)
    build_report(study_dir, quiet=True)
    later.join(60)
    left = written(study_dir)["results.csv"]
    build_report(study_dir, quiet=True)
    assert written(study_dir)["results.csv"] == left


def test_a_report_that_another_process_goes_on_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    monkeypatch.setattr(build, "_UNTOLD_S", 0.0)
    monkeypatch.setattr(build, "_WAIT_S", 0.0)
    with (
        Lease.acquire(study_dir.leases / "report"),
        pytest.raises(StudyError, match=f"process {os.getpid()} .* is writing the report; when that is done") as caught,
    ):
        build_report(study_dir)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED


def test_who_waits_for_another_s_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    monkeypatch.setattr(build, "_UNTOLD_S", 0.05)
    other = Lease.acquire(study_dir.leases / "report")
    threading.Timer(0.3, other.release).start()
    assert build_report(study_dir, quiet=True) == Exit.DONE
    assert "is writing the report; waiting for it …" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [(), ("plan.json",), ("plan.json", "resolved.yaml")])
def test_a_study_that_has_not_begun(tmp_path: Path, kept: tuple[str, ...]) -> None:
    study_dir = make_study(tmp_path)
    for path in study_dir.root.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert build_report(study_dir) == Exit.DONE
    page = (study_dir.report / "index.html").read_text()
    assert ("Not started: 12 jobs planned." if kept else "Nothing has been planned yet.") in page


def test_jobs_without_evaluations_and_without_logs(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    for path in [
        *study_dir.jobs.glob("*/eval/*"),
        *study_dir.jobs.glob("*/*.csv"),
        *study_dir.jobs.glob("*/data.json"),
    ]:
        path.unlink()
    assert build_report(study_dir) == Exit.DONE
    page = (study_dir.report / "index.html").read_text()
    assert "no result yet" in page and "No step has been logged yet." in page


def test_a_copied_folder_gives_the_same_report(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path / "here")
    copy = StudyDir(tmp_path / "elsewhere" / "renamed")
    shutil.copytree(study_dir.root, copy.root)
    build_report(study_dir)
    build_report(copy)
    for name in ("results.csv", "results.md", "results.tex"):
        assert (copy.report / name).read_bytes() == (study_dir.report / name).read_bytes()
    assert str(tmp_path) not in (copy.report / "index.html").read_text()


def test_secrets_appear_in_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in the host's name, the git remote, an exception's text, descriptions, and this process's environment."""
    token, password, value = "hf_" + "q" * 30, "pa55" + "w" * 8, 'se<cr>"et&' + "z" * 8
    monkeypatch.setenv("LAB_API_KEY", value)
    recipe = Recipe(
        host=f"node-{token}",
        remote=f"https://ana:{password}@example.org/x.git",
        message=f"401 for {token} with {value}",
        description=f"uses {token}",
        descriptions={"full": f"key {value}"},
        failed=(("full", 2),),
    )
    study_dir = make_study(tmp_path, recipe)
    study_dir.study_yaml.write_text(f"study: x\n# {token} {value}\n")
    study_dir.experiment_md.write_text(f"<!-- notes:purpose -->\n{token}\n<!-- /notes:purpose -->\n")
    build_report(study_dir)
    for name, text in written(study_dir).items():
        for secret in (token, password, value, "z" * 8):
            assert secret not in text, name
    assert "[hidden]" in written(study_dir)["index.html"]


def test_strangers_text_cannot_become_markup(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)><!--"
    recipe = Recipe(
        accuracy={"base": 0.1, evil: 0.9, "'\"><svg onload=alert(2)>": 0.8},
        description=evil, descriptions={"base": evil}, message=evil, failed=((evil, 2),), host=evil,
        benchmarks=("b<script>alert(3)<!--",), overlap=2,
    )  # fmt: skip
    study_dir = make_study(tmp_path, recipe)
    build_report(study_dir)
    page = (study_dir.report / "index.html").read_text()
    assert "<img" not in page and "<svg onload" not in page and "<script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 3
    data = re.search(r'id="curve-data">(.*?)</script>', page, re.DOTALL)
    assert data is not None and "<" not in data[1]
    labels = {line["label"] for line in json.loads(data[1])["views"]["last"]["train_loss"]}
    assert evil in labels
    document = re.sub(r"^(`{3,}).*?^\1$", "", study_dir.experiment_md.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert "<img" not in re.sub(r"`[^`]*`", "", document).replace(r"\<img", "")


def test_notes_survive_the_next_report(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    build_report(study_dir)
    text = study_dir.experiment_md.read_text()
    place = "<!-- notes:observations -->\n"
    head, tail = text.split(place)
    mine = "Ana: seed 2 looks odd."
    study_dir.experiment_md.write_text(head + place + mine + tail[tail.index("\n<!-- /notes") :])
    (study_dir.root / "resolved.yaml").unlink()
    build_report(study_dir)
    after = study_dir.experiment_md.read_text()
    assert after.count(mine) == 1 and after.index(place) < after.index(mine)


def test_experiment_has_every_section_of_the_log(finished: StudyDir, half: StudyDir) -> None:
    done, open_ = finished.experiment_md.read_text(), half.experiment_md.read_text()
    for heading in (
        "## 1. Environment", "### Git state", "## 2. Configuration", "## 3. Execution plan", "### Readiness",
        "## 4. Training progress", "### Key checkpoints", "### GPU use", "## 5. Issues and resolutions",
        "## 6. Outputs", "## 7. Summary", "### Did it succeed?", "### Observations", "### Next",
    ):  # fmt: skip
        assert heading in done and heading in open_, heading
    assert "- Status: finished (12 of 12 jobs done)" in done and "Yes: 12 of 12 jobs done" in done
    assert "NVIDIA H200" in done and "a1cd4be00000" in done and "uncommitted changes" in done
    assert r"solved: done at attempt 2 (per\_device\_train\_batch\_size is 4 in place of 8) | `jobs/" in done
    assert "oom: CUDA out of memory" in done
    assert re.search(r"\| full \| adapt \| 1 \| 200 \| [0-9.]+ \| [0-9.]+ \| digits 0\.\d+ \| `checkpoint-200`", done)
    assert "Not fully: 7 of 12 jobs done, 1 failed" in open_ and "tunestudy run" in open_


def test_the_report_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, tunestudy.report.build; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
