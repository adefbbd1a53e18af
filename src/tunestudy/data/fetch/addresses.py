"""Which hosts may be asked: public addresses only, so that no data set can reach into the network it is fetched from.

A name is looked up once, all its addresses are judged, and the connection goes to those very addresses: a name server
that answers differently the second time is never asked a second time.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

SCHEMES = ("http", "https")
LOOKUPS_AT_ONCE = 64
"""Threads that wait for name servers; the event loop's own few would make everybody wait for a slow one."""

Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], list[str]]
"""Host, port → addresses; raises socket.gaierror."""

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is reached
_UNICAST = IPv6Network("2000::/3")  # RFC 4291: all that is given out to anybody so far
_NOT_THERE = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class FailedError(Exception):
    """An attempt that brought no image.

    `reason` is one of a few words, for counting; `transient`: another attempt may do better; `answered`: whether a
    host said something, None when that is not known or none was asked; `wait_s`: what the host asked to wait.
    """

    def __init__(
        self, reason: str, *, transient: bool = False, answered: bool | None = None, wait_s: float | None = None
    ) -> None:
        self.reason, self.transient, self.answered, self.wait_s = reason, transient, answered, wait_s
        super().__init__(reason)


class Guard:
    """Says which URLs and addresses may be asked."""

    def __init__(self, *, allow_loopback: bool = False, also: Iterable[str] = ()) -> None:
        """`also`: single addresses that are allowed beside the public ones."""
        self._loopback = allow_loopback
        self._also = frozenset(ip_address(address) for address in also)

    def check_url(self, url: URL) -> None:
        """Raise FailedError unless the scheme is http(s) and the host is a name or an allowed address."""
        if url.scheme not in SCHEMES:
            raise FailedError("not http or https")
        if not url.host or any(character.isspace() for character in url.host):
            raise FailedError("bad url")
        literal = as_address(url.host)
        if literal is not None:
            self.check_address(literal)

    def check_address(self, address: Address) -> None:
        """Raise FailedError for an address that is not public."""
        if not (is_public(address) or address in self._also or (self._loopback and _plain(address).is_loopback)):
            raise FailedError("address not public")


def as_address(host: str) -> Address | None:
    """The address that a host spells, in any form that a socket understands (`127.1`, `0x7f000001`, `2130706433`)."""
    try:
        return ip_address(host)
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None


def is_public(address: Address) -> bool:
    """Whether anyone on the internet may have this address; of one that carries another, the inner one counts."""
    address = _plain(address)
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_private)


def _plain(address: Address) -> Address:
    """The IPv4 address inside a mapped, 6to4, Teredo or NAT64 one; any other as it is."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)


def system_lookup(host: str, port: int) -> list[str]:
    """What the operating system says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class PinnedResolver(AbstractResolver):
    """Looks a name up, and gives its addresses to the connection only if every one of them may be asked."""

    def __init__(self, guard: Guard, lookup: Lookup = system_lookup) -> None:
        self._guard, self._lookup = guard, lookup
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "lookup")
        self._missing: set[str] = set()
        """Names that are not there: half of the dead URLs of a web data set share a few hosts."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp asks for one only when told to
    ) -> list[ResolveResult]:
        """Addresses of either family to dial. Raises FailedError."""
        if host in self._missing:
            raise FailedError("host not found", answered=False)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that no name can have
            if not isinstance(error, UnicodeError | socket.gaierror):
                raise
            gone = isinstance(error, UnicodeError) or error.errno in _NOT_THERE
            if gone:
                self._missing.add(host)
            raise FailedError("host not found", transient=not gone, answered=False) from error
        addresses = [ip_address(text) for text in found]
        for address in addresses:
            self._guard.check_address(address)
        return [_result(host, port, address) for address in addresses]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _result(host: str, port: int, address: Address) -> ResolveResult:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=0, flags=flags)
