"""What a launcher asks of a Ray cluster and makes of its answers; Ray itself is in test_cluster.py."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.exceptions import ActorDiedError, ActorUnavailableError

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import RaySettings, Resources
from tunestudy.launch.ray import driver as speaking
from tunestudy.launch.ray import gang as ganging
from tunestudy.launch.ray import place as launcher
from tunestudy.launch.ray.gang import Gang
from tunestudy.launch.ray.node import Keeper
from tunestudy.launch.ray.place import RayPlace, problems_of
from tunestudy.launch.spread import UNREACHED
from tunestudy.launch.torchrun import job_environment
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease

FACTS = {"python": "3.11", "code": "c", "packages": {"torch": "2.11"}, "gpus": 0, "files": {"/s.yaml": "1"}}


class FakeDriver:
    """Answers as a cluster of two machines with two GPUs each would."""

    pid = os.getpid()
    address = "h1:6379"
    is_gone = False

    def __init__(self, *_: Any) -> None:
        resources = {"CPU": 8.0, "GPU": 2.0}
        self.machines = [{"host": host, "resources": resources, "facts": FACTS, "said": ""} for host in ("h1", "h2")]
        self.jobs: dict[int, dict[str, Any]] = defaultdict(dict)
        self.said: list[dict[str, Any]] = []

    def say(self, **wish: Any) -> None:
        self.said.append(wish)

    def look(self) -> None: ...


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A job that was started with these resources: the running job, and what the driver was told."""
    driver = FakeDriver()
    monkeypatch.setattr(launcher, "Driver", lambda *_: driver)
    monkeypatch.setattr(launcher, "facts", lambda _: FACTS)
    monkeypatch.setattr(launcher, "_LOOK_S", 0.0)

    def start(env: dict[str, str] | None = None, **settings: Any):
        place = RayPlace(Resources(executor="ray", **settings), [])
        folder = JobDir(tmp_path / "adapt-1")
        folder.logs.mkdir(parents=True)
        slot = place.slots[0]
        return place.start(folder, slot, job_environment(env or {}, slot.environment, 1), folder.launch_log), driver

    return start


def test_a_job_is_asked_for_with_its_environment_and_no_gpus_of_this_machine(started, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SECRETLESS", "x")
    _, driver = started({"COLOUR": "green"}, ranks=2, ray={"cpus_per_rank": 3, "runtime_env": {"NCCL_DEBUG": "INFO"}})
    asked = driver.said[0]["start"]
    assert asked["bundles"] == ({"CPU": 6.0, "GPU": 2.0},) and asked["ranks_per_bundle"] == 2
    told = asked["environment"]
    assert {
        "COLOUR": "green",
        "HF_HUB_OFFLINE": "1",
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "3",
    }.items() <= told.items()
    assert not {"CUDA_VISIBLE_DEVICES", "SECRETLESS"} & told.keys()


def test_a_job_waits_in_words_until_ray_has_placed_it(started):
    running, driver = started()
    assert running.waits == "waiting for Ray to place it (1 GPU and 1 CPU)" and running.poll() is None
    driver.jobs[1]["placed"] = ["h2"]
    assert running.waits == ""
    driver.jobs[1]["ended"] = 128 + 9
    assert running.poll() == -9


def test_a_lost_machines_job_ends_only_when_its_ranks_must_have_ended(started):
    running, driver = started()
    with Lease.acquire(running.folder.lease):
        driver.jobs[1]["ended"] = UNREACHED
        assert running.poll() is None
    assert running.poll() == UNREACHED
    with Lease.acquire(running.folder.lease):
        assert running.poll() == UNREACHED, "what has ended stays so"


def test_jobs_end_with_their_cluster_and_their_log_says_so(started):
    running, driver = started()
    driver.is_gone = True
    assert running.poll() == UNREACHED
    assert "host h1:6379 failed: the connection to the Ray cluster ended" in running.folder.launch_log.read_text()


@pytest.mark.parametrize(
    ("facts", "said", "told"),
    [
        (None, "No module named tunestudy", "has no tunestudy that works: No module named tunestudy; install"),
        ({**FACTS, "packages": {"torch": "2.12"}}, "", "torch 2.12 \\(here 2.11\\)"),
        ({**FACTS, "python": "3.12"}, "", "Python 3.12 \\(here 3.11\\)"),
        ({**FACTS, "files": {}}, "", "does not see /s.yaml"),
    ],
)
def test_machines_that_cannot_work_alike_are_named(facts, said, told):
    machine = {"host": "h2", "facts": facts, "said": said}
    with pytest.raises(StudyError, match=told) as refused:
        raise next(problems_of([machine], FACTS))
    assert refused.value.exit_code == Exit.PREFLIGHT_REFUSED and "setup-hosts" not in str(refused.value)
    assert str(refused.value).startswith("Ray's machine h2: ")


def test_without_ray_the_cure_is_told(monkeypatch):
    monkeypatch.setattr(launcher, "find_spec", lambda _: None)
    with pytest.raises(StudyError, match=r"pip install 'tunestudy\[ray\]'"):
        launcher.Driver("auto", [])


@pytest.mark.parametrize("address", ["local", "", "h1", "h1:ray"])
def test_addresses_that_would_start_a_cluster_or_name_none_are_refused(address):
    with pytest.raises(ValueError, match="auto"):
        RaySettings(address=address)
    assert RaySettings(address="ray://h1:10001").address == "ray://h1:10001"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Version mismatch: The cluster was started with:\n    Ray: 2.9.0", "runs another Ray or Python"),
        ("Could not find any running Ray instance. …", "no Ray cluster runs on this machine"),
        ("Can't find a `node_ip_address.json` … local raylet", "this machine is no part of the Ray cluster at h1:6379"),
        ("RPC error: Unauthenticated: token is missing", "wants its token"),
        ("\nsomething new\nat length", "no Ray cluster can be reached at h1:6379: something new"),
    ],
)
def test_rays_refusals_are_told_in_words(said, told):
    assert told in speaking.why_not("h1:6379", said)


