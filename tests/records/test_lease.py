"""Leases between real processes, and with holders that seem to be on other machines."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunestudy.records.atomic import temporary_beside
from tunestudy.records.host import machine, process_start
from tunestudy.records.lease import Lease, LeaseHeldError

HOLD = """
import sys, time
from pathlib import Path
from tunestudy.records.lease import Lease
lease = Lease.acquire(Path(sys.argv[1]))
print(lease.attempt, flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_holder(tmp_path):
    """A process that holds the lease until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "job")], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.wait()


def pretend_elsewhere(path: Path, *, age_s: float) -> None:
    """As if the newest holder sat on another machine and last touched its file `age_s` ago, by the server's clock."""
    file = max(path.glob("*.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "machine": "another"}))
    os.utime(file, (time.time() - age_s,) * 2)


def test_attempts_grow_and_a_released_lease_is_free(tmp_path):
    path = tmp_path / "leases" / "job"
    for attempt in (1, 2, 3):
        with Lease.acquire(path) as lease:
            assert lease.attempt == attempt and lease.still_mine()
            holder = Lease.holder(path)
            assert holder and holder.pid == os.getpid() and holder.here and not holder.is_gone
        assert Lease.holder(path) is None


def test_held_by_another_process_until_it_is_killed(tmp_path, other_holder):
    path = tmp_path / "job"
    with pytest.raises(LeaseHeldError, match=f"process {other_holder.pid} on "):
        Lease.acquire(path)
    other_holder.kill()
    while process_start(other_holder.pid):
        time.sleep(0.01)
    # it is a zombie now, since nobody has waited for it: dead all the same, and known at once
    assert Path(f"/proc/{other_holder.pid}").exists()
    with Lease.acquire(path) as lease:
        assert lease.attempt == 2


def test_a_stopped_process_still_holds(tmp_path, other_holder):
    other_holder.send_signal(signal.SIGSTOP)
    os.utime(max((tmp_path / "job").glob("*.json")), (0, 0))
    assert Lease.holder(tmp_path / "job") is not None


def test_another_process_with_the_same_pid_does_not_hold(tmp_path):
    lease = Lease.acquire(tmp_path / "job")
    file = max((tmp_path / "job").glob("*.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "started": "1"}))
    assert Lease.holder(tmp_path / "job") is None
    lease.release()


def test_elsewhere_only_age_on_the_file_server_counts(tmp_path):
    path = tmp_path / "job"
    lease = Lease.acquire(path, heartbeat_s=60)
    pretend_elsewhere(path, age_s=20)
    holder = Lease.holder(path, stale_s=30)
    assert holder is not None and not holder.here
    pretend_elsewhere(path, age_s=40)
    assert Lease.holder(path, stale_s=30) is None
    lease.release()


def test_clock_of_this_machine_does_not_matter(tmp_path, monkeypatch):
    path = tmp_path / "job"
    lease = Lease.acquire(path, heartbeat_s=60)
    pretend_elsewhere(path, age_s=0)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert Lease.holder(path, stale_s=30) is not None
    lease.release()


def test_a_lost_holder_is_given_up_in_time_though_the_file_servers_clock_was_set_back(tmp_path, monkeypatch):
    path = tmp_path / "job"
    lease = Lease.acquire(path, heartbeat_s=60)
    pretend_elsewhere(path, age_s=-3600)
    ticks = time.monotonic()
    for seconds, holds in [(0, True), (29, True), (31, False)]:
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: ticks + seconds)
        assert (Lease.holder(path, stale_s=30) is not None) is holds
    pretend_elsewhere(path, age_s=-3590)  # it was touched
    assert Lease.holder(path, stale_s=30) is not None
    lease.release()


def test_replaced_holder_knows_it(tmp_path):
    path = tmp_path / "job"
    sleeper = Lease.acquire(path, heartbeat_s=60)
    pretend_elsewhere(path, age_s=1000)
    with Lease.acquire(path) as successor:
        assert successor.attempt == 2
        assert successor.still_mine() and not sleeper.still_mine()
        sleeper.release()
        assert successor.still_mine() and Lease.holder(path) is not None


def test_replaced_holder_is_told_by_its_heartbeat(tmp_path):
    told = threading.Event()
    with Lease.acquire(tmp_path / "job", heartbeat_s=0.01, on_lost=told.set):
        assert not told.wait(0.1)
        (tmp_path / "job" / "000002.json").write_text("{}")
        assert told.wait(10)


def test_heartbeat_touches_the_file(tmp_path):
    with Lease.acquire(tmp_path / "job", heartbeat_s=0.02):
        file = max((tmp_path / "job").glob("*.json"))
        os.utime(file, (0, 0))
        give_up = time.monotonic() + 20
        while file.stat().st_mtime < 1 and time.monotonic() < give_up:
            time.sleep(0.01)
        assert file.stat().st_mtime > 1


def test_keeper_outlives_the_holder(tmp_path):
    path = tmp_path / "job"
    keeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(path, keeper.pid))
    child.start()
    child.join()
    holder = Lease.holder(path)
    assert holder is not None and holder.is_gone and holder.keeper == keeper.pid and holder.facts["slot"] == "cpu0"
    keeper.kill()
    keeper.wait()
    assert Lease.holder(path) is None


def _take_and_die(path: Path, keeper: int) -> None:
    Lease.acquire(path).note(keeper=keeper, slot="cpu0")
    os.kill(os.getpid(), signal.SIGKILL)


def test_renew_leaves_no_gap(tmp_path):
    path = tmp_path / "job"
    lease = Lease.acquire(path)
    seen_free = threading.Event()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            if Lease.holder(path) is None:
                seen_free.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(50):
        lease = lease.renew()
    ended.set()
    watcher.join()
    assert lease.attempt == 51 and not seen_free.is_set()
    lease.release()


def test_many_at_once_one_at_a_time(tmp_path):
    inside: list[int] = []

    def enter(number: int) -> int:
        with Lease.acquire(tmp_path / "cache", wait_s=math.inf) as lease:
            inside.append(number)
            assert inside == [number]
            time.sleep(0.005)
            inside.remove(number)
            return lease.attempt

    with ThreadPoolExecutor(8) as pool:
        attempts = list(pool.map(enter, range(24)))
    assert sorted(attempts) == list(range(1, 25))


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with Lease.acquire(tmp_path / "job"), pytest.raises(LeaseHeldError):
        Lease.acquire(tmp_path / "job")


def test_reply_lost_by_the_network_still_wins(tmp_path, monkeypatch):
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(17, "the first call's reply was lost, and the client repeated it")

    monkeypatch.setattr(os, "link", link_twice)
    with Lease.acquire(tmp_path / "job") as lease:
        assert lease.attempt == 1


def test_deleted_study_ends_the_lease_quietly(tmp_path):
    lease = Lease.acquire(tmp_path / "job")
    for file in (tmp_path / "job").iterdir():
        file.unlink()
    assert not lease.still_mine()
    lease.release()
    assert not list((tmp_path / "job").iterdir())


def test_folder_that_is_deleted_between_making_and_using_it_is_made_again(tmp_path, monkeypatch):
    path, deleted = tmp_path / "job" / "claim", []

    def name(beside: Path) -> Path:
        if not deleted:
            deleted.append(shutil.rmtree(path.parent))
        return temporary_beside(beside)

    monkeypatch.setattr("tunestudy.records.lease.temporary_beside", name)
    with Lease.acquire(path) as lease:
        assert deleted and lease.still_mine()


def test_who_deleted_the_folder_does_not_give_back_the_lease_of_the_next(tmp_path):
    path = tmp_path / "job"
    deleter = Lease.acquire(path)
    shutil.rmtree(path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "1\n"  # numbers begin anew
        assert not deleter.still_mine()
        deleter.release()
        assert (now := Lease.holder(path)) and now.pid == holder.pid
    finally:
        holder.kill()
        holder.communicate()


def test_half_written_lease_is_held_while_fresh(tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "000001.json").touch()
    assert Lease.holder(tmp_path / "job") is not None
    os.utime(tmp_path / "job" / "000001.json", (0, 0))
    assert Lease.holder(tmp_path / "job") is None


def test_no_litter_is_left(tmp_path):
    with Lease.acquire(tmp_path / "job"):
        pretend_elsewhere(tmp_path / "job", age_s=0)
        Lease.holder(tmp_path / "job")
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["000001.json"]


def test_machine_and_start_are_stable():
    code = "from tunestudy.records.host import *; import os; print(machine(), process_start(os.getppid()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == [machine(), process_start(os.getpid())]
