"""The process that speaks with a Ray cluster for a launcher: `python -m tunestudy.launch.ray.driver`.

Ray ends a process whose cluster is gone, takes signals, and starts threads that no fork survives. A launcher must not
be exposed to any of that, so it talks with this process by lines of JSON: the first one says which cluster; `start`,
`stop` and `kill` follow, and answers tell how each job goes. When stdin ends the launcher is gone, and so are its jobs.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tunestudy.launch.ray.gang import Gang
from tunestudy.preflight.hosts import MARK

POLL_S = 0.05
KNOCK_S = 5.0
PATIENCE_S = 60.0
"""For a machine to tell its facts: its first Python may come from a slow file system."""

Tell = Callable[[dict[str, Any]], None]


class ClusterError(Exception):
    """Why there is no cluster to work with, in words for users."""


def main() -> int:
    tell = private_output()
    asked = json.loads(sys.stdin.readline())
    try:
        connect(asked["address"])
        tell({"joined": True})
        tell({"machines": machines(asked["files"], asked["environment"])})
    except ClusterError as error:
        tell({"wrong": str(error)})
        return 1
    wishes: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(wishes,), daemon=True).start()
    serve(wishes, tell)
    ray.shutdown()
    return 0


def private_output() -> Tell:
    """What answers go through: standard output, which Ray's own libraries may write to, becomes standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=answers, flush=True)


def connect(address: str) -> None:
    """Join a cluster that runs, never start one, and send nothing to anyone. Raises ClusterError."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if (silence := why_silent(address)) is not None:
        raise ClusterError(f"no Ray cluster can be reached at {address}: {silence}")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(why_not(address, str(error))) from error


def why_silent(address: str) -> str | None:
    """Whether something listens at `host:port`: Ray itself would go on asking for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return None  # `auto` and the like: Ray knows where it keeps its own
    try:
        socket.create_connection((host, int(port)), KNOCK_S).close()
    except socket.gaierror:
        return f"there is no host {host}"
    except TimeoutError:
        return f"{host} does not answer"
    except OSError as error:
        return (
            f"{(error.strerror or str(error)).lower()}; is its head running, and is the port right (6379 by default)?"
        )
    return None


def why_not(address: str, said: str) -> str:
    """Ray's answers to a call for a cluster, as users can use them."""
    if "ersion mismatch" in said:
        words = " ".join(said.split())
        return f"the cluster at {address} runs another Ray or Python; install the same on both sides. Ray says: {words}"
    if "oken" in said and "uthenticat" in said:
        cure = "copy ~/.ray/auth_token from its head, and export RAY_AUTH_MODE=token"
        return f"the cluster at {address} wants its token: {cure}"
    if "Could not find any running Ray instance" in said:
        return "no Ray cluster runs on this machine; `ray start --head` makes one, or name it: resources.ray.address"
    if ("local" in said and ("node" in said or "raylet" in said)) or "expects this IP" in said:
        join = f"`ray start --address={address}` here, or run where the cluster runs"
        return f"this machine is no part of the Ray cluster at {address}: {join}"
    first = next((line.strip() for line in said.splitlines() if line.strip()), "it gave no reason")
    return f"no Ray cluster can be reached at {address}: {first}"


def machines(files: list[str], environment: dict[str, str]) -> list[dict[str, Any]]:
    """node, host, resources and facts (see `preflight.facts`) of every machine; `said` where it could tell none."""

    def ask(files: list[str], environment: dict[str, str]) -> tuple[str, str]:  # goes by value: needs nothing there
        done = subprocess.run(
            [sys.executable, "-m", "tunestudy.preflight.facts", *files],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        return done.stdout, done.stderr

    alive = [node for node in ray.nodes() if node["Alive"]]
    probe = ray.remote(num_cpus=0, max_retries=0)(ask)
    here = [NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False) for node in alive]
    asked = [probe.options(scheduling_strategy=place).remote(files, environment) for place in here]
    ray.wait(asked, num_returns=len(asked), timeout=PATIENCE_S)
    return [_told(node, answer) for node, answer in zip(alive, asked, strict=True)]


def _told(node: dict[str, Any], answer: Any) -> dict[str, Any]:
    named = {"host": node["NodeManagerHostname"], "resources": node["Resources"], "facts": None, "said": ""}
    try:
        output, errors = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return {**named, "said": f"did not answer within {PATIENCE_S:.0f} s"}
    except RayError as error:
        return {**named, "said": last_line(str(error))}
    line = next((line for line in output.splitlines() if line.startswith(MARK)), None)
    if line is None:
        return {**named, "said": last_line(errors)}
    return {**named, "facts": json.loads(line.removeprefix(MARK))}


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1].strip()


def listen(wishes: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        wishes.put(json.loads(line))
    wishes.put(None)


def serve(wishes: "queue.SimpleQueue[dict[str, Any] | None]", tell: Tell) -> None:
    """Carry out wishes and tell what becomes of the jobs, until the launcher is gone; then end them."""
    gangs: dict[int, Gang] = {}
    while True:
        while not wishes.empty():
            wish = wishes.get()
            if wish is None:
                for gang in gangs.values():
                    gang.kill()
                return
            if "start" in wish:
                gangs[wish["job"]] = Gang.placed(wish["start"])
            elif wish["job"] in gangs:
                _obey(gangs[wish["job"]], wish)
        for number, gang in list(gangs.items()):
            for news in gang.look():
                tell({"job": number, **news})
                keep_spare_workers(gang.nodes)
            if gang.code is not None:
                tell({"job": number, "ended": gang.code})
                del gangs[number]
        time.sleep(POLL_S)


def _obey(gang: Gang, wish: Mapping[str, Any]) -> None:
    if wish.get("stop"):
        gang.ask_to_stop()
    elif wish.get("stacks"):
        gang.show_stacks()
    else:
        gang.kill()


def keep_spare_workers(nodes: Iterable[str]) -> None:
    """Have a worker ready for the next job while this one runs: making one is most of what Ray adds to a job."""

    def nothing() -> None: ...

    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        ray.remote(num_cpus=0, max_retries=0)(nothing).options(scheduling_strategy=place).remote()


if __name__ == "__main__":
    sys.exit(main())
