"""Tokens by expert: counted right, once, without padding, alike on any number of ranks and after a kill."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from stops import Crash, CrashAt
from tinyjob import ADAPTER, facts_of, make_job, moe_model, rows_of, run
from tinyranks import start
from torch import nn
from transformers import AutoModelForCausalLM, Glm4MoeConfig, Qwen3MoeConfig

from tunestudy.data.batch import Batch
from tunestudy.train.experts import ExpertLoad, load_row
from tunestudy.train.stage import checkpoint_activations
from tunestudy.train.world import World

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 30,
    "num_experts_per_tok": 2,
}
CONFIGS: dict[str, Any] = {
    "glm4": Glm4MoeConfig(**SIZES, n_routed_experts=4, first_k_dense_replace=1),
    "qwen3": Qwen3MoeConfig(**SIZES, num_experts=4, head_dim=8),
}


def batch_of(ids: torch.Tensor, mask: torch.Tensor | None = None) -> Batch:
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1]).expand_as(ids),
        targets=ids,
        num_tokens=int(ids.numel() if mask is None else mask.sum()),
        num_targets=ids.numel(),
        attention_mask=mask,
    )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("again", [False, True])
def test_every_token_counts_once_for_each_expert_it_goes_to(name: str, again: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(CONFIGS[name]).train()
    if again:
        checkpoint_activations(model)
    load = ExpertLoad(model)
    assert load.modules == [f"layers.{i}.mlp.experts" for i in ((1, 2) if name == "glm4" else (0, 1, 2))]
    ids = torch.randint(0, 30, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    with load.on(batch_of(ids, mask)):
        model(input_ids=ids, attention_mask=mask).logits.sum().backward()
    model(input_ids=ids)  # not while training
    window = load.settle(World(), {})
    assert {sum(tokens) for tokens in window.values()} == {2 * 10}
    twice = load.settle(World(), window)
    assert twice == window, "what was settled is not counted again"


def test_the_router_says_the_same() -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS["qwen3"])
    chosen: list[torch.Tensor] = []
    model.model.layers[1].mlp.gate.register_forward_hook(lambda _m, _i, out: chosen.append(out[-1]))
    load = ExpertLoad(model)
    ids = torch.randint(0, 30, (1, 9))
    with load.on(batch_of(ids)):
        model(input_ids=ids)
    tokens = load.settle(World(), {})["layers.1.mlp.experts"]
    assert tokens == torch.bincount(chosen[0].flatten(), minlength=4).tolist()


def test_a_model_without_experts_says_nothing() -> None:
    load = ExpertLoad(nn.Linear(2, 2))
    assert load.settle(World(), {}) == {} and load.modules == []


def test_a_row() -> None:
    assert load_row({"a": [3, 1, 0, 0], "b": [1, 1, 1, 1]}) == {"overall": 3.0, "idle": 0.25, "a": 3.0, "b": 1.0}


SETTINGS: dict[str, Any] = {
    "adapter": {**ADAPTER, "target_modules": ["q_proj", "o_proj"], "target_parameters": ["experts.gate_up_proj"]},
    "per_device_train_batch_size": 2,
    "logging_steps": 4,
    "save_steps": 3,
    "full_save_steps": 3,
}


@pytest.mark.slow
def test_a_kill_between_two_rows_costs_no_token(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    quiet = make_job(tmp_path / "a", model=moe_model(), **SETTINGS)
    hit = make_job(tmp_path / "b", model=moe_model(), **SETTINGS)
    assert run(quiet)
    with pytest.raises(Crash):
        run(hit, stop=CrashAt(4))
    assert run(hit)
    assert facts_of(hit) == facts_of(quiet)
    assert rows_of(hit.expert_log) == rows_of(quiet.expert_log)
    with open(quiet.expert_log, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8"] and all(float(row["overall"]) >= 1 for row in rows)


@pytest.mark.slow
def test_two_ranks_count_what_one_does(tmp_path: Path) -> None:
    one = make_job(tmp_path, "one", model=moe_model(), **SETTINGS)
    two = make_job(tmp_path, "two", model=moe_model(), **SETTINGS)
    assert run(one)
    assert start(two).wait(timeout=300) == 0
    rows = [[{k: float(v) for k, v in row.items()} for row in rows_of(job.expert_log)] for job in (one, two)]
    for ours, theirs in zip(*rows, strict=True):
        assert ours == pytest.approx(theirs, rel=0.05)
