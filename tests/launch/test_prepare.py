"""A plan on disk: complete, repeatable, and all or nothing per file."""

import errno
import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.launch import prepare as prepare_module
from tunestudy.launch.prepare import prepare
from tunestudy.records.atomic import point_to, pointed_to, read_json
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

SOURCE = b"""\
# a comment of the user's, and   odd spacing
study: tiny
seeds: [1, 2]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}}
datasets: {digits: {type: digits, held_out: 0.1}}
benchmarks: {score: {type: exact_match, dataset: digits@held_out}}
defaults: {learning_rate: 1.0e-3, max_steps: 2, effective_batch_size: 2}
stages: {base: {data: digits}, adapt: {data: digits}}
variants: {untrained: {stages: []}, short: {stages: [base]}, long: {stages: [base, adapt]}}
"""


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Study, list[Job], dict, StudyDir]:
    file = tmp_path / "study.yaml"
    file.write_bytes(SOURCE)
    plan = make_plan(load_study(file), tmp_path / "results")
    return plan.study, [planned.job for planned in plan.jobs], plan.as_json(), plan.folder


def tree(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_everything_is_there(parts):
    study, jobs, plan, folder = parts
    prepare(study, SOURCE, jobs, plan, folder)
    assert folder.study_yaml.read_bytes() == SOURCE
    resolved = YAML(typ="safe").load(folder.resolved_yaml)
    assert Study.model_validate(resolved) == study
    assert [job["id"] for job in read_json(folder.plan_json)["jobs"]] == [job.id for job in jobs]
    for job in jobs:
        assert Job.model_validate(read_json(folder.job(job.id).job_json)).fingerprint == job.fingerprint
    base = pointed_to(folder.trial("short", 2, "base"))
    assert base and base.samefile(pointed_to(folder.trial("long", 2, "base")))
    assert os.readlink(folder.trial("long", 1, "adapt")).startswith("../../../jobs/")
    assert len(list(folder.trials.glob("*/seed_*/*"))) == 2 * (1 + 1 + 2)


def test_again_changes_nothing(parts):
    study, jobs, plan, folder = parts
    prepare(study, SOURCE, jobs, plan, folder)
    before = {path: path.lstat().st_mtime_ns for path in folder.root.rglob("*")}
    prepare(study, SOURCE, jobs, plan, folder)
    assert {path: path.lstat().st_mtime_ns for path in folder.root.rglob("*")} == before


def test_links_of_earlier_plans_go_and_text_files_serve_where_there_are_no_links(parts, monkeypatch):
    study, jobs, plan, folder = parts
    monkeypatch.setattr(os, "symlink", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    prepare(study, SOURCE, jobs, plan, folder)
    link = folder.trial("long", 1, "adapt")
    assert not link.is_symlink() and pointed_to(link)
    prepare(study, SOURCE, [job for job in jobs if job.variants != ("long",)], plan, folder)
    assert not link.exists() and folder.trial("short", 1, "base").exists()
    assert not (folder.trials / "long" / "seed_1" / "adapt").exists()


def test_two_launchers_at_once_do_not_take_each_other_s_links(parts, monkeypatch):
    study, jobs, plan, folder = parts
    symlink = os.symlink

    def the_other_is_faster(target: str, link: Path) -> None:
        monkeypatch.undo()
        symlink(target, link)
        prepare(study, SOURCE, jobs, plan, folder)
        assert link.is_symlink()

    monkeypatch.setattr(os, "symlink", the_other_is_faster)
    prepare(study, SOURCE, jobs, plan, folder)
    assert len(list(folder.trials.glob("*/seed_*/*"))) == 2 * (1 + 1 + 2)


def test_a_launcher_with_another_file_removes_the_folder_that_was_just_made(parts, monkeypatch):
    study, jobs, plan, folder = parts

    def gone(link: Path, target: str) -> None:
        monkeypatch.undo()
        link.parent.rmdir()
        link.parent.parent.rmdir()
        point_to(link, target)

    monkeypatch.setattr(prepare_module, "point_to", gone)
    prepare(study, SOURCE, jobs, plan, folder)
    assert len(list(folder.trials.glob("*/seed_*/*"))) == 2 * (1 + 1 + 2)


def test_a_folder_that_clean_removes_before_its_job_is_written_is_made_again(parts, monkeypatch):
    study, jobs, plan, folder = parts
    write = Path.write_bytes

    def gone(path: Path, data: bytes) -> int:
        monkeypatch.undo()
        path.parent.rmdir()
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", gone)
    prepare(study, SOURCE, jobs, plan, folder)
    assert all(folder.job(job.id).job_json.is_file() for job in jobs)


def test_a_link_that_another_launcher_removes_while_it_is_looked_at_is_made_anew(parts, monkeypatch):
    study, jobs, plan, folder = parts
    prepare(study, SOURCE, jobs, plan, folder)
    readlink = os.readlink

    def gone(link: Path) -> str:
        monkeypatch.undo()
        link.unlink()
        return readlink(link)

    monkeypatch.setattr(os, "readlink", gone)
    prepare(study, SOURCE, jobs, plan, folder)
    links = list(folder.trials.glob("*/seed_*/*"))
    assert len(links) == 2 * (1 + 1 + 2) and all(link.is_symlink() for link in links)


def test_a_link_in_a_folder_that_is_gone_becomes_no_text_file(parts, monkeypatch):
    study, jobs, plan, folder = parts
    symlink = os.symlink

    def gone(target: str, link: Path) -> None:
        monkeypatch.undo()
        link.parent.rmdir()
        symlink(target, link)

    monkeypatch.setattr(os, "symlink", gone)
    prepare(study, SOURCE, jobs, plan, folder)
    assert all(link.is_symlink() for link in folder.trials.glob("*/seed_*/*"))


@pytest.mark.parametrize("nth", [1, 2, 7])
def test_no_space_left_writes_nothing_half(parts, monkeypatch, nth):
    study, jobs, plan, folder = parts
    write, calls = Path.write_bytes, 0

    def until_full(path: Path, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls >= nth:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    with pytest.raises(StudyError, match=r"written: [\w./-]+\.(json|yaml): No space left on device; choose") as caught:
        prepare(study, SOURCE, jobs, plan, folder)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    monkeypatch.undo()
    interrupted = tree(folder.root)
    assert len([name for name in interrupted if not name.startswith("trials")]) == nth - 1
    prepare(study, SOURCE, jobs, plan, folder)
    assert {name: tree(folder.root)[name] for name in interrupted} == interrupted


def test_a_file_in_the_way(parts):
    study, jobs, plan, folder = parts
    folder.root.parent.mkdir()
    folder.root.write_text("not a folder")
    with pytest.raises(StudyError) as caught:
        prepare(study, SOURCE, jobs, plan, folder)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED and "--results" in str(caught.value)
