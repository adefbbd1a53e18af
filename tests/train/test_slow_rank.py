"""The rank that holds the others up is seen in the ranks' own tables, also where they wait inside the forward pass."""

from pathlib import Path
from typing import Any

import pytest
from tinyjob import ADAPTER, make_job
from tinyranks import start

from tunestudy.config.job import Job
from tunestudy.launch.alerts.rules import slow_rank
from tunestudy.records.tables import read_table

pytestmark = pytest.mark.slow

CASES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "ddp"},
    "fsdp2": {"engine": "fsdp2", "activation_checkpointing": True},
    "ZeRO stage 3": {
        "engine": "deepspeed",
        "deepspeed": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_slow_rank_is_named(tmp_path: Path, case: str) -> None:
    folder = make_job(tmp_path, adapter=ADAPTER, max_steps=6, per_device_train_batch_size=4, **CASES[case])
    assert start(folder, module="slowed_rank").wait(timeout=300) == 0
    tables = {rank: read_table(folder.pace_log(rank)) for rank in (0, 1)}
    assert [len(rows) for rows in tables.values()] == [6, 6]
    recent = {rank: [float(row["own_s"]) for row in rows[-5:]] for rank, rows in tables.items()}
    job = Job.model_validate_json(folder.job_json.read_text())
    told = slow_rank(job, recent, {rank: rows[-1]["host"] for rank, rows in tables.items()}, 1.5)
    assert told is not None and told.message.startswith("rank 1 on "), recent
