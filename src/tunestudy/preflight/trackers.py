"""Whether the trackers that a study reports to can be told: before a job runs, not after an hour of it."""

import importlib.util
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.trackers import INSTALL_TRACKERS, TRACKERS

_HOST = "api.wandb.ai"
WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun")


def tracker_problems(jobs: Sequence[Job], env: Mapping[str, str]) -> Iterator[StudyError]:
    """Packages that are missing, and W&B without a key. `env`: the study's."""
    stages = {tracker: job.stage for job in jobs if job.training for tracker in job.training.report_to}
    for tracker in TRACKERS:
        if tracker in stages and importlib.util.find_spec(tracker) is None:
            message = f"{tracker} is not installed: {INSTALL_TRACKERS}, or leave it out"
            yield _refused(f"stages.{stages[tracker]}.report_to", message)
    if "wandb" not in stages or importlib.util.find_spec("wandb") is None:
        return
    where, mode = f"stages.{stages['wandb']}.report_to", wandb_mode(env)
    if mode not in WANDB_MODES:
        yield _refused("WANDB_MODE", f"is {mode!r}; W&B knows {', '.join(WANDB_MODES[:3])}")
    elif mode in ("online", "shared") and wandb_token_source() is None:
        cure = "`wandb login`, or export WANDB_API_KEY=…; or export WANDB_MODE=offline and `wandb sync` later"
        yield _refused(where, f"wandb has no key on this machine: {cure}")


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
