"""One attempt at one URL: bytes of bounded size, or one word for why there are none.

Redirects are followed by hand, so that every hop is judged like the first. Bodies are never unpacked by the client
library, which would unpack a few kilobytes into as many gigabytes as they were made for.
"""

import asyncio
import errno
import os
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from tunestudy.config.fetch import FetchSettings
from tunestudy.data.fetch.addresses import FailedError, Guard, Lookup, PinnedResolver, system_lookup

MAX_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429)
"""Answers below 500 that may be others a moment later."""
OUR_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors that say nothing of the host that was asked."""
KEEP_ALIVE_S = 2.0
"""Most hosts are asked once: connections to thousands of them must not stay open."""
OPT_OUT = {"noai", "noimageai"}


class Downloader:
    """Asks for URLs. Made by `open_downloader`."""

    def __init__(self, session: aiohttp.ClientSession, settings: FetchSettings, guard: Guard) -> None:
        self._session, self._settings, self._guard = session, settings, guard

    async def get(self, url: str, *, within_s: float) -> bytes:
        """The body, unpacked, of at most `max_bytes`. Raises FailedError; OSError for what this machine lacks."""
        try:
            async with asyncio.timeout(within_s):
                return await self._follow(_parsed(url))
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise FailedError("no connection in time", answered=False) from error
            raise FailedError("deadline") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in OUR_OWN:
                raise OSError(error.errno, os.strerror(error.errno)) from error
            raise _told(error) from error

    async def _follow(self, url: URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            self._guard.check_url(url)
            async with self._session.get(url, allow_redirects=False) as response:
                target = response.headers.get("Location")
                if response.status not in REDIRECTS or not target:
                    self._check(response)
                    return await self._body(response)
            url = _parsed(target, url)
        raise FailedError("too many redirects", answered=True)

    def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            raise FailedError(
                f"http {response.status}",
                transient=response.status >= 500 or response.status in PASSING,
                answered=True,
                wait_s=retry_after_s(response.headers.get("Retry-After", "")),
            )
        told = response.headers.getall("X-Robots-Tag", [])
        if self._settings.respect_noai and opted_out(told, self._settings.user_agent):
            raise FailedError("opted out (noai)", answered=True)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._settings.max_bytes
        if (response.content_length or 0) > limit:
            raise FailedError("too many bytes", answered=True)
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > limit:
                raise FailedError("too many bytes", answered=True)
        return unpacked(bytes(data), response.headers.get("Content-Encoding", ""), limit)


@asynccontextmanager
async def open_downloader(
    settings: FetchSettings,
    guard: Guard | None = None,
    lookup: Lookup = system_lookup,
    resolver: AbstractResolver | None = None,
) -> AsyncIterator[Downloader]:
    """A downloader with its connections. `guard`, `lookup`: for other rules of who may be asked; `resolver`: where
    all names lead, in place of looking them up."""
    guard = guard or Guard(allow_loopback=settings.allow_loopback)
    connector = aiohttp.TCPConnector(
        resolver=resolver or PinnedResolver(guard, lookup),
        limit=0,  # whose turn it is has been decided before: nobody shall wait here while his time runs
        ttl_dns_cache=300,
        keepalive_timeout=KEEP_ALIVE_S,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        trust_env=False,  # a proxy would look names up for itself
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=settings.connect_timeout_s),
        headers={"User-Agent": settings.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
    )
    async with session:
        yield Downloader(session, settings, guard)


def retry_after_s(value: str, now: datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` asks for, by number or by date; None when it says nothing.

    Source: RFC 9110, section 10.2.3.
    """
    if value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def opted_out(headers: list[str], user_agent: str) -> bool:
    """Whether `X-Robots-Tag` forbids use for AI, to everyone or to this user agent by name."""
    me = user_agent.partition("/")[0].strip().lower()
    for header in headers:
        first, colon, rest = header.lower().partition(":")
        addressee = first.strip() if colon and "," not in first else ""
        if addressee in ("", "*", me, "unavailable_after"):
            words = {word.strip() for word in (rest if addressee in ("*", me) else header.lower()).split(",")}
            if words & OPT_OUT:
                return True
    return False


def unpacked(data: bytes, encoding: str, limit: int) -> bytes:
    """`data` without its content encoding, which was not asked for; at most `limit` bytes of it are ever made."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FailedError("unknown content encoding", answered=True)
    raw_deflate = encoding == "deflate" and data[:1] and (data[0] & 15) != 8
    unpack = zlib.decompressobj(-zlib.MAX_WBITS if raw_deflate else zlib.MAX_WBITS | 32)
    try:
        whole = unpack.decompress(data, limit + 1)
    except zlib.error:
        raise FailedError("broken content encoding", answered=True) from None
    if len(whole) > limit:
        raise FailedError("too many bytes", answered=True)
    if not unpack.eof:
        raise FailedError("broken content encoding", answered=True)
    return whole


def _parsed(text: str, base: URL | None = None) -> URL:
    """An absolute URL; credentials in it are not ours to send on."""
    try:
        url = URL(text.strip())
        url = url if base is None else base.join(url)
        return url.with_user(None) if url.absolute and url.raw_user is not None else url
    except ValueError:
        raise FailedError("bad url") from None


def _told(error: Exception) -> FailedError:
    """A client library's error in a word; what may pass is worth another attempt."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return FailedError("tls", answered=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return FailedError("no connection", transient=True, answered=False)
    if isinstance(error, aiohttp.InvalidURL):
        return FailedError("bad url")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return FailedError("broken off", transient=True, answered=True)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return FailedError("not http", answered=True)
    return FailedError("broken off", transient=True)
