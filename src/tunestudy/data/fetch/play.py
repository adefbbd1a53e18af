"""A server that plays the hosts of a pool drawn here, for as long as a fetch runs.

Links keep their names whatever port the server gets: the names lead to it, and to nothing else. From there on an image
comes as from anywhere: over HTTP, judged, decoded, written down.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from tunestudy.config.data import DatacompDataset, Dataset, DrawnPool
from tunestudy.data.drawn_pool import HOST, answer
from tunestudy.data.fetch.addresses import FailedError

LOOPBACK = "127.0.0.1"


class Resolver(AbstractResolver):
    """Leads the pool's names to the server; there are no others."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(
        self,
        host: str,
        port: int = 0,  # noqa: ARG002 - the links name none
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - the server has one
    ) -> list[ResolveResult]:
        """The server's address. Raises FailedError."""
        if not host.endswith(f".{HOST}") or host == f"gone.{HOST}":
            raise FailedError("host not found", answered=False)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found = ResolveResult(
            hostname=host, host=LOOPBACK, port=self._port, family=socket.AF_INET, proto=0, flags=flags
        )
        return [found]

    async def close(self) -> None:
        """Nothing is held."""


@asynccontextmanager
async def played(dataset: Dataset) -> AsyncIterator[Resolver | None]:
    """The way to the hosts of a drawn pool while they are played; None for a data set of the real web."""
    pool = dataset.drawn if isinstance(dataset, DatacompDataset) else None
    if pool is None:
        yield None
        return
    runner = web.AppRunner(_app(pool), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield Resolver(int(runner.addresses[0][1]))
    finally:
        await runner.cleanup()


def _app(pool: DrawnPool) -> web.Application:
    async def say(request: web.Request) -> web.Response:
        status, body = answer(pool, request.path)
        return web.Response(status=status, body=body, content_type="image/png")

    app = web.Application()
    app.router.add_get("/{path:.*}", say)
    return app
