"""Whose turn it is: hosts in rotation, a few images at once from each, none while a host has asked for patience.

A plain queue would stand still behind one slow host, since all who work on it would wait for that host.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field

from yarl import URL


@dataclass(eq=False, slots=True)
class Task:
    """An image to be fetched: its URL, the key that its outcome is wanted under, and what has been spent on it."""

    url: str
    key: tuple[str, str] = ("", "")
    attempts: int = 0
    spent_s: float = 0.0
    host: str = field(init=False)

    def __post_init__(self) -> None:
        self.host = host_of(self.url)


def host_of(url: str) -> str:
    """The host that a URL names; the URL itself where it names none."""
    try:
        return URL(url).host or url
    except ValueError:
        return url


class Turns:
    """Tasks by host. Only for one event loop."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._waiting: dict[str, deque[Task]] = {}
        self._under_way: Counter[str] = Counter()
        self._resting: set[str] = set()
        self._ready: asyncio.Queue[str | None] = asyncio.Queue()
        self._closed = False
        self.open = 0
        """Tasks that were put and are not done: waiting, resting or under way."""

    def put(self, task: Task) -> None:
        """Add a new task."""
        self.open += 1
        self._line_up(task)

    async def take(self) -> Task | None:
        """The next task, once there is one; None after `close`."""
        while True:
            host = await self._ready.get()
            if host is None or self._closed:
                self._ready.put_nowait(None)  # for the next one who waits
                return None
            if not self._may_start(host):
                continue
            task = self._waiting[host].popleft()
            if not self._waiting[host]:
                del self._waiting[host]
            self._under_way[host] += 1
            self._offer(host)
            return task

    def done(self, task: Task) -> None:
        """`task`, which was taken, is settled."""
        self.open -= 1
        self._leave(task.host)

    def again(self, task: Task, after_s: float, *, rest: bool = False) -> None:
        """`task`, which was taken, is tried again after a wait; with `rest` its host is left alone for so long."""
        self._leave(task.host)
        loop = asyncio.get_running_loop()
        if rest:
            self._resting.add(task.host)
            loop.call_later(after_s, self._rested, task.host)
        loop.call_later(after_s, self._line_up, task)

    def close(self) -> None:
        """No task is given out any more."""
        self._closed = True
        self._ready.put_nowait(None)

    def _line_up(self, task: Task) -> None:
        self._waiting.setdefault(task.host, deque()).append(task)
        self._offer(task.host)

    def _leave(self, host: str) -> None:
        self._under_way[host] -= 1
        if not self._under_way[host]:
            del self._under_way[host]
        self._offer(host)

    def _rested(self, host: str) -> None:
        self._resting.discard(host)
        self._offer(host)

    def _offer(self, host: str) -> None:
        """Put a host at the end of the rotation if one of its tasks may start."""
        if self._may_start(host):
            self._ready.put_nowait(host)

    def _may_start(self, host: str) -> bool:
        return host in self._waiting and host not in self._resting and self._under_way[host] < self._per_host
