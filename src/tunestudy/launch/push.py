"""`tunestudy push`: results of a study, or any model's folder, to the hub while one watches."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.launch.select import select
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.pushes import num_superseded
from tunestudy.records.redact import redact
from tunestudy.share.cards import card_of_study
from tunestudy.share.drain import Drain
from tunestudy.share.folder import files_of_folder
from tunestudy.share.hub import DOWNLOADED_BYTES, Hub, PassingError, Place, RefusedError
from tunestudy.share.work import is_published, items
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.sharing import Target, pushed_by_itself, require_repo_name, targets_of

MOST_FAILURES = 6
EVERYTHING = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a push is asked for."""

    to: str | None = None
    """A repository's name, with placeholders for a study's results."""
    private: bool | None = None
    revision: str | None = None
    only: Sequence[str] = ()
    seeds: Sequence[int] = ()
    download_all: bool = False
    """Download every file to compare it, however large."""
    dry_run: bool = False
    backoff_s: float = 2.0

    @property
    def download(self) -> int:
        return EVERYTHING if self.download_all else DOWNLOADED_BYTES


def push_study(loaded: LoadedStudy, results: Path, wish: Wish) -> Exit:
    """Push what is published and what waits. JOBS_FAILED when something could not be pushed.

    Raises StudyError when there is nothing to push, when names cannot be, or when someone else is pushing.
    """
    plan = make_plan(loaded, results)
    study = StudyDir(results / loaded.study.study)
    jobs = chosen_jobs(plan, wish)
    targets = [_with(target, wish) for target in targets_of(jobs, loaded.study.study, template=wish.to)]
    left = list(items(study, targets, unscored=True, again=True))
    if not left:
        raise StudyError("push", _nothing(study, jobs, loaded), exit_code=Exit.PREFLIGHT_REFUSED)
    if wish.dry_run:
        _print_plan(left)
        return Exit.DONE
    os.environ.update(loaded.study.env)
    try:
        with Lease.acquire(study.push_lease):
            drain = Drain(
                study=study,
                targets=targets,
                card_of=card_of_study(study),
                hub=Hub(),
                backoff_s=wish.backoff_s,
                most_failures=MOST_FAILURES,
                download=wish.download,
                say=_say,
            )
            done = drain.once(left, _sleep)
    except LeaseHeldError as held:
        told = f"{held.holder} is pushing already (`{study.push_log}` tells what); again when it has ended"
        raise StudyError("push", told, exit_code=Exit.PREFLIGHT_REFUSED) from None
    return _ended(drain, done, left, study)


def chosen_jobs(plan: Plan, wish: Wish) -> list[Job]:
    """The jobs that were named; without names those that push by themselves, or each trial's last.

    `--only VARIANT` means the variant's last stage, `VARIANT@STAGE` that one. A model that is only scored is none.
    """
    jobs = [planned.job for planned in plan.jobs]
    named = {job.id for job in select(jobs, wish.only, wish.seeds)}
    of_seed = [job for job in jobs if job.id in named and (not wish.seeds or job.seed in wish.seeds)]
    if wish.only:
        wanted = [one.partition("@") for one in wish.only]
        found = [job for job in of_seed if any(_is_meant(job, name, stage, plan) for name, _, stage in wanted)]
    elif wish.to is None and (own := pushed_by_itself(of_seed)):
        found = own
    else:
        found = [job for job in of_seed if any(job.stage == _last(plan, name) for name in job.variants)]
    return [job for job in found if job.settings is not None]


def _is_meant(job: Job, variant: str, stage: str, plan: Plan) -> bool:
    return variant in job.variants and job.stage == (stage or _last(plan, variant))


def _last(plan: Plan, variant: str) -> str:
    return next(reversed(plan.study.variants[variant].stages), "")


def _with(target: Target, wish: Wish) -> Target:
    changed: dict[str, Any] = {}
    if wish.private is not None:
        changed["private"] = wish.private
    if wish.revision is not None:
        changed["revision"] = wish.revision
    return Target(**{**vars(target), **changed})


def _nothing(study: StudyDir, jobs: Sequence[Job], loaded: LoadedStudy) -> str:
    if not jobs:
        return "nothing of this is trained or merged: the study's model is only scored"
    unpublished = [job.id for job in jobs if not is_published(study.job(job.id))]
    shown = ", ".join(unpublished[:3]) + (" …" if len(unpublished) > 3 else "")
    return f"nothing is published yet: {shown}; first `tunestudy run {loaded.typed}`"


def _print_plan(left: Sequence[Any]) -> None:
    for item in left:
        where = f"{item.target.repo}" + (f" (branch {item.target.revision})" if item.target.revision else "")
        print(f"{item} → {where}")


def _ended(drain: Drain, done: bool, left: Sequence[Any], study: StudyDir) -> Exit:
    superseded = sum(num_superseded(study.job(target.job)) for target in drain.targets)
    if superseded:
        print(f"{superseded} older checkpoints had made room for newer ones while they waited")
    waits = len(left) - len(drain.pushed) - len(drain.refused)
    if not done:
        print(f"the hub failed {drain.failures} times in a row; {waits} wait, the same command goes on")
    return Exit.DONE if done and not drain.refused else Exit.JOBS_FAILED


def push_folder(folder: Path, wish: Wish) -> Exit:
    """Push any model's or adapter's folder, such as what `export` or `merge` wrote, with its own README.md if it has
    one. Raises StudyError."""
    if wish.to is None:
        raise StudyError("--to", "say where: --to USER/NAME")
    try:
        require_repo_name(wish.to)
    except ValueError as error:
        raise StudyError("--to", str(error)) from None
    hub = Hub()
    drain_failures = 0
    while True:
        try:
            repo = hub.full_name(wish.to)
            with files_of_folder(folder, repo) as files:
                if wish.dry_run:
                    print("\n".join(f"{name} → {repo}" for name in files))
                    return Exit.DONE
                place = Place(repo=repo, private=wish.private, revision=wish.revision)
                pushed = hub.push(place, files, f"Push {folder.resolve().name}", download=wish.download)
        except RefusedError as error:
            raise StudyError("push", redact(str(error)), exit_code=Exit.PREFLIGHT_REFUSED) from None
        except PassingError as error:
            drain_failures += 1
            if drain_failures >= MOST_FAILURES:
                told = f"{redact(str(error))}, {drain_failures} times in a row; the same command goes on"
                raise StudyError("push", told, exit_code=Exit.JOBS_FAILED) from None
            wait_s = max(error.wait_s, wish.backoff_s * 2.0 ** (drain_failures - 1))
            _say(f"{redact(str(error))}; again in {wait_s:.0f} s")
            time.sleep(wait_s)
            continue
        what = f"{pushed.changed} files changed" if pushed.changed else "nothing changed, no commit"
        _say(f"{folder} → {pushed.url} at {pushed.commit[:12]} ({what}; compared)")
        return Exit.DONE


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def _say(text: str) -> None:
    print(text, flush=True)
