"""A web server on loopback that behaves as badly as the web, and images to serve."""

import asyncio
import gzip
import io
import random
import struct
import threading
import zlib
from collections import Counter
from typing import Any

from aiohttp import web
from PIL import Image

from tunestudy.config.fetch import FetchSettings
from tunestudy.data.fetch.addresses import Guard
from tunestudy.data.fetch.run import Order, fetch
from tunestudy.data.sources import Folders, source_of
from tunestudy.records.layout import StudyDir

LOOPBACK = "127.0.0.1"


def picture(number: int = 0, kind: str = "JPEG", size: tuple[int, int] = (24, 16), **options: Any) -> bytes:
    """An image of noise that only this number has."""
    noise = random.Random(number).randbytes(size[0] * size[1] * 3)
    out = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is this large and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


BODIES = {
    "good": picture(0),
    "html": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "truncated": picture(1)[:-200],
    "empty": b"",
    "bomb": png_header(20_000, 20_000),
    "narrow": picture(2, "PNG", (400, 2)),
}
BOMB = gzip.compress(bytes(30_000_000), 1)
"""130 kB that unpack to 30 MB."""


class Server:
    """Runs in a thread of its own; counts the requests it gets by path."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.hosts: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def url(self, path: str, host: str = LOOPBACK) -> str:
        return f"http://{host}:{self.port}/{path}"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._loop.run_forever()

    async def _open(self) -> None:
        app = web.Application()
        app.router.add_get("/{kind}/{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._ready.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen[request.path_qs.lstrip("/")] += 1
        self.agents.add(request.headers["User-Agent"])
        self.hosts[request.headers["Host"]] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await getattr(self, f"_{request.match_info['kind']}")(request, request.match_info["rest"])
        finally:
            self.under_way -= 1

    async def _image(self, request: web.Request, rest: str) -> web.Response:
        await asyncio.sleep(float(request.query.get("wait", 0)))
        return web.Response(body=picture(int(rest)), content_type="image/jpeg")

    async def _body(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(body=BODIES[rest], content_type="image/jpeg")

    async def _status(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(status=int(rest))

    async def _flaky(self, request: web.Request, rest: str) -> web.Response:
        """503 the first time, or as `status` and `times` say; then an image."""
        times, status = int(request.query.get("times", 1)), int(request.query.get("status", 503))
        if self.seen[request.path_qs.lstrip("/")] > times:
            return await self._image(request, "7")
        headers = {"Retry-After": request.query["after"]} if "after" in request.query else {}
        return web.Response(status=status, headers=headers)

    async def _to(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(status=302, headers={"Location": request.query["url"]})

    async def _hops(self, request: web.Request, rest: str) -> web.Response:
        """So many redirects, then an image."""
        where = f"/hops/{int(rest) - 1}" if int(rest) > 1 else "/image/3"
        return web.Response(status=307, headers={"Location": where})

    async def _drip(self, request: web.Request, rest: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x")
            await asyncio.sleep(0.05)
        return response

    async def _endless(self, request: web.Request, rest: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"\0" * 65536)

    async def _short(self, request: web.Request, rest: str) -> web.StreamResponse:
        """Promises more than it sends."""
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(BODIES["good"])
        assert request.transport is not None
        request.transport.close()
        return response

    async def _zipped(self, request: web.Request, rest: str) -> web.Response:
        """gzip, though nobody asked for it."""
        data = BOMB if rest == "bomb" else gzip.compress(BODIES["good"])
        return web.Response(body=data, headers={"Content-Encoding": "gzip"})

    async def _robots(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(body=BODIES["good"], headers={"X-Robots-Tag": rest})


class Fetcher:
    """Fetches data sets of one study, with quick settings and the server allowed."""

    def __init__(self, folders: Folders, study: StudyDir) -> None:
        self.folders, self.study = folders, study

    def __call__(self, dataset: Any, *, stop: Any = lambda: False, **order: Any) -> bool:
        return fetch(
            "pool", dataset, self.folders, self.study, Order(**{"guard": Guard(also=[LOOPBACK]), **order}), stop=stop
        )

    def read(self, dataset: Any) -> list[Any]:
        return list(source_of(dataset).read(dataset, self.folders))


def quick(**settings: Any) -> FetchSettings:
    """Settings that make no test wait."""
    return FetchSettings.model_validate(
        {"backoff_s": 0.02, "deadline_s": 2.0, "concurrency": 16, "max_bytes": 1_000_000, **settings}
    )
