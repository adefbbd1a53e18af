"""What `clean` finds and deletes, and above all what it never touches."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.launch.prepare import prepare
from tunestudy.records.atomic import point_to, write_json
from tunestudy.records.launchers import present
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease
from tunestudy.study.clean import clean_lines
from tunestudy.study.load import load_study
from tunestudy.study.unused import LITTER_AGE_S, Unused

Folder = Any
Clean = Callable[..., str]


def old(path: Path) -> Path:
    """As if it had been left there hours ago."""
    for one in (path, *(path.rglob("*") if path.is_dir() else ())):
        os.utime(one, (time.time() - 2 * LITTER_AGE_S,) * 2)
    return path


def written(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def study(folder: Folder) -> StudyDir:
    """Every job finished, each with five checkpoints, and one tokenised data set that all of them use."""
    plan = folder.plan()
    study = StudyDir(folder.results / "digits")
    prepare(plan.study, folder.path.read_bytes(), [one.job for one in plan.jobs], plan.as_json(), study)
    for planned in plan.jobs:
        finish(study, planned.job)
    written(study.data_cache / ("a" * 32) / "ids.bin")
    return study


def finish(study: StudyDir, job: Job) -> None:
    place = study.job(job.id)
    write_json(place.result_json, {"fingerprint": job.fingerprint})
    write_json(place.data_report, {"cache": "a" * 32})
    for name, evaluation in job.evaluations.items():
        write_json(place.eval_json(name), {"fingerprint": evaluation.fingerprint})
    for step in range(1, 6):
        facts = {"step": step, "kind": "full", "metrics": {"eval_loss": abs(step - 2)}, "files": {}}
        written(place.checkpoint(step) / "MANIFEST.json", json.dumps(facts))
    point_to(place.last, "checkpoint-5")
    point_to(place.best, "checkpoint-2")


@pytest.fixture
def clean(folder: Folder, study: StudyDir) -> Clean:
    def run(*overrides: str, delete: bool = True, **kinds: bool) -> str:
        return "\n".join(
            clean_lines(folder.load(folder.path.read_text(), *overrides), folder.results, delete=delete, **kinds)
        )

    return run


def first_job(study: StudyDir) -> Any:
    return study.job(sorted(path.name for path in study.jobs.iterdir() if path.name.startswith("base-"))[0])


def names(folder: Any) -> set[str]:
    return {path.name for path in folder.root.glob("checkpoint-*")}


def test_superseded_checkpoints_are_listed_and_go_when_asked_for(study, clean):
    job = first_job(study)
    assert "clean --yes --checkpoints" in clean(delete=False, checkpoints=True)
    clean()
    assert len(names(job)) == 5, "--yes alone deletes orphans only"
    assert "deleted" in clean(checkpoints=True)
    assert names(job) == {"checkpoint-2", "checkpoint-5"}, "the last and the best stay"
    assert "checkpoints" not in clean(checkpoints=True)


def test_a_checkpoint_that_another_job_starts_from_stays(study, clean):
    job = first_job(study)
    write_json(job.job_json, {**json.loads(job.job_json.read_text()), "keep_checkpoints": ["checkpoint-3"]})
    clean(checkpoints=True)
    assert names(job) == {"checkpoint-2", "checkpoint-3", "checkpoint-5"}


def test_a_checkpoint_that_the_study_names_by_its_path_stays(folder, study, clean):
    job = first_job(study)
    inside = os.path.relpath(job.checkpoint(4), folder.root)
    text = folder.path.read_text().replace("study: digits", f"study: digits\nenv: {{START: ./{inside}}}")
    folder.write(text)
    clean(checkpoints=True)
    assert names(job) == {"checkpoint-2", "checkpoint-4", "checkpoint-5"}


def test_nothing_of_a_running_job_or_of_what_it_reads_is_deleted(folder, study, clean):
    jobs = [path.name for path in study.jobs.iterdir()]
    adapt = study.job(next(name for name in jobs if name.startswith("adapt-")))
    parent = study.job(json.loads(adapt.job_json.read_text())["parents"][-1])
    litter = old(written(adapt.root / ".tmp-checkpoint-6" / "part"))
    with Lease.acquire(adapt.claim):
        told = clean(checkpoints=True, leftovers=True, caches=True)
        assert "caches are left alone" in told
        folder.write(folder.path.read_text().replace("seeds: [1, 2, 3]", "seeds: [9]"))  # every job is an orphan
        orphans = clean()
    assert f"{adapt.root.name}  " in orphans and "still running, kept" in orphans
    assert len(names(adapt)) == len(names(parent)) == 5 and litter.exists()
    assert {path.name for path in study.jobs.iterdir()} == {adapt.root.name, parent.root.name}


def test_a_lease_taken_in_the_last_moment_keeps_its_job(folder, study, clean, monkeypatch):
    from tunestudy.study import unused

    job = first_job(study)
    with Lease.acquire(job.claim):
        monkeypatch.setattr(unused, "is_running", lambda folder: False)
        folder.write(folder.path.read_text().replace("seeds: [1, 2, 3]", "seeds: [9]"))
        told = clean()
    assert f"{job.root.name}  " in told and "in use, kept" in told and job.root.is_dir()


def test_jobs_that_the_file_has_stay_whatever_is_typed_beside_it(study, clean):
    """A sweep by the command line, cleaned up setting by setting, must not cost the jobs of the file itself."""
    unused = study.job("base-0123456789ab")
    written(unused.result_json)
    before = {path.name for path in study.jobs.iterdir()}
    told = clean("seeds=[9]")
    assert before - {path.name for path in study.jobs.iterdir()} == {unused.root.name}, "and the orphan goes"
    assert told.count("in the study file, which has other settings than were typed, kept") == len(before) - 1
    assert clean("seeds=[9]", delete=False).endswith("0 B in all; `clean --yes` deletes them")


def test_caches_that_the_file_needs_stay_whatever_is_typed_beside_it(study, clean):
    for name in (path.name for path in study.jobs.iterdir()):
        write_json(study.job(name).data_report, {"cache": ("a" if name.startswith("base-") else "b") * 32})
    cache = written(study.data_cache / ("b" * 32) / "ids.bin").parent
    clean("variants={one: {stages: [base]}}", caches=True)
    assert cache.is_dir()


def test_a_file_that_is_wrong_without_what_is_typed_is_told(folder, study):
    folder.write(folder.path.read_text().replace("seeds: [1, 2, 3]", "seeds: many"))
    with pytest.raises(StudyError, match=r"without seeds=\[9\] the file is wrong, and `clean` keeps") as caught:
        clean_lines(load_study(folder.path, ["seeds=[9]"]), folder.results, delete=True)
    assert caught.value.place.line == 2
    assert first_job(study).root.is_dir()


def test_caches_go_when_no_job_reads_them(study, clean):
    unused, used = study.data_cache / ("b" * 32), study.data_cache / ("a" * 32)
    written(unused / "ids.bin")
    column = written(study.column_cache / f"{'b' * 16}-{'c' * 16}" / "values").parent
    used_column = written(study.column_cache / f"{'a' * 16}-{'c' * 16}" / "values").parent
    fetched = written(study.fetch / ("d" * 16) / "shard-00000.jsonl").parent
    clean()
    assert unused.exists() and column.exists()
    clean(caches=True)
    assert not unused.exists() and not column.exists() and not fetched.exists()
    assert used.exists() and used_column.exists()


def test_caches_stay_while_a_job_has_not_begun(study, clean):
    unused = written(study.data_cache / ("b" * 32) / "ids.bin")
    first_job(study).data_report.unlink()
    clean(caches=True)
    assert unused.exists()


def test_caches_stay_while_someone_fetches(study, clean):
    unused = written(study.data_cache / ("b" * 32) / "ids.bin")
    with Lease.acquire(study.leases / "fetch-0123"):
        clean(caches=True)
    assert unused.exists()


def test_images_that_no_data_set_has(study, clean):
    used, fetched, loose, young = ("0" * 63 + digit for digit in "1234")
    paths = {name: written(study.images / name[:2] / name) for name in (used, fetched, loose, young)}
    for name in (used, fetched, loose):
        old(paths[name])
    hashes = study.data_cache / ("a" * 32) / "train" / "image_hashes.bin"
    hashes.parent.mkdir(parents=True)
    hashes.write_bytes(bytes.fromhex(used))
    written(study.fetch / ("d" * 16) / "shard-00000.jsonl", json.dumps({"images": [{"sha256": fetched}]}))
    clean(caches=True)
    assert {name for name, path in paths.items() if path.exists()} == {used, fetched, young}


def test_leftovers_of_the_killed_are_old_and_nobodys(study, clean):
    job = first_job(study)
    gone = [
        old(written(job.root / ".tmp-model-1" / "part").parent),
        old(written(study.root / ".trash-jobs-2" / "x").parent),
        old(written(job.root / "checkpoint-9" / "model.safetensors").parent),
        *(
            old(written(study.cache / name / "job.json").parent)
            for name in ("show-77", "probe-1", "foresee-2", "tune-3")
        ),
        old(written(study.root / "slurm" / "base-0123456789ab.sbatch")),
        old(written(study.slurm.jobs("array-0123456789ab"), "base-0123456789ab\nadapt-0123456789ab\n")),
    ]
    stays = [
        written(job.root / ".tmp-young"),
        old(written(study.foreseen("77"))),
        old(written(study.root / "slurm" / f"{job.root.name}.sbatch")),
        old(written(study.slurm.jobs("array-123456789abc"), f"base-0123456789ab\n{job.root.name}\n")),
        old(written(study.slurm.script("array-123456789abc"))),
        old(written(study.root / "notes" / "mine.txt")),
    ]
    clean()
    assert all(path.exists() for path in gone)
    clean(leftovers=True)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in stays)


def test_links_and_what_lies_elsewhere_are_never_followed(folder, study, clean):
    elsewhere = old(written(folder.root / "elsewhere" / "precious").parent)
    orphan = study.jobs / "base-000000000000"
    orphan.symlink_to(elsewhere)
    (study.data_cache / ("b" * 32)).symlink_to(elsewhere)
    (study.root / ".tmp-link").symlink_to(elsewhere)
    kept = folder.root / "kept-caches"
    written(kept / ("b" * 16) / "values")
    study.column_cache.symlink_to(kept)
    told = clean(caches=True, leftovers=True, checkpoints=True)
    assert "a link, kept" in told
    assert (elsewhere / "precious").exists() and (kept / ("b" * 16) / "values").exists() and orphan.is_symlink()


def test_results_that_are_reached_by_a_link_are_cleaned(folder, study, clean):
    os.rename(folder.results, folder.root / "scratch")
    folder.results.symlink_to(folder.root / "scratch")
    assert "deleted" in clean(checkpoints=True)
    assert names(first_job(study)) == {"checkpoint-2", "checkpoint-5"}


def test_jobs_that_a_run_with_other_settings_has_yet_to_start_are_kept(folder: Folder, study: StudyDir, clean: Clean):
    waiting, read_by_it = study.job("base-0123456789ab"), study.job("base-ba9876543210")
    written(waiting.job_json, json.dumps({"parents": [read_by_it.root.name]}))
    written(read_by_it.result_json, "{}")
    with present(study, [waiting.root.name]):
        assert clean(delete=True).count("of a run that goes on, kept") == 2
    assert waiting.job_json.exists() and read_by_it.result_json.exists()
    clean(delete=True)
    assert not waiting.root.exists() and not read_by_it.root.exists()


def test_a_temporary_file_whose_writer_is_done_with_it_is_no_leftover(study: StudyDir, clean: Clean, monkeypatch):
    temporary = old(written(first_job(study).root / ".tmp-progress.json-1"))
    owner = Unused._owner

    def gone(self: Unused, path: Path) -> str | None:
        temporary.unlink(missing_ok=True)
        return owner(self, path)

    monkeypatch.setattr(Unused, "_owner", gone)
    assert "leftovers" not in clean(delete=True, leftovers=True)
