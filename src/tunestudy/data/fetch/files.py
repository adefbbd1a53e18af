"""The files of all shards under way, written by one thread at a time: journals every second, manifests at the end."""

import asyncio

from tunestudy.data.fetch.shard import Shard

FLUSH_S = 1.0


class Files:
    """Open shards, and how many images each still waits for."""

    def __init__(self) -> None:
        self._left: dict[Shard, int] = {}
        self._complete: list[Shard] = []
        self._closing = asyncio.Event()

    def open(self, shard: Shard, *, waits_for: int) -> None:
        """From now on the shard's journal is kept; it is complete after `one_less` was said so many times."""
        self._left[shard] = waits_for

    def one_less(self, shard: Shard) -> None:
        """One of the shard's images is settled."""
        self._left[shard] -= 1
        if self._left[shard] == 0:
            del self._left[shard]
            self._complete.append(shard)

    async def keep(self) -> None:
        """Put on the disk what was settled, until `close`. Raises OSError."""
        while not self._closing.is_set():
            await asyncio.to_thread(self._save)
            try:
                await asyncio.wait_for(self._closing.wait(), FLUSH_S)
            except TimeoutError:
                continue

    async def close(self, keeping: "asyncio.Task[None]") -> None:
        """End `keep`, and leave what is not complete to the next run. Raises OSError."""
        self._closing.set()
        await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.to_thread(self._save)
        for shard in self._left:
            shard.close()

    def _save(self) -> None:
        for shard in list(self._left):
            shard.flush()
        while self._complete:
            self._complete[0].finish()
            del self._complete[0]
