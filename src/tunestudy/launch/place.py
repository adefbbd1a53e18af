"""Where jobs run: the seam between the one loop and what starts processes for it.

A `Place` has slots and starts a job's processes on one of them; what it returns stands for those processes. The loop
asks nothing else, so it is the same on a laptop, inside a SLURM allocation and on a Ray cluster. State is in the job's
files as always: a place never says that a job is done.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunestudy.launch import torchrun
from tunestudy.launch.local import Slot
from tunestudy.launch.torchrun import Command
from tunestudy.records.layout import JobDir


class Running(Protocol):
    """A job's processes."""

    @property
    def pid(self) -> int:
        """Of a process on this machine that lives as long as they do: it keeps the job's claim."""

    @property
    def waits(self) -> str:
        """What it waits for, in words, while none of them runs yet; else nothing."""

    def poll(self) -> int | None:
        """None while they run; then an exit code, minus the signal's number where one ended them."""

    def ask_to_stop(self) -> None:
        """Let the ranks save and leave."""

    def show_stacks(self) -> None:
        """Have every rank write where it is to its log: SIGUSR2 to the workers, and to nobody else, whom it kills."""

    def kill(self) -> None:
        """End all of them at once."""


class Place(Protocol):
    """What starts jobs."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Fixed while the loop runs. Slot names are the same for every launcher on a machine: they are leased."""

    def start(self, folder: JobDir, slot: Slot, environment: Mapping[str, str], log: Path) -> Running:
        """Start the job of `folder`; what its processes print is appended to `log`."""


@dataclass(frozen=True)
class ThisMachine:
    """Processes of this machine, or one that stands for those on a hostfile's hosts."""

    slots: Sequence[Slot]
    command: Command

    def start(self, folder: JobDir, slot: Slot, environment: Mapping[str, str], log: Path) -> "LocalProcess":
        return LocalProcess(torchrun.start(self.command(folder, slot.ranks), environment, log))


@dataclass(frozen=True)
class LocalProcess:
    """A process of this machine with its ranks."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def waits(self) -> str:
        return ""

    def poll(self) -> int | None:
        return self.process.poll()

    def ask_to_stop(self) -> None:
        torchrun.ask_to_stop(self.pid)

    def show_stacks(self) -> None:
        torchrun.show_stacks(self.pid)

    def kill(self) -> None:
        torchrun.kill(self.pid)