def test_an_address_where_nothing_listens_is_told_at_once():
    assert "connection refused" in (speaking.why_silent("127.0.0.1:9") or "")
    assert speaking.why_silent("auto") is None


class Answer:
    """An object reference that is there already, or an error."""

    def __init__(self, value: Any) -> None:
        self.value = value


class FakeKeeper:
    """An actor of one bundle whose answers are given in advance."""

    def __init__(self, where: dict[str, Any], heard: Iterator[Any]) -> None:
        self.begun: dict[str, Any] = {}
        self.killed = False
        for name, answer in (("where", where), ("listen", None), ("begin", None)):
            method = Answer(None)
            method.remote = self._method(name, answer, heard)  # type: ignore[attr-defined]
            setattr(self, name, method)

    def _method(self, name: str, answer: Any, heard: Iterator[Any]) -> Callable[..., Answer]:
        def call(*words: Any) -> Answer:
            if name == "begin":
                self.begun = words[0]
            return Answer(next(heard) if name == "listen" else answer)

        return call


class FakeRay:
    @staticmethod
    def wait(answers: list[Answer], **_: Any) -> tuple[list[Answer], list[Answer]]:
        return [one for one in answers if one.value != "later"], [one for one in answers if one.value == "later"]

    @staticmethod
    def get(answer: Any) -> Any:
        if isinstance(answer, list):
            return [FakeRay.get(one) for one in answer]
        if isinstance(answer.value, Exception):
            raise answer.value
        return answer.value

    @staticmethod
    def kill(keeper: FakeKeeper) -> None:
        keeper.killed = True


