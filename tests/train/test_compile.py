"""Compiled blocks learn what eager ones do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tinyjob import make_job, moe_model, rows_of, run
from tinyranks import start
from torch.distributed.fsdp import fully_shard

from tunestudy.records.layout import JobDir
from tunestudy.train.pace import RankPace
from tunestudy.train.world import World


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


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


@pytest.mark.slow
def test_the_watch_on_a_ranks_own_work_cuts_no_compiled_block(tmp_path: Path) -> None:
    def graphs_of(*, watched: bool) -> list[list[str]]:
        torch._dynamo.reset()
        found: list[list[str]] = []

        def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
            found.append([node.name for node in graph.graph.nodes if node.op.startswith("call")])
            return graph.forward

        blocks = [Block(), Block()]
        model, folder = torch.nn.Sequential(*blocks), JobDir(tmp_path / str(watched))
        for block in blocks:
            block.compile(dynamic=True, backend=backend)
            fully_shard(block)
        fully_shard(model)
        pace = RankPace(folder, World(size=2), keep_through_step=-1)
        pace.watch(blocks if watched else [], compiled=True)
        for _ in range(3):
            with pace.forward():
                loss = model(torch.randn(3, 8)).sum()
            loss.backward()
            pace.step()
        pace.write(3)
        assert float(rows_of(folder.pace_log(0))[0]["own_s"]) > 0
        return found

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert graphs_of(watched=True) == graphs_of(watched=False) == 2 * [["linear", "relu", "linear_1", "add"]]
    finally:
        dist.destroy_process_group()
