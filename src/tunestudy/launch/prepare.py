"""Putting a plan on disk: the study as written and as understood, one folder per job, and the trials that link to them.

Every file is replaced whole or not touched at all, and those that already say the same are left alone: doing this
again after a kill, or beside a running study, is harmless.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.records.atomic import point_to, replace_bytes
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.listing import entries
from tunestudy.records.redact import redact_tree
from tunestudy.records.space import told_of

_TRIES = 10


def prepare(study: Study, source: bytes, jobs: Iterable[Job], plan: dict[str, Any], folder: StudyDir) -> None:
    """Write everything under `results/<study>/` that the jobs and readers need.

    `source`: the study file as the user wrote it; `plan`: `Plan.as_json()`. Raises StudyError when the folder cannot
    be written: what was there stays as it was, and no file is left half-written.
    """
    jobs = list(jobs)
    try:
        for job in jobs:
            write_job(job, folder.job(job.id))
        link_trials(jobs, study.seeds, folder)
        write_if_new(folder.study_yaml, source)
        write_if_new(folder.resolved_yaml, resolved_yaml(study))
        write_if_new(folder.plan_json, _json(redact_tree(plan)))
    except OSError as error:
        cause = f"cannot be written: {told_of(error, folder.root)}; choose another folder with --results"
        raise StudyError(str(folder.root), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error


def write_job(job: Job, folder: JobDir) -> None:
    """What the worker of a job reads, in its folder."""
    write_if_new(folder.job_json, _json(job.model_dump(mode="json")))


def link_trials(jobs: Iterable[Job], seeds: Sequence[int], folder: StudyDir) -> None:
    """`trials/<variant>/seed_<s>/<stage>` → the job's folder, relative; links of earlier plans are removed.

    Pretrained weights are scored once for all seeds: every trial of an untrained variant links to that one job.
    """
    wanted: dict[Path, str] = {}
    for job in jobs:
        for variant in job.variants:
            for seed in seeds if job.settings is None else ():
                wanted.setdefault(folder.trial(variant, seed, job.stage), f"../../../jobs/{job.id}")
            wanted[folder.trial(variant, job.seed, job.stage)] = f"../../../jobs/{job.id}"
    for link, target in wanted.items():
        if not _points_to(link, target):
            _make(partial(_link, link, target))
    seeds_there = [seed for variant in entries(folder.trials) for seed in entries(variant) if seed.match("seed_*")]
    old = [link for seed in seeds_there for link in entries(seed) if link not in wanted and link.name[0] != "."]
    for link in old:  # what is hidden is a link that another launcher is about to make
        link.unlink(missing_ok=True)
    _remove_empty({link.parent for link in old})
    _remove_empty({link.parent.parent for link in old})


def resolved_yaml(study: Study) -> bytes:
    """The study with every default explicit and every variant's overrides applied."""
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    out.write(
        "# What tunestudy understood: every default explicit, every variant written out. Generated; edit study.yaml.\n"
    )
    yaml.dump(study.model_dump(mode="json"), out)
    return out.getvalue().encode()


def write_if_new(path: Path, data: bytes) -> None:
    """Replace a file unless it holds just that: readers and modification times stay undisturbed.

    Whole but not flushed to the disk: a thousand flushes take ten seconds, and what a power failure takes from here
    the next `run` writes again from the study file.
    """
    try:
        if path.read_bytes() == data:
            return
    except (FileNotFoundError, NotADirectoryError):
        pass  # it comes now
    _make(partial(replace_bytes, path, data))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _make(work: Callable[[], None]) -> None:
    """Once more when the folder was removed between making and using it: by a launcher with another study file while it
    was empty, or by `clean` with a study file that does not have the job."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return work()
    return work()


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    point_to(link, target)


def _points_to(link: Path, target: str) -> bool:
    try:
        return os.readlink(link) == target
    except FileNotFoundError:
        return False  # none yet, or another launcher has just removed it
    except OSError:  # no link: a text file where the file system has none
        return link.is_file() and link.read_text(encoding="utf-8").strip() == target


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # something is in it, or it is gone
            folder.rmdir()
