"""Fetches shard after shard, many images at once; several shards are under way while the first waits for stragglers.

What goes wrong with one image is its outcome, with a reason. What goes wrong with this machine (a full disk, no
network) is an error, and is never written down as the image's.
"""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tunestudy.config.fetch import FetchSettings
from tunestudy.data.fetch.addresses import FailedError
from tunestudy.data.fetch.download import Downloader
from tunestudy.data.fetch.examine import examine
from tunestudy.data.fetch.files import Files
from tunestudy.data.fetch.manifest import FAILED, OK, Key, Outcome
from tunestudy.data.fetch.outage import Outage
from tunestudy.data.fetch.progress import Progress
from tunestudy.data.fetch.shard import Shard
from tunestudy.data.fetch.turns import Task, Turns
from tunestudy.data.rejected import Rejected
from tunestudy.data.store import ImageStore

READ_AHEAD = 16
"""Images that are waiting or under way, for each that may be under way: enough hosts to choose from."""
POLL_S = 0.02
GRACE_S = 5.0
"""What is under way at a Ctrl-C has so long to arrive."""
REMEMBERED = 500_000
"""Images that are not asked for again when a later shard names them, too."""

Stop = Callable[[], bool]


class Engine:
    """Settles every image of every shard that `run` is given."""

    def __init__(
        self, settings: FetchSettings, store: ImageStore, downloader: Downloader, progress: Progress, stop: Stop
    ) -> None:
        self._settings, self._store, self._downloader = settings, store, downloader
        self._progress, self._stop = progress, stop
        self._turns = Turns(settings.per_host)
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "images")
        self._outage = Outage(settings.deadline_s)
        self._files = Files()
        self._asked: dict[Key, list[Shard]] = {}
        """Who wants each image under way: it is downloaded once."""
        self._settled: dict[Key, Outcome] = {}
        self._doubtful: list[tuple[Key, Outcome]] = []
        """Failures without an answer since the last answer: the network itself may be gone."""

    async def run(self, shards: Iterator[Shard], *, retry_failed: bool = False) -> bool:
        """Fetch until the shards are complete; False when `stop` said so before. Raises StudyError, OSError."""
        workers = [asyncio.create_task(self._work()) for _ in range(self._settings.concurrency)]
        others = [asyncio.create_task(self._files.keep())]
        feeder = asyncio.create_task(self._feed(shards, retry_failed))
        try:
            await self._until_done(feeder, [*workers, *others])
            return not self._stop()
        finally:
            feeder.cancel()
            self._turns.close()
            await asyncio.wait(workers, timeout=GRACE_S)
            for task in workers:
                task.cancel()
            await asyncio.gather(feeder, *workers, return_exceptions=True)
            self._threads.shutdown(cancel_futures=True)
            await self._files.close(others[0])

    async def _until_done(self, feeder: "asyncio.Task[None]", others: "list[asyncio.Task[None]]") -> None:
        """Wait for the end, for a stop, or for the first error of anybody."""
        while not self._stop():
            for task in (feeder, *others):
                if task.done():
                    task.result()
            if feeder.done() and self._turns.open == 0:
                self._trust()  # nothing is left that could tell more
                return
            await asyncio.sleep(POLL_S)

    async def _feed(self, shards: Iterator[Shard], retry_failed: bool) -> None:
        """Open shards as there is room for their images."""
        ahead = READ_AHEAD * self._settings.concurrency
        while (shard := await asyncio.to_thread(next, shards, None)) is not None:
            await asyncio.to_thread(shard.recall, self._store, retry_failed=retry_failed)
            missing = shard.missing()
            self._progress.recalled(shard.num_known)
            self._files.open(shard, waits_for=len(missing) + 1)  # one more: not complete before all have been asked for
            for key, url in missing.items():
                self._ask(shard, key, url)
                while self._turns.open >= ahead:
                    await asyncio.sleep(POLL_S)
            self._files.one_less(shard)

    def _ask(self, shard: Shard, key: Key, url: str) -> None:
        if key in self._settled:
            self._deliver(shard, key, self._settled[key])
        elif key in self._asked:
            self._asked[key].append(shard)
        else:
            self._asked[key] = [shard]
            self._turns.put(Task(url, key))

    async def _work(self) -> None:
        while (task := await self._turns.take()) is not None:
            began = time.monotonic()
            try:
                outcome = await self._attempt(task)
            except FailedError as failed:
                task.spent_s += time.monotonic() - began
                self._outage.note(task.host, failed)
                wait_s = self._wait_s(task, failed)
                if wait_s is not None:
                    self._turns.again(task, wait_s, rest=failed.wait_s is not None)
                    continue
                outcome = Outcome(task.key[0], FAILED, failed.reason, attempts=task.attempts)
                self._doubtful.append((task.key, outcome))
                if failed.answered is not False:
                    self._trust()
            else:
                self._trust()
                self._settle(task.key, outcome)
            self._turns.done(task)

    def _trust(self) -> None:
        """The network is there: failures without an answer were those hosts' own."""
        doubtful, self._doubtful = self._doubtful, []
        for key, outcome in doubtful:
            self._settle(key, outcome)

    def _settle(self, key: Key, outcome: Outcome) -> None:
        for shard in self._asked.pop(key):
            self._deliver(shard, key, outcome)
        self._settled[key] = outcome
        if len(self._settled) > REMEMBERED:
            del self._settled[next(iter(self._settled))]

    def _deliver(self, shard: Shard, key: Key, outcome: Outcome) -> None:
        self._progress.settled(outcome, times=shard.settle(key, outcome))
        self._files.one_less(shard)

    async def _attempt(self, task: Task) -> Outcome:
        """One attempt to its end. Raises FailedError when no bytes came, OSError when this machine cannot go on."""
        in_thread = asyncio.get_running_loop().run_in_executor
        url, expected = task.key
        if self._store.has(expected):
            known = await in_thread(self._threads, self._store.get, expected)
            if known is not None:
                return await in_thread(self._threads, self._judge, url, known, expected, 0)
            self._store.path(expected).unlink(missing_ok=True)  # damaged: the same bytes are fetched again
        self._outage.check(task.host)
        task.attempts += 1
        data = await self._downloader.get(task.url, within_s=self._settings.deadline_s - task.spent_s)
        self._outage.answered(task.host)
        self._progress.received(len(data))
        return await in_thread(self._threads, self._judge, url, data, expected, task.attempts)

    def _judge(self, url: str, data: bytes, expected: str, attempts: int) -> Outcome:
        """What becomes of bytes that came: an image in the store, or the reason against it. Runs in a thread."""
        try:
            width, height = self._examined(data, expected)
        except Rejected as problem:
            return Outcome(url, FAILED, problem.reason, attempts=attempts)
        return Outcome(url, OK, "", self._store.put(data), len(data), width, height, attempts)

    def _examined(self, data: bytes, expected: str) -> tuple[int, int]:
        if expected and hashlib.sha256(data).hexdigest() != expected:
            raise Rejected("another sha256")
        width, height = examine(data, max_pixels=self._settings.max_pixels)
        if min(width, height) < self._settings.min_side:
            raise Rejected("too small", f"{width}×{height}")
        ratio = self._settings.max_aspect_ratio
        if ratio is not None and max(width, height) > ratio * min(width, height):
            raise Rejected("too long and narrow", f"{width}×{height}")
        return width, height

    def _wait_s(self, task: Task, failed: FailedError) -> float | None:
        """Seconds until the next attempt; None when there is none within the image's time."""
        if not failed.transient or task.attempts > self._settings.retries:
            return None
        wait_s = self._settings.backoff_s * 2 ** (task.attempts - 1) * random.uniform(0.75, 1.25)
        wait_s = max(wait_s, failed.wait_s or 0.0)
        task.spent_s += wait_s
        return wait_s if task.spent_s < self._settings.deadline_s else None
