"""Memory of a stage from what was counted and measured."""

from typing import Any

import pytest

from tunestudy.study.estimates.memory import MEBIBYTE, at_tokens, memory_of, shift_of

COUNTED: dict[str, Any] = {
    "device": "cuda",
    "tokens": [1000, 500],
    "activations": [900 * MEBIBYTE, 500 * MEBIBYTE],
    "logits": [100 * MEBIBYTE, 100 * MEBIBYTE],
    "frozen": 1000 * MEBIBYTE,
    "trainable": 10 * MEBIBYTE,
    "gradients": 10 * MEBIBYTE,
    "optimizer": 20 * MEBIBYTE,
    "gather": 0,
    "pages": 0,
    "copies": 0,
    "constants_mb": {"context": 500.0, "nccl": 1000.0},
    "notes": [],
}


def mib(value: float) -> float:
    return round(value / MEBIBYTE, 3)


def test_what_was_counted_adds_up_with_the_allocator_and_the_context() -> None:
    memory = memory_of(COUNTED)
    assert mib(memory.peak.low) == 2040
    assert mib(memory.peak.expected) == 2090, "5 % of what comes and goes"
    assert mib(memory.whole.expected) == 3590
    assert memory.evidence == "counted"
    assert memory.fits(4000 * MEBIBYTE) is True
    assert memory.fits(3600 * MEBIBYTE) is None
    assert memory.fits(3000 * MEBIBYTE) is False


def test_activations_follow_the_largest_micro_batch_of_the_data() -> None:
    assert mib(at_tokens(COUNTED, "activations", 750)) == 700
    probe = {"largest": 600, "largest_seen": 600}
    assert mib(memory_of(COUNTED, probe=probe).terms["activations"]) == 580


def test_a_probe_is_believed_and_grown_to_the_largest_batch() -> None:
    probe = {"largest": 1000, "largest_seen": 500, "peak_memory_mb": 1700.0}
    memory = memory_of(COUNTED, probe=probe)
    assert mib(memory.peak.expected) == 2100
    assert memory.evidence == "timed steps"
    assert mib(sum(memory.terms.values())) == 2100, "the remainder is a term of its own"


def test_finished_jobs_win_over_a_probe() -> None:
    memory = memory_of(COUNTED, probe={"largest": 9, "largest_seen": 9, "peak_memory_mb": 1.0}, peaks_mb=[3000, 3200])
    assert mib(memory.peak.expected) == 3100
    assert memory.evidence == "finished jobs"
    assert memory.peak.low < memory.peak.expected < memory.peak.high


def test_stages_without_a_measurement_are_put_right_by_others() -> None:
    shift = shift_of(
        [(COUNTED, {"largest": 1000, "largest_seen": 1000, "peak_memory_mb": 2340.0}, []), (COUNTED, None, [])]
    )
    assert shift is not None
    assert shift.waste == pytest.approx(1.3), "300 MiB more than the 1,000 that come and go"
    assert mib(shift.bytes) == 0
    memory = memory_of(COUNTED, shift=shift)
    assert mib(memory.peak.expected) == 2340
    assert memory.evidence == "counted, and put right by other stages"
    assert shift_of([(COUNTED, None, [])]) is None


def test_pages_of_an_optimiser_may_be_elsewhere() -> None:
    memory = memory_of({**COUNTED, "pages": 20 * MEBIBYTE})
    assert mib(memory.peak.low) == 2020
    assert mib(memory.peak.expected) == pytest.approx(2090)


def test_more_than_an_allocator_wastes_is_there_whatever_the_size() -> None:
    shift = shift_of([(COUNTED, {"largest": 1000, "largest_seen": 1000, "peak_memory_mb": 3340.0}, [])])
    assert shift is not None
    assert (shift.waste, mib(shift.bytes)) == (2.0, 300)
