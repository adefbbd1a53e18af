"""Whether the trackers that a study reports to can be told: before a job runs, not after an hour of it."""

import importlib.util
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.trackers import INSTALL_TRACKERS, TRACKERS, Tracker
from tunestudy.preflight.points import Point, not_needed, ok

_HOST = "api.wandb.ai"
WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun")
_ASK_FOR_A_KEY = ("online", "shared")


def tracker_problems(jobs: Sequence[Job], env: Mapping[str, str], *, here: bool = True) -> Iterator[StudyError]:
    """Packages that are missing, and W&B without a key. `env`: the study's; `here`: whether this Python tells them."""
    stages = stages_by_tracker(jobs)
    missing = [name for name in stages if here and importlib.util.find_spec(name) is None]
    for tracker in missing:
        message = f"{tracker} is not installed; {INSTALL_TRACKERS}, or leave it out"
        yield _refused(f"stages.{stages[tracker]}.report_to", message)
    if "wandb" not in stages or "wandb" in missing:
        return
    where, mode = f"stages.{stages['wandb']}.report_to", wandb_mode(env)
    if mode not in WANDB_MODES:
        yield _refused("WANDB_MODE", f"is {mode!r}; W&B knows {', '.join(WANDB_MODES[:3])}")
    elif mode in _ASK_FOR_A_KEY and wandb_token_source() is None:
        cure = "`wandb login`, or export WANDB_API_KEY=…, or export WANDB_MODE=offline and `wandb sync` later"
        yield _refused(where, f"wandb has no key on this machine; {cure}")


def tracker_points(jobs: Sequence[Job], env: Mapping[str, str]) -> Iterator[Point]:
    """Where jobs report to, once nothing stands in the way; of W&B's key whence it comes, never what it is."""
    names = list(stages_by_tracker(jobs))
    if not names:
        yield not_needed("trackers", "no stage that is still to do reports anywhere")
        return
    mode = wandb_mode(env)
    key = f"key by {wandb_token_source()}" if mode in _ASK_FOR_A_KEY else f"WANDB_MODE={mode}"
    yield ok("trackers", ", ".join(f"{name} ({key})" if name == "wandb" else name for name in names))


def stages_by_tracker(jobs: Sequence[Job]) -> dict[Tracker, str]:
    """The trackers that are told of jobs, in their fixed order, each with a stage that asks for it."""
    found = {tracker: job.stage for job in jobs if job.training for tracker in job.training.report_to}
    return {tracker: found[tracker] for tracker in TRACKERS if tracker in found}


def wandb_mode(env: Mapping[str, str]) -> str:
    """As W&B will find it: the study's `env:` counts more than the shell's."""
    return (env.get("WANDB_MODE") or os.environ.get("WANDB_MODE") or "online").lower()


def wandb_token_source() -> str | None:
    """Where a key of W&B comes from; never what it is."""
    if os.environ.get("WANDB_API_KEY", "").strip():
        return "$WANDB_API_KEY"
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    host = (os.environ.get("WANDB_BASE_URL") or _HOST).rpartition("://")[2].partition("/")[0].partition(":")[0]
    try:
        return "~/.netrc" if netrc.netrc(file).authenticators(host) else None
    except (OSError, netrc.NetrcParseError):
        return None


def _refused(where: str, message: str) -> StudyError:
    return StudyError(where, message, exit_code=Exit.PREFLIGHT_REFUSED)
