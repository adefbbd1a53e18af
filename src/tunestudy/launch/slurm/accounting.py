"""What `sacct` tells of a study's submissions, kept beside them. Many clusters have none: then nothing is kept, and
GPU-hours come from our own journal alone."""

import os
import re
from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.launch.slurm.commands import SlurmError, ask
from tunestudy.launch.slurm.queue import GONE
from tunestudy.records.atomic import read_object, write_json
from tunestudy.records.events import read_events
from tunestudy.records.layout import StudyDir

_AT_ONCE = 500
_GPUS = re.compile(r"(?:^|,)gres/gpu=(\d+)")


def keep_accounting(study: StudyDir) -> None:
    """Ask sacct about submissions whose end is not known yet, and write down what it says; nothing without sacct."""
    numbers = {event["slurm_id"] for event in read_events(study.events) if event["event"] == "slurm_submitted"}
    known: dict[str, Any] = read_object(study.slurm.accounting)
    told_of = {base_of(number) for number in known}
    open_still = {base_of(number) for number, lives in known.items() if any(one["state"] not in GONE for one in lives)}
    asked = sorted(number for number in numbers if number not in told_of or number in open_still)
    found: dict[str, list[dict[str, Any]]] = {}
    for start in range(0, len(asked), _AT_ONCE):
        names = ",".join(asked[start : start + _AT_ONCE])
        try:
            told = ask("sacct", "-n", "-X", "-P", "-D", "-o", "JobID,State,ElapsedRaw,AllocTRES", "-j", names)
        except (SlurmError, StudyError):
            return  # there is no accounting here
        for line in told.splitlines():
            number, life = parsed(line)
            found.setdefault(number, []).append(life)
    anew = {base_of(number) for number in found}
    known = {number: lives for number, lives in known.items() if base_of(number) not in anew}
    if found and os.access(study.slurm.root, os.W_OK):  # `status` is for people who may only read, too
        write_json(study.slurm.accounting, {**known, **found})


def base_of(number: str) -> str:
    """An array's number, which its elements' begin with: `12` of `12_3` and of `12_[4-7]`, those that wait."""
    return number.partition("_")[0]


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """`12_3|CANCELLED by 0|61|billing=1,cpu=1,gres/gpu=2` → its number, and state, seconds and GPUs of one life."""
    number, state, elapsed, resources = line.split("|", 3)
    gpus = _GPUS.search(resources)
    return number, {
        "state": state.split()[0].rstrip("+"),
        "elapsed_s": int(elapsed or 0),
        "gpus": int(gpus[1]) if gpus else 0,
    }
