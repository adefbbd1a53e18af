"""Jobs on a Ray cluster that runs already, whose machines see the results under the same path.

Ray finds room for jobs and tells when a machine is lost; what is done is still told by the jobs' files alone. All
talking with Ray is left to a process of its own (`launch.ray.driver`), with which jobs end.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.resources import Resources
from tunestudy.launch.local import Slot
from tunestudy.launch.ray.layout import Wish, jobs_at_once, wish_for
from tunestudy.launch.spread import UNREACHED, passed_on
from tunestudy.preflight.facts import facts
from tunestudy.preflight.hosts import differences
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease
from tunestudy.study.hosts import Host
from tunestudy.study.problems import raise_all

JOIN_S, FACTS_S = 40.0, 90.0
"""Patience with a cluster: to take us in (2 s as a rule), and until its machines have told their facts."""
ADDRESS = "resources.ray.address"
"""The key that most complaints are about."""
_LOOK_S = 1.0
"""Between looks at a lost rank's lease."""


class RayPlace:
    """Slots of a Ray cluster. It is asked when they are first wanted: a study that is done needs no cluster."""

    def __init__(self, resources: Resources, files: Sequence[str], module: str = "tunestudy.worker") -> None:
        self._resources, self._files, self._module = resources, files, module
        self._driver: Driver | None = None
        self._jobs = 0

    @cached_property
    def _cluster(self) -> tuple[Wish, list[Slot]]:
        """What a job asks for, and the slots. Raises StudyError (exit code 3) where the cluster cannot do it."""
        machines = self._connected().machines
        raise_all(list(problems_of(machines, facts(self._files))))
        amounts = [machine["resources"] for machine in machines]
        wish = wish_for(self._resources, amounts)
        count = jobs_at_once(self._resources, wish, amounts)
        has_gpus = "GPU" in wish.bundles[0]
        threads = self._resources.threads or (max(1, int(self._resources.ray.cpus_per_rank)) if has_gpus else 1)
        return wish, [Slot(f"ray{place}", self._resources.ranks, (), threads) for place in range(count)]

    @property
    def slots(self) -> Sequence[Slot]:
        return self._cluster[1]

    def start(self, folder: JobDir, slot: Slot, environment: Mapping[str, str], log: Path) -> "RayJob":
        """StudyError when the cluster is gone by now."""
        wish, driver = self._cluster[0], self._connected()
        own = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}  # Ray deals them
        self._jobs += 1
        driver.say(
            job=self._jobs,
            start={
                "job": folder.root.name,
                "folder": str(folder.root.resolve()),
                "log": str(log.resolve()),
                "module": self._module,
                "environment": {**passed_on(own), **self._resources.ray.runtime_env},
                "bundles": wish.bundles,
                "strategy": wish.strategy,
                "ranks_per_bundle": slot.ranks // len(wish.bundles),
            },
        )
        return RayJob(driver, self._jobs, folder, f"waiting for Ray to place it ({wish.in_words})")

    def close(self) -> None:
        """Leave the cluster; jobs that run end."""
        if self._driver is not None:
            self._driver.close()

    def _connected(self) -> "Driver":
        if self._driver is None or self._driver.is_gone:
            self._driver = Driver(self._resources.ray.address, self._files)
        return self._driver


