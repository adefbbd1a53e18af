"""One URL at a time, against a server that behaves as badly as the web."""

import asyncio
import socket
import ssl
import subprocess
import time
import tracemalloc
import zlib
from datetime import UTC, datetime

import pytest
from badweb import BODIES, BOMB, LOOPBACK, picture, quick

from tunestudy.data.fetch.addresses import FailedError, Guard, system_lookup
from tunestudy.data.fetch.download import open_downloader, opted_out, retry_after_s, unpacked


def get(url, *, guard=None, lookup=system_lookup, within_s=2.0, **settings):
    """The bytes, or the word for why there are none."""

    async def run():
        async with open_downloader(quick(**settings), guard or Guard(also=[LOOPBACK]), lookup) as downloader:
            return await downloader.get(url, within_s=within_s)

    try:
        return asyncio.run(run())
    except FailedError as failed:
        return failed.reason


def test_an_image(server):
    assert get(server.url("image/5")) == picture(5)
    assert server.agents == {"tunestudy-fetch/1.0"}


@pytest.mark.parametrize("status", [404, 410, 403, 500, 503, 429, 204])
def test_statuses(server, status):
    assert get(server.url(f"status/{status}")) == f"http {status}"


def test_hops(server):
    assert get(server.url("hops/10")) == picture(3)
    assert get(server.url("hops/11")) == "too many redirects"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("file:///etc/passwd", "not http or https"),
        ("ftp://example.com/a.jpg", "not http or https"),
        ("http://169.254.169.254/latest/meta-data", "address not public"),
        ("http://127.0.0.2/", "address not public"),
        ("http://[::1]/", "address not public"),
        ("http://[::ffff:10.0.0.1]/", "address not public"),
        ("http://0x7f000002/", "address not public"),
        ("http://2130706434/", "address not public"),
        ("http://127.2/", "address not public"),
        ("http://[half", "bad url"),
    ],
)
def test_redirects_are_judged_like_the_first_url(server, target, reason):
    assert get(server.url("to/there") + f"?url={target}") == reason
    assert get(target) == reason


def test_a_redirect_to_the_server_itself_needs_the_same_leave(server):
    """The server's own address is allowed for its name alone here: the hop to it by address is not."""
    guard = Guard()
    guard.check_address = lambda address: None if guarded else Guard.check_address(guard, address)
    guarded = True
    answers = lambda host, port: [LOOPBACK]  # noqa: E731
    hop = server.url("to/a", "images.test") + "?url=" + server.url("image/1")
    assert get(hop, guard=guard, lookup=answers) == picture(1)
    guarded = False
    assert get(hop, guard=guard, lookup=answers) == "address not public"


def test_a_name_server_that_changes_its_mind_is_asked_once(server):
    asked = []

    def rebinding(host, port):
        asked.append(host)
        return [LOOPBACK] if len(asked) == 1 else ["10.0.0.1"]

    assert get(server.url("image/2", "rebind.test"), lookup=rebinding) == picture(2)
    assert asked == ["rebind.test"] and server.hosts == {f"rebind.test:{server.port}": 1}


def test_one_private_address_among_public_ones_is_one_too_many():
    assert get("http://mixed.test/", lookup=lambda host, port: ["93.184.216.34", "10.0.0.1"]) == "address not public"


def test_names_of_this_machine():
    assert get("http://localhost/", guard=Guard()) == "address not public"


def test_loopback_by_switch(server):
    async def run(allow):
        async with open_downloader(quick(allow_loopback=allow)) as downloader:
            return await downloader.get(server.url("image/1"), within_s=2)

    assert asyncio.run(run(True)) == picture(1)
    with pytest.raises(FailedError, match="address not public"):
        asyncio.run(run(False))


def test_nobody_there():
    with socket.socket() as closed:
        closed.bind((LOOPBACK, 0))
        assert get(f"http://{LOOPBACK}:{closed.getsockname()[1]}/") == "no connection"


def test_no_such_name():
    def missing(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def busy(host, port):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    assert get("http://gone.test/", lookup=missing) == "host not found"
    assert get("http://gone.test/", lookup=busy) == "host not found"
    assert get(f"http://{'a' * 70}.test/") in ("host not found", "bad url")


def test_tls_that_nobody_vouches_for(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*command, "-days", "1", "-subj", "/CN=images.test"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def run():
        server = await asyncio.start_server(lambda reader, writer: None, LOOPBACK, 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        async with server, open_downloader(quick(), Guard(also=[LOOPBACK]), lambda h, p: [LOOPBACK]) as downloader:
            await downloader.get(f"https://images.test:{port}/", within_s=5)

    with pytest.raises(FailedError, match="tls"):
        asyncio.run(run())


def test_drips_end_at_the_deadline(server):
    began = time.monotonic()
    assert get(server.url("drip/1"), within_s=0.3) == "deadline"
    assert time.monotonic() - began < 5


def test_endless_bodies_end_at_the_cap(server):
    assert get(server.url("endless/1")) == "too many bytes"
    assert get(server.url("image/1"), max_bytes=100) == "too many bytes"


def test_a_body_shorter_than_promised(server):
    assert get(server.url("short/1")) == "broken off"


def test_gzip_that_nobody_asked_for(server):
    assert get(server.url("zipped/plain")) == BODIES["good"]
    assert get(server.url("zipped/bomb")) == "too many bytes"
    tracemalloc.start()
    with pytest.raises(FailedError, match="too many bytes"):
        unpacked(BOMB, "gzip", 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_unpacked():
    raw = zlib.compress(b"hello")
    assert unpacked(raw, "deflate", 10) == unpacked(raw[2:-4], "deflate", 10) == b"hello"
    for data, encoding in ((raw, "br"), (b"nothing", "gzip"), (raw[:-1], "deflate")):
        with pytest.raises(FailedError, match="content encoding"):
            unpacked(data, encoding, 10)


@pytest.mark.parametrize(
    ("told", "out"),
    [
        ("noai", True),
        ("noindex, NoImageAI", True),
        ("noindex", False),
        ("otherbot: noai", False),
        ("tunestudy-fetch: noai", True),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, noai", True),
    ],
)
def test_opting_out(server, told, out):
    assert opted_out([told], "tunestudy-fetch/1.0") is out
    assert get(server.url("robots/" + told)) == ("opted out (noai)" if out else BODIES["good"])
    assert get(server.url("robots/" + told), respect_noai=False) == BODIES["good"]


def test_retry_after():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s("120") == 120
    assert retry_after_s("Thu, 01 Jan 2026 12:01:00 GMT", now) == 60
    assert retry_after_s("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert retry_after_s("soon") is None and retry_after_s("") is None


def test_credentials_in_urls_are_not_sent(server):
    assert get(server.url("image/1", "me:secret@" + LOOPBACK)) == picture(1)
