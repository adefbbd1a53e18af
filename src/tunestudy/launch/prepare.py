"""Putting a plan on disk: the study as written and as understood, one folder per job, and the trials that link to them.

Every file is replaced whole or not touched at all, and those that already say the same are left alone: doing this
again after a kill, or beside a running study, is harmless.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.records.atomic import point_to, replace_bytes
from tunestudy.records.layout import StudyDir
from tunestudy.records.redact import redact_tree


def prepare(study: Study, source: bytes, jobs: Iterable[Job], plan: dict[str, Any], folder: StudyDir) -> None:
    """Write everything under `results/<study>/` that the jobs and readers need.

    `source`: the study file as the user wrote it; `plan`: `Plan.as_json()`. Raises StudyError when the folder cannot
    be written: what was there stays as it was, and no file is left half-written.
    """
    jobs = list(jobs)
    try:
        for job in jobs:
            write_if_new(folder.job(job.id).job_json, _json(job.model_dump(mode="json")))
        link_trials(jobs, study.seeds, folder)
        write_if_new(folder.study_yaml, source)
        write_if_new(folder.resolved_yaml, resolved_yaml(study))
        write_if_new(folder.plan_json, _json(redact_tree(plan)))
    except OSError as error:
        raise StudyError(
            str(folder.root),
            f"cannot be written: {error.strerror}; choose another folder with --results",
            exit_code=Exit.PREFLIGHT_REFUSED,
        ) from error


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
            _link(link, target)
    old = [link for link in folder.trials.glob("*/seed_*/*") if link not in wanted and link.name[0] != "."]
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
    if not path.is_file() or path.read_bytes() != data:
        replace_bytes(path, data)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _link(link: Path, target: str) -> None:
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        point_to(link, target)
    except FileNotFoundError:  # a launcher with another study file has removed the folder while it was empty
        link.parent.mkdir(parents=True, exist_ok=True)
        point_to(link, target)


def _points_to(link: Path, target: str) -> bool:
    if link.is_symlink():
        return os.readlink(link) == target
    return link.is_file() and link.read_text(encoding="utf-8").strip() == target


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # something is in it, or it is gone
            folder.rmdir()
