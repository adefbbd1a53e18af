"""How fast images are fetched: tunestudy against a sequential loop of `requests`, and against a pool of threads.

    python benchmarks/fetch.py [--images 3000] [--sequential 100]        (needs `pip install requests`)

A server of its own, in another process, answers on 40 loopback addresses after 50 ms each. Of the URLs 10 % are dead
(404, 500, nobody listening), 2 % drip for eight seconds, 2 % are bombs (a PNG that says 20,000 × 20,000, gzip of
30 MB), 6 % redirect (a third of them for ever), the rest are JPEGs of about 20 kB. All three do the same with what
comes: decode it, keep it by its SHA-256. The loop gets a sample of the URLs, drawn with the same shares. The pool is
the design of img2dataset: urllib in threads, with a timeout per socket operation. Exit code 1: below the limit.
"""

import argparse
import asyncio
import contextlib
import gzip
import http.client
import io
import json
import multiprocessing
import random
import sys
import tempfile
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from aiohttp import web
from PIL import Image

from tunestudy.config.data import FileDataset
from tunestudy.config.fetch import FetchSettings
from tunestudy.data.fetch.examine import examine
from tunestudy.data.fetch.run import Order, fetch
from tunestudy.data.formats import Rejected
from tunestudy.data.sources import Folders
from tunestudy.data.store import ImageStore
from tunestudy.records.layout import StudyDir

LATENCY_S, DRIP_S, TIMEOUT_S = 0.05, 8.0, 3.0
HOSTS = [f"127.0.0.{i}" for i in range(2, 42)]
AT_ONCE = 256
FASTER, RETRIES = 10.0, 1
"""Limit: times the sequential loop; and how often an attempt is repeated."""
SHARES = {
    "image": 0.80,
    "missing": 0.05,
    "error": 0.02,
    "nobody": 0.03,
    "drip": 0.02,
    "bomb": 0.01,
    "zip": 0.01,
    "hop": 0.04,
    "loop": 0.02,
}


def jpeg(number: int) -> bytes:
    noise = Image.frombytes("RGB", (64, 64), random.Random(number).randbytes(64 * 64 * 3)).resize((320, 320))
    out = io.BytesIO()
    noise.save(out, "JPEG", quality=80)
    return out.getvalue()


def png_bomb() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    data = bytearray(out.getvalue())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def serve(ready: Connection) -> None:
    """The server: /<kind>/<number>."""
    images = [jpeg(number) for number in range(64)]
    bodies = {"bomb": png_bomb(), "zip": gzip.compress(bytes(30_000_000), 1)}

    async def answer(request: web.Request) -> web.StreamResponse:
        kind, number = request.match_info["kind"], request.match_info["number"]
        await asyncio.sleep(LATENCY_S)
        if kind in ("hop", "loop"):
            return web.Response(status=302, headers={"Location": f"/{'image' if kind == 'hop' else kind}/{number}"})
        if kind == "drip":
            response = web.StreamResponse(headers={"Content-Length": "100000"})
            await response.prepare(request)
            with contextlib.suppress(ConnectionResetError):
                for _ in range(int(DRIP_S / 0.25)):
                    await response.write(b"x")
                    await asyncio.sleep(0.25)
            return response
        if kind in bodies:
            return web.Response(body=bodies[kind], headers={"Content-Encoding": "gzip"} if kind == "zip" else {})
        if kind != "image":
            return web.Response(status={"missing": 404, "error": 500}[kind])
        return web.Response(body=images[int(number) % 64] + number.encode(), content_type="image/jpeg")

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/{kind}/{number}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        first = web.TCPSite(runner, HOSTS[0], 0, backlog=1024)
        await first.start()
        port = runner.addresses[0][1]
        for host in HOSTS[1:]:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        ready.send(port)
        await asyncio.Event().wait()

    asyncio.run(run())