@pytest.fixture
def gang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A gang on these machines (node per bundle), each with what its keeper tells."""
    monkeypatch.setattr(ganging, "ray", FakeRay)
    monkeypatch.setattr(ganging, "remove_placement_group", lambda _: None)

    def make(*told: tuple[str, list[Any]]) -> Gang:
        keepers = []
        for number, (node, heard) in enumerate(told):
            where = {"node": node, "host": node, "address": f"10.0.0.{node[1:]}", "gpus": [str(number)], "port": 4000}
            keepers.append(FakeKeeper(where, iter(heard)))
        asked = {"folder": "/r/j", "module": "m", "environment": {"A": "b"}, "ranks_per_bundle": 1}
        asked["log"] = str(tmp_path / "launch.log")
        return Gang(asked, None, keepers, [keeper.where.remote() for keeper in keepers])

    return make


def over(gang: Gang) -> tuple[int, str]:
    """Its code and its log, once it has ended."""
    for _ in range(20):
        list(gang.look())
        if gang.code is not None:
            assert all(keeper.killed for keeper in gang.keepers)
            return gang.code, Path(gang.asked["log"]).read_text()
    raise AssertionError("it does not end")


def test_ranks_of_one_machine_share_a_torchrun_and_all_meet_at_the_first(gang):
    done = [(["hello"], None), ([], 0)]
    job = gang(("h1", done), ("h2", done), ("h1", []))
    assert over(job) == (0, "[h1] hello\n[h2] hello\n")
    first, second, third = (keeper.begun for keeper in job.keepers)
    assert (first["place"], first["slots"], first["hosts"]) == (0, 2, 2)
    assert (second["place"], second["slots"], second["address"], second["port"]) == (1, 1, "10.0.0.1", 4000)
    assert third == {}, "it only holds its GPU"
    assert first["environment"] == {"A": "b", "CUDA_VISIBLE_DEVICES": "0,2"}


def test_a_stop_that_comes_before_a_part_has_begun_reaches_it_then(gang):
    job = gang(("h1", [(["saved"], 0)]))
    keeper = job.keepers[0]
    asked = []
    keeper.ask_to_stop = Answer(None)
    keeper.ask_to_stop.remote = lambda: asked.append(keeper.begun)
    begin, keeper.begin.remote = keeper.begin.remote, lambda *words: begin(*words) and Answer("later")
    list(job.look())
    job.ask_to_stop()
    assert asked == [], "its process is not there yet"
    job.parts[0].news.value = None
    assert over(job) == (0, "saved\n") and len(asked) == 1


def test_what_becomes_of_keepers_that_were_killed_is_no_news(gang):
    job = gang(("h1", ["later"]))
    list(job.look())
    list(job.look())
    job.say(["on"])
    job.kill()
    job.parts[0].news = Answer(ActorDiedError())
    assert over(job) == (137, "on\n")


def test_a_driver_that_is_gone_can_be_left(monkeypatch):
    monkeypatch.setattr(launcher, "find_spec", lambda _: True)
    monkeypatch.setattr(launcher.sys, "executable", "true")
    monkeypatch.setattr(launcher.Driver, "_first_answer", lambda driver: driver._process.wait() or {"machines": []})
    driver = launcher.Driver("h1:6379", [])
    driver.say(job=1, kill=True)
    assert driver.is_gone
    driver.close()


def test_a_machine_that_is_lost_is_told_as_the_executor_knows_it(gang):
    code, log = over(gang(("h1", [(["step 1"], None), ActorUnavailableError("a blink", None), ActorDiedError()])))
    assert code == UNREACHED and "\nhost h1 failed: the connection ended or never began\n" in log


def test_the_others_are_ended_when_one_machine_fails(gang, monkeypatch):
    monkeypatch.setattr(ganging, "LAST_WORDS_S", 0.0)
    code, log = over(gang(("h1", [(["on"], None)] * 30), ("h2", [([], 128 + 9)])))
    assert code == 137 and "host h2 failed: its torchrun was killed by signal 9" in log


@pytest.mark.slow
def test_a_keeper_runs_its_part_and_tells_all_of_it(tmp_path):
    folder = tmp_path / "job-1"
    keeper = Keeper()
    meeting = {"folder": str(folder), "module": "platform", "hosts": 1, "slots": 1, "environment": {}, "place": 0}
    assert "all machines must see the results under the same path" in (keeper.begin(meeting) or "")
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({}))
    assert keeper.begin(meeting) is None
    started = keeper._process
    assert started is not None and os.getpgid(started.pid) != os.getpgid(0), "Ray ends an actor's process group"
    assert started.args[0] == "sh", "and children, but no grandchildren"
    lines, code = keeper.listen()
    while code is None:
        more, code = keeper.listen()
        lines += more
    assert code == 0 and "Linux" in " ".join(lines)
