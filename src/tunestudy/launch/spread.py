"""One job on several hosts: torchrun on each of them, started through ssh or srun and watched from here.

    python -m tunestudy.launch.spread FOLDER ADDRESS PORT MODULE LAUNCHER HOST:SLOTS …

This process stands where torchrun stands on one host. SIGTERM asks all ranks to save and leave. When one host fails, or
this process goes, the others are ended: a host kills its ranks when the connection closes or is silent. Lines of a
host's output begin with its name. Exit code: 0, or the first failing host's, 255 where ssh could not reach it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from tunestudy.config.resources import Resources
from tunestudy.launch.on_host import BEAT_S
from tunestudy.launch.torchrun import Command, command_here
from tunestudy.preflight.hosts import hosts_of, on_host
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest
from tunestudy.study.hosts import Host

POLL_S = 0.1
LAST_WORDS_S = 8.0
"""How long the other hosts' torchruns have to notice that one failed and to say so, before they are ended."""
UNREACHED = 255

PASSED = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "WANDB_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_")
PASSED_NAMES = frozenset(
    {"OMP_NUM_THREADS", "TQDM_DISABLE", "TUNESTUDY_ATTEMPT", "TUNESTUDY_DEVICES"}
    | {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
)


def spread_command(
    hosts: Sequence[Host], resources: Resources, folder: JobDir, module: str = "tunestudy.worker"
) -> list[str]:
    """What the executor starts in place of torchrun on this host."""
    there = [f"{host.name}:{host.slots}" for host in hosts]
    return [
        *(sys.executable, "-m", "tunestudy.launch.spread", str(folder.root.resolve())),
        *(resources.rendezvous_address or hosts[0].name, str(resources.rendezvous_port), module, resources.launcher),
        *there,
    ]


def command_for(resources: Resources, base: Path, module: str = "tunestudy.worker") -> Command:
    """How jobs are started: here, or on all hosts; a hostfile's path is relative to `base`."""
    if not resources.is_spread:
        return partial(command_here, module=module)
    hosts = hosts_of(resources, base)
    return lambda folder, _: spread_command(hosts, resources, folder, module)


def main(folder: str, address: str, port: str, module: str, launcher: str, *named: str) -> int:
    """Start all hosts, pass on what they say, and end all when one fails."""
    stop = StopRequest.on_signals(signal.SIGTERM, signal.SIGINT)
    stacks = StopRequest.on_signals(signal.SIGUSR2)
    hosts = [Host(name, int(slots)) for name, _, slots in (one.rpartition(":") for one in named)]
    meeting = {"folder": folder, "module": module, "address": address, "port": int(port), "hosts": len(hosts)}
    ends = [HostEnd(host, launcher, {**meeting, "place": place}) for place, host in enumerate(hosts)]
    try:
        return watch(ends, stop, stacks)
    finally:
        for end in ends:
            end.close()


class HostEnd:
    """The connection to one host."""

    def __init__(self, host: Host, launcher: str, meeting: dict[str, Any]) -> None:
        self.host = host
        self._process = subprocess.Popen(
            on_host(launcher, host.name, "tunestudy.launch.on_host"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()
        self._say({**meeting, "slots": host.slots, "environment": passed_on(os.environ)})

    def poll(self) -> int | None:
        """The exit code of the host's torchrun once it has ended, UNREACHED when the connection has."""
        code = self._process.poll()
        return UNREACHED if code is not None and code < 0 else code  # ssh or srun itself was killed, here

    def ask_to_stop(self) -> None:
        """Let the host's ranks save and leave."""
        self._say({"stop": True})

    def show_stacks(self) -> None:
        """Have the host's ranks write where they are to their logs."""
        self._say({"stacks": True})

    def give_a_sign(self) -> None:
        """Tell the host that its launcher lives."""
        if self.poll() is None:
            self._say({"alive": True})

    def close(self) -> None:
        """End the host's ranks if any are left, and pass on its last words."""
        stdin: IO[bytes] | None = self._process.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
        try:
            self._process.wait(timeout=LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(timeout=LAST_WORDS_S)

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            print(f"[{self.host.name}] is not listening any more", file=sys.stderr, flush=True)

    def _pass_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(f"[{self.host.name}] {line.decode(errors='replace').rstrip()}", flush=True)


def watch(ends: Sequence[HostEnd], stop: StopRequest, stacks: StopRequest) -> int:
    """Until all hosts are through; the first failure's exit code, after the others had time to see it, too."""
    told, beat = False, time.monotonic()
    failed: tuple[float, int] | None = None
    while any(end.poll() is None for end in ends):
        if stop and not told:
            told = True
            for end in ends:
                end.ask_to_stop()
        if stacks:
            stacks.wanted = False
            for end in ends:
                end.show_stacks()
        if time.monotonic() - beat > BEAT_S:
            beat = time.monotonic()
            for end in ends:
                end.give_a_sign()
        wrong = next((end for end in ends if end.poll()), None)
        if wrong is not None and failed is None:
            failed = time.monotonic(), _said_of(wrong, ends)
        if failed is not None and time.monotonic() - failed[0] > LAST_WORDS_S:
            return failed[1]
        time.sleep(POLL_S)
    return failed[1] if failed else next((_said_of(end, ends) for end in ends if end.poll()), 0)


def _said_of(wrong: HostEnd, ends: Sequence[HostEnd]) -> int:
    """The exit code of a host that failed, after a word on it; one that is alone has said why it ended."""
    code = wrong.poll() or UNREACHED
    if code == UNREACHED or len(ends) > 1:
        print(f"host {wrong.host.name} failed: {in_words(code)}", file=sys.stderr, flush=True)
    return code


def in_words(code: int) -> str:
    """What a host's exit code means."""
    if code == UNREACHED:
        return "the connection ended or never began"
    return f"its torchrun was killed by signal {code - 128}" if code > 128 else f"exit code {code}"


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What every host gets of this process's environment: libraries' settings, not the machine's own."""
    told = json.loads(environment.get("TUNESTUDY_ENV", "[]"))
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED) or name in PASSED_NAMES or name in told
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
