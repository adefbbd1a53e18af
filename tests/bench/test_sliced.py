"""Ranks that hold slices of a model score it as one rank with all of it does."""

import json
from pathlib import Path
from typing import Any

import pytest
from tinyjob import ADAPTER, make_job
from tinyranks import start

from tunestudy.records.layout import JobDir

BENCHMARKS: dict[str, dict[str, Any]] = {
    "said": {"type": "exact_match", "dataset": "first@held_out", "max_new_tokens": 6, "batch_size": 3},
    "chosen": {
        "type": "multiple_choice",
        "dataset": "first@held_out",
        "batch_size": 3,
    },
}


def job_with_benchmarks(root: Path, name: str, **settings: Any) -> JobDir:
    folder = make_job(root, name, adapter=ADAPTER, num_train_epochs=10, learning_rate=0.02, **settings)
    job = json.loads(folder.job_json.read_text())
    answers = [json.loads(line)["completion"] for line in (root / "first.jsonl").read_text().splitlines()]
    BENCHMARKS["chosen"]["choices"] = answers
    job["evaluations"] = {key: {"benchmark": value, "fingerprint": key} for key, value in BENCHMARKS.items()}
    folder.job_json.write_text(json.dumps(job))
    return folder


@pytest.mark.slow
def test_sliced_models_give_the_same_answers(tmp_path: Path) -> None:
    one = job_with_benchmarks(tmp_path, "one")
    two = job_with_benchmarks(tmp_path, "two", engine="fsdp2")
    assert start(one, ranks=1).wait(timeout=300) == 0
    assert start(two, ranks=2).wait(timeout=300) == 0
    for name in BENCHMARKS:
        told, sliced = (
            [json.loads(line) for line in folder.predictions(name).read_text().splitlines()] for folder in (one, two)
        )
        assert len(told) == len(sliced) > 0
        assert len({json.dumps(row["prediction"]) for row in told}) > 1
        for row, also in zip(told, sliced, strict=True):
            assert row.keys() == also.keys()
            for key, value in row.items():
                assert also[key] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), key
