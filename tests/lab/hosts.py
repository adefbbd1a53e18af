"""Several hosts on this machine, to launch on for real: namespaces with an address, a name and an sshd of their own.

    with lab_hosts(folder, 2) as hosts:
        hosts.run(1, ["ssh", "h2", "hostname"])
        hosts.power_off(2)

Each host has its own network, process ids, host name and /dev/shm; the file system is shared, as over NFS. Needs root,
sshd and ip. Everything that was started ends with the context.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

_SSH_CONFIG = """\
Host *
  IdentityFile {folder}/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
_SSHD_CONFIG = """\
Port 22
HostKey {folder}/hostkey
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
PidFile none
MaxStartups 100
{environment}
"""
_INIT = """\
hostname h{number}
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/ssh /etc/ssh
mount -t tmpfs -o size=512m tmpfs /dev/shm
echo ready > {folder}/h{number}.ready
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip link set lo up
ip addr add {network}.{number}/24 dev eth0
ip link set eth0 up
exec {sshd} -D -e
"""


class LabHosts:
    """h1 … hN, by number."""

    def __init__(self, folder: Path, num_hosts: int, network: int) -> None:
        self.folder, self.num_hosts = folder, num_hosts
        self._network, self._bridge = f"10.83.{network}", f"tslab{network}"
        self._holders: dict[int, subprocess.Popen[bytes]] = {}
        self._wan: subprocess.Popen[bytes] | None = None

    def command(self, host: int, argv: Sequence[str], folder: Path = Path("/")) -> list[str]:
        """argv as it has to be started from outside to run on the host, in `folder`."""
        there = ["bash", "-c", 'cd "$0" && exec "$@"', str(folder), *argv]  # entering a mount space goes to its root
        return ["nsenter", "-t", str(self._init(host)), "-n", "-u", "-m", "-p", "--", *there]

    def run(self, host: int, argv: Sequence[str], timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(host, argv),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def processes(self, host: int, containing: str) -> list[str]:
        """Command lines on the host in which the text occurs; none on one that is off."""
        if self._holders[host].poll() is not None:
            return []
        listed = self.run(host, ["ps", "-eo", "args"]).stdout.splitlines()
        return [line for line in listed if containing in line and not line.startswith("ps ")]

    def power_off(self, host: int) -> None:
        """Pull the cord: every process of the host is gone at once, and nobody is told."""
        self._holders[host].kill()
        self._holders[host].wait()

    def cut_off(self, host: int) -> None:
        """Pull the network cable; processes stay."""
        _ip("link", "set", self._cable(host), "down")

    def slow_down(self, *, rate_mbit: float, delay_ms: float) -> None:
        """Move all hosts, with their addresses, to a network where lines are slow and the way is long."""
        inits = [str(self._init(host)) for host in self._holders]
        words = [sys.executable, str(Path(__file__).with_name("wan.py")), str(rate_mbit), str(delay_ms), *inits]
        self._wan = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
        assert self._wan.stdout is not None
        if self._wan.stdout.readline() != b"ready\n":
            raise RuntimeError("no slow network")
        for host in self._holders:
            address = f"{self._network}.{host}/24"
            for words in (["del", address, "dev", "eth0"], ["add", address, "dev", "wan0"]):
                moved = self.run(host, ["ip", "addr", *words])
                assert moved.returncode == 0, moved.stderr

    def address(self, host: int) -> str:
        return f"{self._network}.{host}"

    def _cable(self, host: int) -> str:
        return f"{self._bridge}.{host}"

    def _init(self, host: int) -> int:
        pid = self._holders[host].pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def _up(self) -> None:
        ssh = self.folder / "ssh"
        ssh.mkdir()
        for key in ("key", "hostkey"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key],
                check=True,
                stdin=subprocess.DEVNULL,
            )
        shutil.copy(self.folder / "key.pub", self.folder / "authorized_keys")
        names = "".join(f"{self._network}.{number} h{number}\n" for number in range(1, self.num_hosts + 1))
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (ssh / "ssh_config").write_text(_SSH_CONFIG.format(folder=self.folder))
        (ssh / "sshd_config").write_text(_SSHD_CONFIG.format(folder=self.folder, environment=_environment()))
        Path("/run/sshd").mkdir(exist_ok=True)
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        for number in range(1, self.num_hosts + 1):
            self._start(number)
        self._wait_for_sshd()

    def _start(self, number: int) -> None:
        script = self.folder / f"h{number}.sh"
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        script.write_text(_INIT.format(number=number, folder=self.folder, network=self._network, sshd=sshd))
        spaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / f"h{number}.log").open("wb") as log:
            self._holders[number] = subprocess.Popen(
                ["unshare", *spaces, "bash", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
            )
        _wait(lambda: (self.folder / f"h{number}.ready").exists(), f"h{number} did not come up")
        cable = self._cable(number)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._init(number)))
        _ip("link", "set", cable, "master", self._bridge)
        _ip("link", "set", cable, "up")

    def _wait_for_sshd(self) -> None:
        for number in range(1, self.num_hosts + 1):
            _wait(
                lambda number=number: self.run(1, ["ssh", "-n", f"h{number}", "true"]).returncode == 0,
                f"no sshd on h{number}",
            )

    def _down(self) -> None:
        if self._wan is not None:
            self._wan.kill()
            self._wan.wait()
        for holder in self._holders.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(holder.pid, signal.SIGKILL)
            holder.wait()
        for number in range(1, self.num_hosts + 1):
            _ip("link", "del", self._cable(number), check=False)
        _ip("link", "del", self._bridge, check=False)


_networks = count(os.getpid() % 200)
"""Two labs, of one test session or of two, must not meet."""


@contextlib.contextmanager
def lab_hosts(folder: Path, num_hosts: int) -> Iterator[LabHosts]:
    """Hosts that reach each other by name over ssh. `folder` must not exist."""
    folder.mkdir()
    hosts = LabHosts(folder.resolve(), num_hosts, next(_networks) % 256)
    try:
        hosts._up()
        yield hosts
    finally:
        hosts._down()


def _environment() -> str:
    """A checkout that is tested by PYTHONPATH is what the hosts run, too."""
    path = os.environ.get("PYTHONPATH")
    return f'SetEnv "PYTHONPATH={path}"' if path else ""


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def _wait(ready: "object", complaint: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(complaint)
        time.sleep(0.05)
