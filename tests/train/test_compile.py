"""Compiled blocks learn what eager ones do."""

from pathlib import Path

import pytest
from tinyjob import make_job, moe_model, rows_of, run
from tinyranks import start


@pytest.mark.slow
@pytest.mark.compiler
def test_two_ranks_with_compiled_blocks_learn_and_count_as_one_without(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 2, "max_steps": 4, "engine": "auto"}
    model = moe_model(num_hidden_layers=1, first_k_dense_replace=0)
    eager = make_job(tmp_path, "eager", model=model, **settings)
    compiled = make_job(tmp_path, "compiled", model=model, **{**settings, "engine": "fsdp2"}, torch_compile=True)
    assert run(eager)
    assert start(compiled).wait(timeout=500) == 0
    for table in ("loss_log", "eval_log", "expert_log"):
        ours, theirs = rows_of(getattr(compiled, table)), rows_of(getattr(eager, table))
        assert len(ours) == len(theirs) > 0
        for row, also in zip(ours, theirs, strict=True):
            for key, value in row.items():
                if value:
                    assert float(value) == pytest.approx(float(also[key]), rel=3e-5, abs=1e-9), (table, key)
    log = compiled.rank_log(0).read_text()
    assert "recompile_limit" not in log, log[-3000:]