class Driver:
    """The process that speaks with Ray. It ends when this process does, or `close` is called."""

    def __init__(self, address: str, files: Sequence[str]) -> None:
        """Raises StudyError when there is no such cluster."""
        if find_spec("ray") is None:
            message = "Ray is not installed here: pip install 'tunestudy[ray]', the version that the cluster runs"
            raise StudyError(at("resources.executor"), message, exit_code=Exit.PREFLIGHT_REFUSED)
        self.address = address
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tunestudy.launch.ray.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._answers = self._process.stdout.fileno()
        os.set_blocking(self._answers, False)
        self._unread = b""
        self.is_gone = False
        self.jobs: dict[int, dict[str, Any]] = {}
        """Job number → what was told of it."""
        self.say(address=address, files=list(files), environment=passed_on(os.environ))
        self.machines: list[dict[str, Any]] = self._first_answer()["machines"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, **wish: Any) -> None:
        """Send one line; a driver that is gone is noticed by the next `look`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(wish).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.is_gone = True

    def look(self) -> None:
        """Take in all that has been told."""
        for answer in self._read():
            self.jobs.setdefault(answer["job"], {}).update(answer)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # what a driver that is gone was told lies in the buffer yet
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self.is_gone = True

    def _first_answer(self) -> dict[str, Any]:
        began, patience = time.monotonic(), JOIN_S
        wrong = f"the Ray cluster at {self.address} does not answer; see `ray status --address={self.address}`"
        while time.monotonic() - began < patience and not self.is_gone:
            for answer in self._read():
                if "machines" in answer:
                    return answer
                patience = FACTS_S if "joined" in answer else patience
                wrong = answer.get("wrong", wrong)
            time.sleep(0.02)
        self._process.kill()
        self._process.wait()
        raise StudyError(at(ADDRESS), wrong, exit_code=Exit.PREFLIGHT_REFUSED)

    def _read(self) -> Iterator[dict[str, Any]]:
        while not self.is_gone:
            try:
                data = os.read(self._answers, 1 << 16)
            except BlockingIOError:
                return
            self.is_gone = not data
            *lines, self._unread = (self._unread + data).split(b"\n")
            yield from (json.loads(line) for line in lines)


@dataclass
class RayJob:
    """A job's processes on the cluster; the driver stands for them on this machine."""

    driver: Driver
    number: int
    folder: JobDir
    waiting: str
    """What it waits for until Ray has placed it."""
    killed: bool = False
    _code: int | None = None
    _looked: float = 0.0

    @property
    def pid(self) -> int:
        return self.driver.pid

    @property
    def waits(self) -> str:
        """In words, while nothing runs."""
        return "" if self._told.keys() & {"placed", "ended"} else self.waiting

    def poll(self) -> int | None:
        """After its machine was lost: only when its ranks are certain to have ended, as another attempt may follow."""
        if self._code is not None:
            return self._code
        self.driver.look()
        code = self._told.get("ended")
        if code is None and self.driver.is_gone:
            code = self._told["ended"] = self._lost_cluster()
        if code == UNREACHED and not self.killed and self._may_still_run():
            return None
        self._code = code if code is None or code == UNREACHED or code <= 128 else 128 - code
        return self._code

    def ask_to_stop(self) -> None:
        self.driver.say(job=self.number, stop=True)

    def show_stacks(self) -> None:
        self.driver.say(job=self.number, stacks=True)

    def kill(self) -> None:
        self.killed = True
        self.driver.say(job=self.number, kill=True)

    @property
    def _told(self) -> dict[str, Any]:
        return self.driver.jobs.setdefault(self.number, {})

    def _lost_cluster(self) -> int:
        with open(self.folder.launch_log, "ab") as log:
            log.write(f"host {self.driver.address} failed: the connection to the Ray cluster ended\n".encode())
        return UNREACHED

    def _may_still_run(self) -> bool:
        if time.monotonic() - self._looked < _LOOK_S:
            return True
        self._looked = time.monotonic()
        return Lease.holder(self.folder.lease) is not None


def problems_of(machines: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> Iterator[StudyError]:
    """What keeps the cluster's machines from working as this one does."""
    for machine in machines:
        place = f"Ray's machine {machine['host']}"
        if machine["facts"] is None:
            cure = "install the same there, for the Python that runs Ray"
            message = f"has no tunestudy that works: {machine['said']}; {cure}"
            yield StudyError(place, message, exit_code=Exit.PREFLIGHT_REFUSED)
            continue
        for difference in differences(Host(machine["host"], 0), here, machine["facts"]):
            message = difference.message.replace(" (tunestudy setup-hosts)", "")
            yield StudyError(place, message, exit_code=Exit.PREFLIGHT_REFUSED)
