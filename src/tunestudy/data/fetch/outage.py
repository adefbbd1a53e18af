"""Who does not answer: a host, or, when nobody does, the network itself.

A machine without a network would write every image off as dead; a dead host with ten thousand images would be waited
for ten thousand times.
"""

from collections import Counter

from tunestudy.config.errors import Exit, StudyError
from tunestudy.data.fetch.addresses import FailedError

MANY_FAILURES = 100
MANY_HOSTS = 30
"""So many failures in a row, on so many hosts, with not one answer between them, are no accident."""
PATIENCE = 16
"""So many attempts in a row that cost one host's whole time are enough of it for this run."""


class Outage:
    """Counts failures since anybody, and since each host, last answered in time."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._failures = 0
        self._hosts: set[str] = set()
        self._in_vain: Counter[str] = Counter()

    def check(self, host: str) -> None:
        """Raise FailedError for a host that is not asked any more."""
        if self._in_vain[host] >= PATIENCE:
            raise FailedError("host given up", answered=False)

    def answered(self, host: str) -> None:
        """A host sent a whole body."""
        self._somebody_answered()
        self._in_vain.pop(host, None)

    def note(self, host: str, failed: FailedError) -> None:
        """Count a failed attempt. Raises StudyError when nothing can be reached any more."""
        too_long = failed.wait_s is not None and failed.wait_s > self._deadline_s
        if failed.answered and not too_long:
            self._in_vain.pop(host, None)
        else:
            self._in_vain[host] += 1
        if failed.answered:
            self._somebody_answered()
        if failed.answered is False:
            self._failures += 1
            self._hosts.add(host)
        if self._failures >= MANY_FAILURES and len(self._hosts) >= MANY_HOSTS:
            raise StudyError(
                "fetch",
                f"the last {self._failures} attempts on {len(self._hosts)} hosts got no answer at all: "
                "is there a network? Run again to continue",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )

    def _somebody_answered(self) -> None:
        self._failures = 0
        self._hosts.clear()
