"""What rank 0 tells of the others while it waits for them."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress
from tunestudy.train import roll_call
from tunestudy.train.roll_call import RanksLostError, RollCall
from tunestudy.train.world import World, open_group
from tunestudy.worker import kind_of


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[RollCall]:
    """Two ranks in this process, in a hurry."""
    store = dist.HashStore()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(roll_call, "TOLD_S", 0.02)
    return [RollCall(rank=rank, size=2, patience_s=9.0) for rank in (0, 1)]


def until(true: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_rank_0_moves_while_the_one_it_waits_for_does(tmp_path: Path, two: list[RollCall]) -> None:
    first, second = two
    progress = Progress(JobDir(tmp_path), writes=False, goes_on="benchmark")
    second.works()
    waiting = threading.Thread(target=first.meet, args=(progress,), daemon=True)
    waiting.start()
    until(lambda: progress._facts.get("waits_for"))
    assert str(progress._facts["waits_for"]).startswith("rank 1 on ")
    until(lambda: progress._moved is not None)
    time.sleep(0.1)
    seen = progress._moved
    time.sleep(0.1)
    assert progress._moved == seen, "rank 1 stands still"
    second.works()
    until(lambda: progress._moved != seen)
    second.rests()
    until(lambda: progress._moved is None)  # a judge is asked, say
    assert waiting.is_alive()
    second.meet()
    waiting.join(20)
    assert not waiting.is_alive() and progress._facts["waits_for"] is None and progress._moved is None


@pytest.mark.parametrize(("phase", "at"), [("data", "in phase data"), (None, "at their start")])
def test_a_rank_that_is_missing_before_the_first_place_is_named_with_the_phase(
    two: list[RollCall], monkeypatch: pytest.MonkeyPatch, phase: str | None, at: str
) -> None:
    monkeypatch.setattr(roll_call.time, "sleep", lambda _s: None)
    monkeypatch.setattr(roll_call, "known_here", lambda: {"phase": phase})
    lost = two[0].explain(RuntimeError("Timed out waiting 4000ms for recv"))
    assert str(lost) == f"{named(two[0])} did not go on with the others {at}: Timed out waiting 4000ms for recv"
    two[0]._store.set("tunestudy/place/0", "1 step 1")
    assert f"{named(two[0])} (last at nothing) did not go on with the others at step 1: " in str(
        two[0].explain(RuntimeError("Timed out"))
    )


def test_ranks_that_do_not_come_to_the_start_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_vain(*_facts: Any, **_options: Any) -> None:
        raise dist.DistStoreError("wait timeout after 8000ms, keys: /default_pg/0//cpu//0/1")

    monkeypatch.setattr(dist, "init_process_group", in_vain)
    told = r"not all of the 2 ranks came to their start within 8 s \(resources.timeout_s\): wait timeout"
    with pytest.raises(RanksLostError, match=told) as lost:
        open_group(World(size=2), timedelta(seconds=8))
    assert kind_of(lost.value) == "hang"


def named(first: RollCall) -> str:
    return f"rank 1 on {first._text('host/1')}"
