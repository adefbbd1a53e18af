"""When an attempt counts as standing still."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunestudy.config.resources import Resources
from tunestudy.launch import hang
from tunestudy.launch.executor import collect_ended
from tunestudy.launch.hang import (
    LAST_WORDS_S,
    OUTLIVED_S,
    Patience,
    SignsOfLife,
    end_if_it_hangs,
    frame_of,
    stands_still,
)
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import JobDir

PATIENCE = Patience(still_s=25.0, start_s=60.0)


def looked_at(folder: JobDir, *seen: dict[str, Any]) -> list[str]:
    """What each look, ten seconds after the one before, finds with a patience of 25 s."""
    signs, found = SignsOfLife(), []
    for place, told in enumerate(seen):
        write_json(folder.progress_json, {"attempt": 1, "step": 7, **told})
        found.append(stands_still(signs, folder, attempt=1, patience=PATIENCE, now=10.0 * place))
    return found


@pytest.mark.parametrize("phase", ["load", "train", "save", "survey 3%", "merge 37%", "benchmark"])
def test_a_process_that_gives_no_sign(tmp_path: Path, phase: str) -> None:
    *before, last = looked_at(JobDir(tmp_path), *[{"phase": phase, "t": 5, "moved": 5}] * 4)
    assert not any(before) and last.startswith("rank 0 gave no sign of life for 30 s in phase ")


@pytest.mark.parametrize(
    ("phase", "hangs"),
    [
        ("train", True),
        ("evaluate", True),
        ("survey 3%", True),
        ("merge", True),
        ("benchmark", True),
        ("load", False),
        ("save", False),
    ],
)
def test_a_process_that_lives_without_moving(tmp_path: Path, phase: str, hangs: bool) -> None:
    told = [{"phase": phase, "t": t, "moved": 5} for t in range(4)]
    found = looked_at(JobDir(tmp_path), *told)[-1]
    assert found.startswith(f"no progress for 30 s in phase {phase} after step 7") is hangs


@pytest.mark.parametrize(
    "told",
    [
        [{"phase": "train", "t": t, "moved": t} for t in range(6)],
        [{"phase": "done", "t": t, "moved": 1} for t in range(6)],
        [{"phase": "benchmark", "t": t, "moved": None} for t in range(6)],
        [{"phase": "merge 40%", "t": t, "moved": t} for t in range(6)],
        [{"phase": "train", "t": 1, "moved": 1, "attempt": 0}] * 6,
        [{"phase": ("train", "save")[t % 2], "t": t, "moved": t} for t in range(6)],
        [{"phase": "train", "t": -3600 + t, "moved": -3600 + t} for t in range(6)],
    ],
)
def test_what_does_not_stand_still(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    assert not any(looked_at(JobDir(tmp_path), *told))


def test_a_benchmark_is_named_with_its_rows_and_the_rank_that_is_waited_for(tmp_path: Path) -> None:
    told = {"phase": "benchmark", "moved": 5, "doing": "said, 4 of 60 rows answered", "waits_for": "rank 1 on h"}
    found = looked_at(JobDir(tmp_path), *[{**told, "t": t} for t in range(4)])[-1]
    assert "in phase benchmark (said, 4 of 60 rows answered), where rank 0 waits for rank 1 on h; stacks" in found


class Ranks:
    """Stands in for a job's processes."""

    pid = 1
    waits = ""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def poll(self) -> int | None:
        return None

    def ask_to_stop(self) -> None:
        self.asked.append("stop")

    def show_stacks(self) -> None:
        self.asked.append("stacks")

    def kill(self) -> None:
        self.asked.append("kill")


def test_stacks_are_asked_for_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ranks, signs = JobDir(tmp_path), Ranks(), SignsOfLife()
    write_json(folder.progress_json, {"attempt": 1, "phase": "train", "step": 2, "t": 1, "moved": 1})
    for now, asked in [
        (100, []),
        (110, []),
        (120, []),
        (126, ["stacks"]),
        (128, ["stacks"]),
        (127 + LAST_WORDS_S, ["stacks", "kill"]),
    ]:
        monkeypatch.setattr(hang.time, "monotonic", lambda now=now: now)
        end_if_it_hangs(signs, ranks, folder, 1, PATIENCE)
        assert ranks.asked == asked, now