def urls(count: int, port: int, first: int) -> list[tuple[str, str]]:
    """(kind, URL) with the shares, shuffled; `first` makes every image another one."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * count))]
    random.Random(first).shuffle(kinds)
    return [
        (kind, f"http://{HOSTS[i % len(HOSTS)]}:{1 if kind == 'nobody' else port}/{kind}/{first + i}")
        for i, kind in enumerate(kinds)
    ]


def kept(data: bytes, store: ImageStore) -> bool:
    try:
        examine(data, max_pixels=50_000_000)
    except Rejected:
        return False
    store.put(data)
    return True


@dataclass
class Timed:
    """One way of fetching: use it around the work, then say how many images came."""

    name: str
    num_urls: int
    images: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    def __enter__(self) -> Self:
        self._began, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_s = time.perf_counter() - self._began, time.process_time() - self._cpu

    @property
    def rate(self) -> float:
        return self.num_urls / self.seconds

    def __str__(self) -> str:
        told = f"{self.name:30}{self.num_urls:6,} URLs{self.images:7,} images{self.seconds:7.1f} s{self.rate:8.1f}/s"
        return f"{told}{self.num_urls / self.cpu_s:8.0f} per CPU second"


def sequential(name: str, listed: list[tuple[str, str]], store: ImageStore) -> Timed:
    """A loop of `requests` that keeps its connections."""
    import requests

    session = requests.Session()
    with Timed(name, len(listed)) as timed:
        for _, url in listed:
            try:
                response = session.get(url, timeout=TIMEOUT_S)
                timed.images += response.status_code == 200 and kept(response.content, store)
            except requests.RequestException:
                continue
    return timed


def threads(listed: list[tuple[str, str]], store: ImageStore) -> Timed:
    """A pool of threads with urllib."""

    def one(url: str) -> bool:
        for _ in range(RETRIES + 1):
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
                    return kept(response.read(), store)
            except (OSError, http.client.HTTPException):
                continue
        return False

    with Timed(f"{AT_ONCE} threads with urllib", len(listed)) as timed, ThreadPoolExecutor(AT_ONCE) as pool:
        timed.images = sum(pool.map(one, [url for _, url in listed]))
    return timed


def ours(listed: list[tuple[str, str]], folder: Path) -> tuple[Timed, dict[str, int]]:
    """`tunestudy fetch` without the start of its process; and how many failed for which reason."""
    rows = [{"image": url, "prompt": "?", "completion": "!"} for _, url in listed]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = FetchSettings(
        allow_loopback=True, concurrency=AT_ONCE, retries=RETRIES, deadline_s=TIMEOUT_S, backoff_s=0.5
    )
    study = StudyDir(folder / "results")
    dataset = FileDataset(path="pool.jsonl", fetch=settings)
    with Timed("tunestudy fetch", len(listed)) as timed, contextlib.redirect_stdout(None):
        fetch("pool", dataset, Folders(folder, study.cache), study, Order(), stop=lambda: False)
    (summary,) = [json.loads(path.read_text()) for path in study.fetch.glob("*/shard-00000.json")]
    timed.images = summary["ok"]
    return timed, summary["failed"]


def measured(port: int, count: int, sample: int) -> bool:
    """Measure and print; whether the limits hold."""
    listed, few = urls(count, port, first=1_000_000), urls(sample, port, first=3_000_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        own, failed = ours(listed, folder)
        pool = threads(urls(count, port, first=2_000_000), ImageStore(folder / "threads"))
        loop = sequential("loop of requests", few, ImageStore(folder / "loop"))
        calm = [pair for pair in few if pair[0] != "drip"]
        quiet = sequential("the same without drips", calm, ImageStore(folder / "quiet"))
    good = sum(kind in ("image", "hop") for kind, _ in listed)
    bound = len(listed) * TIMEOUT_S / AT_ONCE + 2 * TIMEOUT_S
    print(*(own, pool, loop, quiet), sep="\n")
    print(f"tunestudy: {', '.join(f'{reason} {number}' for reason, number in failed.items())}")
    print(f"times the loop: {own.rate / loop.rate:.1f}; without drips in the loop: {own.rate / quiet.rate:.1f}")
    print(f"times the threads: {own.rate / pool.rate:.2f}")
    holds = own.images == good and own.rate >= FASTER * quiet.rate and own.seconds <= bound
    limits = f"all {good:,} good images, {FASTER:g} times the loop without drips, at most {bound:.0f} s"
    print(f"limits: {limits}: {'held' if holds else 'NOT held'}")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--sequential", type=int, default=100)
    chosen = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    try:
        return 0 if measured(here.recv(), chosen.images, chosen.sequential) else 1
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    sys.exit(main())
