"""Reading the end of an attempt from what it left."""

import pytest

from tunestudy.launch import outcome as outcomes
from tunestudy.launch.outcome import memory_kills, read_outcome
from tunestudy.records.atomic import write_json

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
        start = len("  exitcode  : -11 (pid: 1)\n"), 0
        return read_outcome(job, folder, attempt=2, exit_code=exit_code, log_start=start, out_of_memory=oom)

    return read


def failure(kind: str, attempt: int = 2) -> dict:
    return {"attempt": attempt, "kind": kind, "message": "connection closed by peer", "rank": 0, "step": 7}


def test_a_killed_rank_counts_more_than_the_others_complaint(ended):
    end = ended(log=TORCHRUN_SUMMARY.format(-9), failure=failure("error"))
    assert (end.kind, end.signal, end.step) == ("killed", 9, 7)
    assert "SIGKILL" in end.message and "connection closed by peer" in end.message


def test_killed_for_memory(ended):
    end = ended(log=TORCHRUN_SUMMARY.format(-9), oom=True)
    assert end.kind == "oom" and "ran out of memory" in end.message


def test_torchruns_own_sigterm_to_the_remaining_ranks_is_not_the_cause(ended):
    log = TORCHRUN_SUMMARY.format(-15) + TORCHRUN_SUMMARY.format(-6)
    assert ended(log=log).signal == 6


def test_a_users_mistake_stays_one(ended):
    assert ended(failure=failure("user"), log=TORCHRUN_SUMMARY.format(-15)).kind == "user"


def test_told_failures_and_interruptions_of_other_attempts_do_not_count(ended):
    end = ended(
        failure=failure("user", attempt=1), progress={"phase": "interrupted", "attempt": 1, "step": 3}, exit_code=9
    )
    assert end.kind == "error" and "exit code 9" in end.message


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
