"""Which addresses may be asked, held against the registries of special addresses."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tunestudy.data.fetch.addresses import FailedError, Guard, as_address, is_public

CLOSED_4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
]
"""Source: IANA IPv4 Special-Purpose Address Registry; RFC 5771 for multicast."""
CLOSED_6 = ["::/128", "::1/128", "100::/64", "2001:db8::/32", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"]
"""Source: IANA IPv6 Special-Purpose Address Registry; RFC 4291 for multicast and site-local addresses."""
OPEN = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "192.169.0.1", "2606:4700::1111"]


def inside(networks):
    """Any address in one of these networks."""
    return st.sampled_from([ip_network(text) for text in networks]).flatmap(
        lambda net: st.integers(0, net.num_addresses - 1).map(lambda offset: net[offset])
    )


def carriers(inner: IPv4Address) -> list[IPv6Address]:
    """IPv6 addresses that reach an IPv4 one. Sources: RFC 4291 (mapped), 3056 (6to4), 6052 (NAT64), 4380 (Teredo)."""
    number = int(inner)
    return [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x20010000 << 96) | (0x01010101 << 64) | (number ^ 0xFFFFFFFF)),
    ]


@given(inside(CLOSED_4))
def test_special_ipv4_addresses_are_closed_however_they_are_wrapped(address):
    assert not is_public(address)
    assert not any(is_public(carrier) for carrier in carriers(address))


@given(inside(CLOSED_6))
def test_special_ipv6_addresses_are_closed(address):
    assert not is_public(address)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6, network="2600::/12")))
def test_all_others_are_open(address):
    closed = [ip_network(text) for text in (*CLOSED_4, *CLOSED_6, "192.0.0.0/24", "192.88.99.0/24")]
    if not any(net.version == address.version and address in net for net in closed):
        assert is_public(address)


@pytest.mark.parametrize("text", OPEN)
def test_well_known_addresses_are_open(text):
    assert is_public(ip_address(text))
    Guard().check_address(ip_address(text))


@given(inside(CLOSED_4))
def test_every_spelling_of_an_address_is_understood(address):
    number, (a, b, c, d) = int(address), address.packed
    parts = [f"0{a:o}.{b}.{c}.{d:#x}", f"{a}.{number & 0xFFFFFF}"]
    for text in (str(address), str(number), hex(number), *parts):
        assert as_address(text) == address
        with pytest.raises(FailedError):
            Guard().check_url(URL(f"http://{text}/"))


def test_the_switch_opens_loopback_alone():
    guard = Guard(allow_loopback=True)
    for text in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        guard.check_address(ip_address(text))
    for text in ("10.0.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "::", "fe80::1"):
        with pytest.raises(FailedError, match="address not public"):
            guard.check_address(ip_address(text))


def test_single_addresses_can_be_allowed():
    guard = Guard(also=["10.0.0.5"])
    guard.check_address(ip_address("10.0.0.5"))
    with pytest.raises(FailedError):
        guard.check_address(ip_address("10.0.0.6"))


def test_names_are_no_addresses():
    assert as_address("example.com") is None and as_address("0x") is None and as_address("") is None
