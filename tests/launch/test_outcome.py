"""Reading the end of an attempt from what it left."""

import pytest

from tunestudy.launch import outcome as outcomes
from tunestudy.launch.outcome import Outcome, memory_kills, outcome_told, read_outcome, record_failure
from tunestudy.records.atomic import read_object, write_json

TORCHRUN_SUMMARY = """\
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : {} (pid: 4242)
  traceback : Signal 9 (SIGKILL) received by PID 4242
"""


@pytest.fixture
def ended(study):
    """The outcome of attempt 2 of `base`, given what its processes left."""
    folder, job = study.folder("base"), study.jobs[0]

    def read(*, log: str = "", exit_code: int = 1, oom: bool = False, failure=None, progress=None):
        folder.logs.mkdir(parents=True, exist_ok=True)
        folder.launch_log.write_text("  exitcode  : -11 (pid: 1)\n" + log)  # the attempt before crashed
        for path, facts in ((folder.failure_json, failure), (folder.progress_json, progress)):
            if facts:
                write_json(path, facts)
        start = {"launch.log": len("  exitcode  : -11 (pid: 1)\n")}
        return read_outcome(job, folder, attempt=2, exit_code=exit_code, log_start=start, out_of_memory=oom)

    return read


def failure(kind: str, attempt: int = 2) -> dict:
    return {"attempt": attempt, "kind": kind, "message": "connection closed by peer", "rank": 0, "step": 7}


def test_a_killed_rank_counts_more_than_the_others_complaint(ended):
    end = ended(log=TORCHRUN_SUMMARY.format(-9), failure=failure("error"))
    assert (end.kind, end.signal, end.step) == ("killed", 9, 7)
    assert "SIGKILL" in end.message and "connection closed by peer" in end.message


def test_a_signal_told_as_shells_tell_it_is_one(ended):
    """As what stands for a process on another host does: 128 + 9. 255 and 75 are no signals."""
    assert [ended(exit_code=code).signal for code in (137, -9, 139, 255, 75)] == [9, 9, 11, None, None]
    assert ended(exit_code=137, oom=True).kind == "oom"


def test_what_is_written_down_of_a_failure_is_all_that_is_needed(study):
    end = Outcome(kind="user", message="stopped by `expect:`", step=3, attempt=2, by_expectation=True)
    record_failure(study.folder("base"), end, 2)
    assert outcome_told(read_object(study.folder("base").failure_json)) == end


def test_killed_for_memory(ended):
    end = ended(log=TORCHRUN_SUMMARY.format(-9), oom=True)
    assert end.kind == "oom" and "ran out of memory" in end.message


def test_torchruns_own_sigterm_to_the_remaining_ranks_is_not_the_cause(ended):
    log = TORCHRUN_SUMMARY.format(-15) + TORCHRUN_SUMMARY.format(-6)
    assert ended(log=log).signal == 6


def test_a_hanging_rank_that_torchrun_had_to_kill_was_not_killed_by_anyone_else(ended):
    log = "W1122 api.py:1047] Unable to shutdown process 4242 via 15, forcefully exiting via 9\n"
    end = ended(log=log + TORCHRUN_SUMMARY.format(-9), failure=failure("hang"))
    assert (end.kind, end.signal) == ("hang", None)


def test_a_users_mistake_stays_one(ended):
    assert ended(failure=failure("user"), log=TORCHRUN_SUMMARY.format(-15)).kind == "user"


def test_told_failures_and_interruptions_of_other_attempts_do_not_count(ended):
    end = ended(
        failure=failure("user", attempt=1), progress={"phase": "interrupted", "attempt": 1, "step": 3}, exit_code=9
    )
    assert end.kind == "error" and "exit code 9" in end.message


def test_what_a_rank_knows_of_itself_counts_more_than_how_the_others_ended(ended):
    end = ended(log=TORCHRUN_SUMMARY.format(-6), failure={**failure("oom"), "phase": "evaluate"})
    assert (end.kind, end.phase, end.attempt) == ("oom", "evaluate", 2)


LOST_HOST = "host h2 failed: the connection ended or never began\n"


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("node_lost", {"log": LOST_HOST, "failure": failure("error")}),
        ("node_lost", {"log": LOST_HOST + TORCHRUN_SUMMARY.format(-9)}),
        ("disk", {"log": LOST_HOST, "failure": failure("disk")}),
        ("hang", {"log": "[rank1] Watchdog caught collective operation timeout: x\n" + TORCHRUN_SUMMARY.format(-6)}),
        ("preempted", {"log": "slurmstepd: error: *** STEP 3.0 ON n1 CANCELLED AT 2026 DUE TO PREEMPTION ***\n"}),
        ("oom", {"log": "slurmstepd: error: Detected 1 oom_kill event in StepId=3.0.\n", "exit_code": -9}),
        ("oom", {"log": "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\n"}),
        ("disk", {"log": "OSError: [Errno 28] No space left on device\n"}),
        ("error", {"log": "Segmentation is fun\n"}),
    ],
)
def test_words_of_clusters_launchers_and_libraries(ended, kind, left):
    end = ended(**left)
    assert end.kind == kind
    assert end.message.startswith(LOST_HOST.strip()) is (LOST_HOST in left["log"] and kind == "node_lost")


def test_the_clusters_word_explains_a_sigterm_from_outside(ended):
    word = "slurmstepd: error: *** STEP 3.0 ON n1 CANCELLED AT 2026 DUE TO PREEMPTION ***"
    end = ended(progress={"phase": "interrupted", "attempt": 2, "step": 3}, log=f"{word}\n")
    assert (end.kind, end.message, end.step) == ("preempted", word, 3)


def test_interrupted(ended):
    end = ended(progress={"phase": "interrupted", "attempt": 2, "step": 3})
    assert (end.kind, end.step) == ("interrupted", 3)


def test_last_words_are_redacted(ended):
    token = "hf_" + "b" * 30
    assert token not in ended(log=f"cannot read https://u:{token}@example.org\n").message


def test_unreadable_files_count_as_absent(ended, study):
    study.folder("base").logs.mkdir(parents=True)
    study.folder("base").failure_json.write_text('{"attempt": 2, "ki')
    assert ended(exit_code=-9).signal == 9


def test_memory_counter_reads_the_kernels(tmp_path, monkeypatch):
    group = tmp_path / "memory.events"
    group.write_text("low 0\noom 3\noom_kill 2\n")
    monkeypatch.setattr(outcomes, "_memory_events", lambda: [group])
    before = memory_kills()
    group.write_text("low 0\noom 4\noom_kill 3\n")
    assert memory_kills() - before == 1


def test_a_full_disk_that_had_no_room_for_words_is_the_cause_of_what_nobody_explains(ended, monkeypatch):
    assert ended(log="last words").kind == "error"
    monkeypatch.setattr(outcomes, "is_full", lambda folder: True)
    end = ended(log="last words")
    assert end.kind == "disk" and "last words; no space is left" in end.message
    assert ended(failure=failure("nan")).kind == "nan"