def test_a_launcher_that_was_suspended_with_its_job_does_not_take_that_for_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ranks, signs = JobDir(tmp_path), Ranks(), SignsOfLife()
    write_json(folder.progress_json, {"attempt": 1, "phase": "train", "step": 2, "t": 1, "moved": 1})
    for now in (100, 110, 4000, 4010, 4020):
        monkeypatch.setattr(hang.time, "monotonic", lambda now=now: now)
        end_if_it_hangs(signs, ranks, folder, 1, PATIENCE)
    assert ranks.asked == []
    monkeypatch.setattr(hang.time, "monotonic", lambda: 4026)
    end_if_it_hangs(signs, ranks, folder, 1, PATIENCE)
    assert ranks.asked == ["stacks"]


def never_began(folder: JobDir, *looks: float, **known: Any) -> str:
    """What the last of `looks` at the second attempt finds, which has told nothing, with a patience of 60 s."""
    signs = SignsOfLife(**known)
    write_json(folder.progress_json, {"attempt": 1, "phase": "train", "step": 7, "t": 1, "moved": 1})
    return [stands_still(signs, folder, attempt=2, patience=PATIENCE, now=now) for now in looks][-1]


def test_one_that_never_gave_a_sign_is_told_with_what_its_own_log_says_last(tmp_path: Path) -> None:
    folder = JobDir(tmp_path)
    folder.logs.mkdir()
    folder.rank_log(0).write_text("of the attempt before\n")
    begun = {"log_start": {"rank-0.log": folder.rank_log(0).stat().st_size}}
    alone = "no sign of life since it was started 61 s ago (resources.start_timeout_s)"
    assert never_began(folder, 0, 60, **begun) == ""
    assert never_began(folder, 0, 61, **begun) == alone
    with open(folder.rank_log(0), "a") as log:
        log.write("loading extension\n\n")
    assert never_began(folder, 0, 61, **begun) == f'{alone}; the last line of its log: "loading extension"'
    assert never_began(folder, 0, 61) == alone, "of another launcher's attempt nobody knows where its log begins"


def test_one_that_began_is_not_taken_for_one_that_did_not_when_its_file_cannot_be_read(tmp_path: Path) -> None:
    folder, signs, found = JobDir(tmp_path), SignsOfLife(), []
    for now, told in [(0, {}), (50, {"attempt": 1, "phase": "load", "t": 1}), (62, {}), (121, {}), (123, {})]:
        write_json(folder.progress_json, told)
        found.append(stands_still(signs, folder, attempt=1, patience=PATIENCE, now=now))
    assert [bool(words) for words in found] == [False, False, False, False, True]


def test_a_hang_before_the_first_sign_is_at_no_step_of_the_attempt_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ranks, signs = JobDir(tmp_path), Ranks(), SignsOfLife()
    write_json(folder.progress_json, {"attempt": 1, "phase": "train", "step": 7, "t": 1, "moved": 1})
    for now in range(100, 170, 5):
        monkeypatch.setattr(hang.time, "monotonic", lambda now=now: now)
        end_if_it_hangs(signs, ranks, folder, 2, PATIENCE)
    assert ranks.asked == ["stacks"] and (signs.attempt, signs.step, signs.phase) == (2, None, "")


def test_processes_that_do_not_go_when_they_are_killed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ranks, signs = JobDir(tmp_path), Ranks(), SignsOfLife()
    for now in (100, 110, 120, 130, 140, 150, 161, 165, 161 + OUTLIVED_S, 162 + OUTLIVED_S):
        monkeypatch.setattr(hang.time, "monotonic", lambda now=now: now)
        assert not signs.outlived
        end_if_it_hangs(signs, ranks, folder, 1, PATIENCE)
    assert ranks.asked == ["stacks", "kill", "kill", "kill"]
    assert signs.outlived.startswith(signs.hang) and "its processes do not go" in signs.outlived


