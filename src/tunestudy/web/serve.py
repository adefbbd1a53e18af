"""`serve`: the live page of a study, until Ctrl-C."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import threading
import webbrowser
from pathlib import Path
from types import FrameType

import uvicorn

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.host import host_name
from tunestudy.web.app import make_app
from tunestudy.web.feed import Feed
from tunestudy.web.guard import Rules, new_token

PORT = 8765
_TRIED = 50
"""Ports that are looked at for a free one."""


def serve(
    study: Path, *, host: str = "127.0.0.1", port: int | None = None, with_token: bool = True, open_page: bool = False
) -> Exit:
    """Serve the page of the results folder `study` until Ctrl-C or SIGTERM. The study itself is never touched.

    `port` 0 takes any free one, None 8765 or the next free one. Raises StudyError for an address that cannot be taken,
    and for one that others can reach without a token.
    """
    family, address = _resolve(host)
    loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    if not loopback and not with_token:
        cause = f"everyone who reaches {host} could read the study; leave --no-token away, or --host"
        raise StudyError("--no-token", cause)
    with _bind(family, address, port) as listening:
        taken = listening.getsockname()[1]
        rules = Rules(
            token=new_token() if with_token else None, port=taken, names=_names(host, loopback), loopback=loopback
        )
        feed = Feed(study)
        feed.data("")  # so that the first look finds everything judged
        url = _url(host, address, rules)
        _tell(study, url, taken, loopback)
        if open_page:
            threading.Thread(target=_open, args=(url,), daemon=True).start()
        _run(feed, rules, listening)
    print("no longer serving; the study goes on as it was")
    return Exit.DONE


def is_cut_short(told: logging.LogRecord) -> bool:
    """Whether it tells of an answer that the end of `serve` cut short, which is no mistake; anything else is told."""
    error = told.exc_info[1] if told.exc_info else None
    return isinstance(error, asyncio.CancelledError) or "without completing response" in told.getMessage()


def _run(feed: Feed, rules: Rules, listening: socket.socket) -> None:
    config = uvicorn.Config(
        make_app(feed, rules),
        log_level="warning",
        access_log=False,  # it would hold the token
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)
    server = uvicorn.Server(config)
    logging.getLogger("uvicorn.error").addFilter(lambda told: not (server.should_exit and is_cut_short(told)))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
        feed.maker.close()


def _as_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        found = socket.getaddrinfo(host or "127.0.0.1", None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        cause = f"`{host}` is no address of this machine ({error.strerror}); leave it away for this machine alone"
        raise StudyError("--host", cause) from error
    family, _, _, _, where = found[0]
    return family, str(where[0])


def _bind(family: socket.AddressFamily, address: str, port: int | None) -> socket.socket:
    if port is not None and not 0 <= port <= 65535:
        raise StudyError("--port", f"must lie between 0 (any free one) and 65535; got {port}")
    tried = range(PORT, PORT + _TRIED) if port is None else (port,)
    for number in tried:
        try:
            return _listen(family, address, number)
        except PermissionError as error:
            raise StudyError("--port", f"{number} may only be taken by root; take one above 1023") from error
        except OSError as error:
            failure = error
            if error.errno not in _TAKEN:
                cause = f"`{address}` cannot be listened on here: {error.strerror}"
                raise StudyError("--host", cause) from error
    free = _next_free(family, address, tried[-1] + 1)
    cure = f"; free is --port {free}" if free else "; --port 0 takes any free one"
    raise StudyError("--port", f"{tried[-1]} is taken by another program{cure}") from failure


_TAKEN = {errno.EADDRINUSE}


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening


def _next_free(family: socket.AddressFamily, address: str, start: int) -> int | None:
    for port in range(start, min(start + _TRIED, 65536)):
        with contextlib.suppress(OSError), _listen(family, address, port):
            return port
    return None


def _names(host: str, loopback: bool) -> frozenset[str]:
    """Names by which the page may be asked for."""
    own = {host} if loopback else {host, socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in own if name)


def _url(host: str, address: str, rules: Rules) -> str:
    everywhere = ipaddress.ip_address(address.partition("%")[0]).is_unspecified
    name = host_name() if everywhere else f"[{address}]" if ":" in address else host
    return f"http://{name}:{rules.port}/" + (f"?token={rules.token}" if rules.token else "")


def _tell(study: Path, url: str, port: int, loopback: bool) -> None:
    if not study.is_dir():
        print(f"nothing has run yet under {study}; the page fills as soon as `tunestudy run` begins")
    print(f"{study.name}: {url}")
    if loopback and "SSH_CONNECTION" in os.environ:
        print(f"from your own machine first: ssh -L {port}:localhost:{port} {host_name()}")
    print("Ctrl-C ends the page, not the study", flush=True)


def _open(url: str) -> None:
    if not webbrowser.open(url):
        print("no browser could be opened here; open the address above yourself", flush=True)
