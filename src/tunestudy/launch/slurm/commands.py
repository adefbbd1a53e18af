"""SLURM's own programs: how they are called, and what is made of their complaints."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.records.redact import redact

PATIENCE_S = 60.0
"""How long one call may take: a busy controller answers slowly."""
BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between tries while the controller does not answer: a restart of it takes about a minute."""

_NOISE = re.compile(r"^(s\w+): (error: )?")
_AWAY = re.compile(
    r"unable to contact|socket timed out|zero bytes were transmitted|connection refused|in standby|slurmctld.*down"
    r"|unexpected message received|resource temporarily unavailable",
    re.IGNORECASE,
)
_FULL = re.compile(
    r"QOSMaxSubmitJob|AssocMaxSubmitJob|AssocGrpSubmitJobs|MaxSubmitJobs|policy \(job submit limit|job submit limit"
    r"|MaxJobCount|maximum number of jobs|temporarily unable to accept job",
    re.IGNORECASE,
)


class SlurmError(Exception):
    """A program of SLURM's refused; the message is its own words."""

    @property
    def is_away(self) -> bool:
        """Whether its controller did not answer: nothing is known about what was asked, then."""
        return bool(_AWAY.search(str(self)))

    @property
    def is_full(self) -> bool:
        """Whether no more submissions are taken from this user for now."""
        return bool(_FULL.search(str(self)))


def ask(*words: str) -> str:
    """What the program prints. SlurmError with its own words when it fails, StudyError when it is not there."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=environment(), errors="replace"
        )
    except FileNotFoundError:
        raise no_slurm(words[0]) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]}: socket timed out after {PATIENCE_S:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    said = [_NOISE.sub("", line.strip()) for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    raise SlurmError(redact("; ".join(said[-3:]) or f"{words[0]} ended with exit code {done.returncode}"))


def patiently(attempt: Callable[[], str], waits: Iterator[float] | None = None) -> str:
    """`attempt` again while the controller is away, with longer and longer pauses; then a StudyError that says so.

    `attempt` must itself make sure that doing it again is harmless.
    """
    waits = iter(BACK_OFF_S) if waits is None else waits
    while True:
        try:
            return attempt()
        except SlurmError as error:
            wait = next(waits, None) if error.is_away else None
            if wait is None:
                raise
            print(f"SLURM's controller does not answer ({error}); trying again in {wait:g} s", flush=True)
            time.sleep(wait)


def environment() -> dict[str, str]:
    """This process's environment without what an allocation around it says: a submission has its own."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SLURMD_", "PMI_", "PMIX_"))
    }


def no_slurm(program: str) -> StudyError:
    """A machine without SLURM."""
    cure = "run it on a login node of the cluster, or with resources.executor=local"
    return StudyError(
        at("resources.executor"), f"there is no {program} on this machine; {cure}", exit_code=Exit.PREFLIGHT_REFUSED
    )