def test_a_job_that_waits_for_room_on_its_cluster_has_not_been_started_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks()
    attempt = SimpleNamespace(running=ranks, number=1, signs=SignsOfLife())
    task = SimpleNamespace(attempt=attempt, folder=JobDir(tmp_path), note="")
    launch = SimpleNamespace(resources=Resources(start_timeout_s=60.0))
    for now, waits, asked in [(100, "for room", []), (200, "for room", []), (210, "", []), (271, "", ["stacks"])]:
        monkeypatch.setattr(hang.time, "monotonic", lambda now=now: now)
        ranks.waits = waits
        collect_ended([task], launch, stopping=False)
        assert ranks.asked == asked, now


@pytest.mark.parametrize(
    ("stated", "still_s", "start_s"),
    [
        ({}, 450, 1800),
        ({"timeout_s": 1800}, 2700, 2700),
        ({"timeout_s": 1800, "start_timeout_s": 600}, 2700, 600),
    ],
)
def test_patience_as_a_study_states_it(stated: dict[str, float], still_s: float, start_s: float) -> None:
    assert Patience.of(Resources(**stated)) == Patience(still_s, start_s)


def looked_at_ranks(folder: JobDir, *seen: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    """The same of two ranks."""
    signs, found = SignsOfLife(), []
    for place, (first, second) in enumerate(seen):
        write_json(folder.progress_json, {"attempt": 1, "step": 7, **first})
        write_json(folder.rank_progress(1), {"attempt": 1, "step": 6, "host": "h2", **second})
        found.append(stands_still(signs, folder, attempt=1, patience=PATIENCE, now=10.0 * place))
    return found


@pytest.mark.parametrize("phase", ["save", "evaluate", "benchmark"])
def test_another_rank_that_gives_no_sign_while_rank_0_works_alone(tmp_path: Path, phase: str) -> None:
    seen = [({"phase": phase, "t": t, "moved": t}, {"phase": phase, "t": 5, "moved": 5}) for t in range(4)]
    *before, last = looked_at_ranks(JobDir(tmp_path), *seen)
    assert not any(before)
    assert last.startswith(f"rank 1 on h2 gave no sign of life for 30 s in phase {phase} after step 6: ")


@pytest.mark.parametrize(("phase", "hangs"), [("evaluate", True), ("train", True), ("save", False), ("survey", False)])
def test_another_rank_that_lives_without_moving(tmp_path: Path, phase: str, hangs: bool) -> None:
    seen = [({"phase": phase, "t": t, "moved": t}, {"phase": phase, "t": t, "moved": 5}) for t in range(4)]
    last = looked_at_ranks(JobDir(tmp_path), *seen)[-1]
    assert last.startswith(f"no progress of rank 1 on h2 for 30 s in phase {phase}") is hangs


def test_another_rank_of_an_earlier_attempt_or_at_nothing_does_not_count(tmp_path: Path) -> None:
    seen = [
        ({"phase": "train", "t": t, "moved": t}, {"phase": "train", "t": 5, "moved": 5, "attempt": 0}) for t in range(6)
    ]
    assert not any(looked_at_ranks(JobDir(tmp_path), *seen))


@pytest.mark.parametrize("phase", ["done", "failed", "interrupted"])
def test_processes_that_do_not_end_after_their_work(tmp_path: Path, phase: str) -> None:
    *before, last = looked_at(JobDir(tmp_path), *[{"phase": phase, "t": 5, "moved": 5}] * 4)
    assert not any(before) and last == f"its processes do not end, 30 s after they were {phase}"


STACKS = """step 7
Thread 0x00007 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait

Current thread 0x00009 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/x/src/tunestudy/data/loader.py", line 104 in _take
  File "/x/src/tunestudy/train/loop.py", line 141 in accumulate_gradients
"""


def test_the_frame_where_a_rank_stood() -> None:
    assert frame_of(STACKS) == "loader.py:104 in _take"
    assert frame_of(STACKS.replace("/tunestudy/", "/mine/")) == "threading.py:327 in wait"
    assert frame_of("no stacks at all") == frame_of("") == ""
