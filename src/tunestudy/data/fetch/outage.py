"""A machine without a network would write every image off as dead. This notices."""

from tunestudy.config.errors import Exit, StudyError
from tunestudy.data.fetch.addresses import FailedError

MANY_FAILURES = 100
MANY_HOSTS = 30
"""So many failures in a row, on so many hosts, with not one answer between them, are no accident."""


class Outage:
    """Counts failures since a host last said anything."""

    def __init__(self) -> None:
        self._failures = 0
        self._hosts: set[str] = set()

    def answered(self) -> None:
        """A host said something, be it 404."""
        self._failures = 0
        self._hosts.clear()

    def note(self, host: str, failed: FailedError) -> None:
        """Count a failed attempt. Raises StudyError when nothing can be reached any more."""
        if failed.answered:
            self.answered()
        if failed.answered is not False:
            return
        self._failures += 1
        self._hosts.add(host)
        if self._failures >= MANY_FAILURES and len(self._hosts) >= MANY_HOSTS:
            raise StudyError(
                "fetch",
                f"the last {self._failures} attempts on {len(self._hosts)} hosts got no answer at all: "
                "is there a network? Run again to continue",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )
