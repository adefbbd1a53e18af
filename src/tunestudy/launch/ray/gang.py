"""One job on a Ray cluster, as the driver sees it: a placement group, a keeper on each bundle, and what they tell."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tunestudy.launch.ray.node import Keeper
from tunestudy.launch.spread import LAST_WORDS_S, UNREACHED, in_words
from tunestudy.records.redact import redact


@dataclass
class Part:
    """A machine's share of the job. The keepers of its other bundles only hold what Ray gave them."""

    keeper: Any
    host: str
    slots: int
    gpus: list[str]
    news: Any
    """The answer that is awaited: of `begin` at first, of `listen` from then on."""
    begun: bool = False
    code: int | None = None


@dataclass
class Gang:
    """A job's processes on all their machines. `code` is set once it is over, as `launch.spread` would exit."""

    asked: dict[str, Any]
    """job, folder, log, module, environment, bundles, strategy, ranks_per_bundle."""
    group: Any
    keepers: list[Any]
    places: list[Any]
    """Where the keepers are, when Ray has placed them: until then the job waits for room."""
    parts: list[Part] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    """Ray's ids of its machines."""
    failed: tuple[float, int] | None = None
    """When and how the first part failed."""
    stopping: bool = False
    """It was asked to stop: parts that have not begun yet are asked once they have."""
    code: int | None = None

    @classmethod
    def placed(cls, asked: dict[str, Any]) -> "Gang":
        """Ask Ray for room; returns at once."""
        bundles = asked["bundles"]
        group = placement_group(bundles, strategy=asked["strategy"], name=asked["job"])
        keepers = [
            ray.remote(Keeper)
            .options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                max_restarts=0,
                max_concurrency=4,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place),
            )
            .remote()
            for place, bundle in enumerate(bundles)
        ]
        return cls(asked, group, keepers, [keeper.where.remote() for keeper in keepers])

    def look(self) -> Iterator[dict[str, Any]]:
        """Take in what has happened. Yields `placed`: the machines, once there is room."""
        if self.code is not None:
            return  # its keepers were ended by us: that they are gone is no news
        if not self.parts:
            ready, waiting = ray.wait(self.places, num_returns=len(self.places), timeout=0)
            broken = next((error for one in ready if (error := _error_of(one))), None)
            if broken is not None:
                self.say([f"Ray could not start the job's workers: {broken}"])
                self.finish(1)
            elif not waiting:
                self.begin(ray.get(self.places))
                yield {"placed": [part.host for part in self.parts]}
        for part in self.parts:
            self.hear(part)
        self.judge()

    def begin(self, places: Sequence[dict[str, Any]]) -> None:
        """Start each machine's part; they meet at the machine of the first bundle."""
        by_node: dict[str, list[int]] = {}
        for number, place in enumerate(places):
            by_node.setdefault(place["node"], []).append(number)
        self.nodes = list(by_node)
        meeting = {"folder": self.asked["folder"], "module": self.asked["module"], "hosts": len(by_node)}
        meeting |= {"address": places[0]["address"], "port": places[0]["port"]}
        for number, (leader, *others) in enumerate(by_node.values()):
            gpus = [gpu for place in (leader, *others) for gpu in places[place]["gpus"]]
            slots = (1 + len(others)) * self.asked["ranks_per_bundle"]
            environment = {**self.asked["environment"], "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
            told = {**meeting, "place": number, "slots": slots, "environment": environment}
            keeper = self.keepers[leader]
            self.parts.append(Part(keeper, places[leader]["host"], slots, gpus, keeper.begin.remote(told)))

    def hear(self, part: Part) -> None:
        """The news of one machine, if there are any."""
        if part.code is not None or not ray.wait([part.news], timeout=0)[0]:
            return
        try:
            told = ray.get(part.news)
        except ActorUnavailableError:  # the network may be back at the next word
            part.news = part.keeper.listen.remote()
            return
        except RayError as error:
            part.code = UNREACHED
            self.say([f"Ray lost its worker on {part.host}: {_first_line(error)}"])
            return
        if not part.begun:
            part.begun = True
            if told is not None:
                self.say([f"{part.host} {told}"])
                part.code = 1
                return
            if self.stopping:
                part.keeper.ask_to_stop.remote()
        else:
            lines, part.code = told
            self.say([f"[{part.host}] {line}" for line in lines] if len(self.parts) > 1 else lines)
        if part.code is None:
            part.news = part.keeper.listen.remote()

    def judge(self) -> None:
        """Whether it is over: all have ended, or one has failed and the others had time to notice."""
        if not self.parts or self.code is not None:
            return
        wrong = next((part for part in self.parts if part.code), None)
        if wrong is not None and self.failed is None:
            self.failed = time.monotonic(), wrong.code or UNREACHED
            if wrong.code == UNREACHED or len(self.parts) > 1:
                self.say([f"host {wrong.host} failed: {in_words(wrong.code or UNREACHED)}"])
        over = all(part.code is not None for part in self.parts)
        if over or (self.failed and time.monotonic() - self.failed[0] > LAST_WORDS_S):
            self.finish(self.failed[1] if self.failed else 0)

    def ask_to_stop(self) -> None:
        """Let all ranks save and leave; a job that waits for room just leaves."""
        self.stopping = True
        if not self.parts:
            self.finish(0)
        for part in self.parts:
            if part.begun and part.code is None:
                part.keeper.ask_to_stop.remote()

    def show_stacks(self) -> None:
        """Let all ranks write to their logs where they are."""
        for part in self.parts:
            if part.begun and part.code is None:
                part.keeper.show_stacks.remote()

    def kill(self) -> None:
        """End all at once."""
        self.finish(128 + 9)

    def finish(self, code: int) -> None:
        """Give everything back to Ray; what still runs ends with its keeper."""
        self.code = code
        for keeper in self.keepers:
            ray.kill(keeper)
        remove_placement_group(self.group)

    def say(self, lines: Sequence[str]) -> None:
        """Into the job's log. Where that cannot be written the job itself fails, and tells of the disk."""
        if lines:
            log = Path(self.asked["log"])
            with contextlib.suppress(OSError):
                log.parent.mkdir(parents=True, exist_ok=True)
                with open(log, "ab") as file:
                    file.write("".join(f"{redact(line)}\n" for line in lines).encode())


def _error_of(answer: Any) -> str | None:
    try:
        ray.get(answer)
    except RayError as error:
        return _first_line(error)
    return None


def _first_line(error: BaseException) -> str:
    """Of Ray's long explanations the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
