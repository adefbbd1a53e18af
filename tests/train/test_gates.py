"""What training does to gates: the published step and the textbook's, held targets, ranks, micro-batches, resume."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyjob import make_job, rows_of, run
from tinyranks import start
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.adapters.attach import attach
from tunestudy.adapters.gates import gates_of
from tunestudy.config.adapter import SoraAdapter
from tunestudy.config.stage import TrainStage
from tunestudy.records.atomic import read_json
from tunestudy.train.engines import gates as gates_of_engines
from tunestudy.train.gates import GateDrive, share_at
from tunestudy.train.optim import clip, make_optimizer, set_learning_rates
from tunestudy.train.trainable import find_trainables
from tunestudy.train.world import World

STEPS = 40


def driven(options: dict[str, Any], **stage: Any) -> tuple[Any, TrainStage, list[Any], Any, GateDrive]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    adapter = SoraAdapter(lora_r=8, target_modules=("q_proj", "down_proj"), **options)
    settings = TrainStage(data=({"dataset": "d"},), learning_rate=0.02, adapter=adapter, **stage)
    model = attach(AutoModelForCausalLM.from_config(Qwen3Config(**sizes, **heads)), adapter, seed=1)
    trainables = find_trainables(model, settings)
    optimizer = make_optimizer(trainables, settings)
    return model, settings, trainables, optimizer, GateDrive(model, settings, optimizer, STEPS)


def decay(step: int) -> float:
    return 1 - step / STEPS


@pytest.mark.parametrize("prox", ["lr_scaled", "absolute"])
@pytest.mark.parametrize("threshold", ["soft", "official"])
def test_trajectory_equals_an_independent_one_in_double_precision(threshold: str, prox: str) -> None:
    """Adam as the published code writes it (ε added before the correction of √v) or as torch does, then the prox."""
    strength = 0.4 if prox == "lr_scaled" else 0.004
    options = {"sparse_lambda": strength, "prox": prox, "threshold": threshold, "l1_lambda": 0.3}
    model, _, trainables, optimizer, drive = driven(options, weight_decay=0.5)
    gates = gates_of(model)
    names = list(gates)
    expected = {name: gates[name].gate.detach().double().clone() for name in names}
    first = {name: torch.zeros(8, dtype=torch.float64) for name in names}
    second = {name: torch.zeros(8, dtype=torch.float64) for name in names}
    generator = torch.Generator().manual_seed(3)
    for step in range(STEPS):
        set_learning_rates(optimizer, decay, step)
        for trainable in trainables:
            trainable.parameter.grad = torch.randn(trainable.parameter.shape, generator=generator)
        gradients = {name: gates[name].gate.grad.double().clone() for name in names}
        drive.before_step()
        clip(trainables, None)
        optimizer.step()
        drive.after_step(step)
        rate = 0.02 * decay(step)
        for name in names:
            gradient = gradients[name] + 0.3 * expected[name].sign() / 16
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            c1, c2 = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
            if threshold == "official":
                moved = expected[name] - rate * math.sqrt(c2) / c1 * first[name] / (second[name].sqrt() + 1e-6)
            else:
                moved = expected[name] - rate / c1 * first[name] / ((second[name] / c2).sqrt() + 1e-8)
            limit = strength * (rate if prox == "lr_scaled" else 1.0)
            expected[name] = torch.tensor([proximal(v, limit, threshold) for v in moved.tolist()], dtype=torch.float64)
    for name in names:
        torch.testing.assert_close(gates[name].gate.detach().double(), expected[name], atol=2e-6, rtol=1e-5)
    shut = sum(int((gate == 0).sum()) for gate in expected.values())
    assert 0 < shut < 16, "the settings must shut some gates and leave some open, or nothing was tested"


def proximal(value: float, limit: float, rule: str) -> float:
    if rule == "soft":
        return math.copysign(max(abs(value) - limit, 0.0), value)
    value = value - limit if value > limit else value
    value = value + limit if value < -limit else value
    return 0.0 if abs(value) < limit else value


def test_clipping_sees_the_gates() -> None:
    model, _, trainables, _, _ = driven({"sparse_lambda": 0.1})
    for trainable in trainables:
        trainable.parameter.grad = torch.zeros_like(trainable.parameter)
    gate = next(iter(gates_of(model).values())).gate
    gate.grad = torch.full_like(gate, 10.0)
    assert clip(trainables, 1.0) == pytest.approx(10 * math.sqrt(8))
    assert float(gate.grad.norm()) == pytest.approx(1.0, rel=1e-5)


def test_gates_have_a_rate_of_their_own_and_no_decay() -> None:
    _, _, _, optimizer, _ = driven({"sparse_lambda": 0.1, "gate_learning_rate": 0.5}, weight_decay=0.1)
    (group,) = [group for group in optimizer.param_groups if group["peak_lr"] == 0.5]
    assert group["weight_decay"] == 0.0 and sum(p.numel() for p in group["params"]) == 16


def test_schedule_of_strengths_takes_equal_parts() -> None:
    options = SoraAdapter(sparse_lambda_schedule=(1.0, 2.0, 4.0))
    strengths = [options.strength_at(step, STEPS) for step in range(STEPS)]
    assert strengths == sorted(strengths)
    assert [strengths.count(value) for value in (1.0, 2.0, 4.0)] == [14, 13, 13]


def test_share_rises_from_nothing_to_the_target_and_stays() -> None:
    shares = [share_at(step, 5, 70, 0.5) for step in range(101)]
    assert shares[:6] == [0.0] * 6 and shares[70:] == [0.5] * 31
    assert shares == sorted(shares)


SORA = {"type": "sora", "lora_r": 4, "lora_alpha": 8}


@pytest.mark.parametrize("kind", ["sora", "sdora"])
@pytest.mark.parametrize(
    "target", [pytest.param(0.25, marks=pytest.mark.slow), 0.5, pytest.param(0.75, marks=pytest.mark.slow)]
)
def test_targets_are_met_at_every_seed(tmp_path: Path, kind: str, target: float) -> None:
    for seed in (1, 2, 3):
        adapter = {**SORA, "type": kind, "target_sparsity": target}
        folder = make_job(tmp_path, f"s{seed}", seed=seed, adapter=adapter, max_steps=20, full_save_steps=None)
        assert run(folder)
        result = read_json(folder.result_json)
        assert abs(result["sparsity"] - target) <= 0.05
        assert result["gates"] == 14 * 4
        assert result["effective_params"] < result["trainable_params"]


@pytest.mark.parametrize("kind", ["sora", "sdora"])
def test_a_stage_goes_on_with_the_gates_of_the_one_before(tmp_path: Path, kind: str) -> None:
    gated = {"type": kind, "lora_r": 4, "lora_alpha": 8}
    first = make_job(tmp_path, "first", adapter={**gated, "target_sparsity": 0.5}, num_train_epochs=4)
    assert run(first)
    harder = {**gated, "target_sparsity": 0.75, "lora_dropout": 0.5}
    again = {"adapter": harder, "init": "continue", "eval_on_start": True, "num_train_epochs": 4}
    then = make_job(tmp_path, "then", after=first, **again)
    assert run(then)
    evaluated = [[float(row["eval_loss"]) for row in rows_of(folder.eval_log)] for folder in (first, then)]
    assert evaluated[1][0] == pytest.approx(evaluated[0][-1], abs=1e-6)
    shut = [float(row["sparsity"]) for row in rows_of(then.loss_log)]
    assert shut[0] >= 0.4, "the gates of the first stage are still shut"
    assert shut[-1] == pytest.approx(0.75, abs=0.05)


def test_logs_and_counts_of_sparsity(tmp_path: Path) -> None:
    adapter = {**SORA, "sparse_lambda": 30.0, "gate_zero_tol": 1e-6}
    folder = make_job(tmp_path, adapter=adapter, max_steps=10)
    assert run(folder)
    rows, losses = rows_of(folder.sparsity_log), rows_of(folder.loss_log)
    assert list(rows[0])[:4] == ["epoch", "step", "overall", "layers.0.self_attn.q_proj"]
    assert [row["overall"] for row in rows] == [row["sparsity"] for row in losses]
    last = rows[-1]
    modules = [float(value) for name, value in last.items() if name.startswith("layers.")]
    assert float(last["overall"]) == pytest.approx(sum(modules) / len(modules)) and 0 < float(last["overall"]) < 1
    result, history = read_json(folder.result_json), read_json(folder.training_history)
    assert result["sparsity"] == history["sparsity"][-1] == float(last["overall"])
    assert history["effective_params"][-1] == result["effective_params"]
    wide = {"q_proj": 32 + 32, "k_proj": 32 + 16, "v_proj": 32 + 16, "o_proj": 32 + 32}
    wide |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), 32 + 48)
    out = sum(
        round(4 * float(share)) * (wide[name.rpartition(".")[2]] + 1)
        for name, share in last.items()
        if name.startswith("layers.")
    )
    assert result["trainable_params"] - result["effective_params"] == out


def test_one_strength_may_shut_every_gate_or_none(tmp_path: Path) -> None:
    for strength, share in ((1e4, 1.0), (0.0, 0.0)):
        folder = make_job(tmp_path, f"at{share:g}", adapter={**SORA, "sparse_lambda": strength}, max_steps=6)
        assert run(folder)
        assert read_json(folder.result_json)["sparsity"] == share


def test_micro_batches_do_not_matter(tmp_path: Path) -> None:
    adapter = {**SORA, "target_sparsity": 0.5, "l1_lambda": 0.1}
    logs = []
    for size in (8, 4, 1):
        folder = make_job(
            tmp_path, f"m{size}", adapter=adapter, max_steps=12, per_device_train_batch_size=size, full_save_steps=None
        )
        assert run(folder)
        logs.append(rows_of(folder.sparsity_log))
    assert logs[0] == logs[1] == logs[2]


@pytest.mark.slow
def test_two_ranks_shut_the_same_gates_as_one(tmp_path: Path) -> None:
    adapter = {**SORA, "target_sparsity": 0.5}
    folders = []
    for ranks in (1, 2):
        folder = make_job(tmp_path, f"r{ranks}", adapter=adapter, max_steps=12, per_device_train_batch_size=2)
        assert start(folder, ranks).wait(timeout=300) == 0
        folders.append(folder)
    one, two = (rows_of(folder.sparsity_log) for folder in folders)
    assert one == two and float(one[-1]["overall"]) == 0.5


class TwoRanks:
    """Sums what two threads hand in; a call that the other one does not make breaks the barrier."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=5)
        self.given: dict[int, torch.Tensor] = {}

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.given[threading.get_ident()] = tensor.clone()
        self.barrier.wait()
        total = sum(self.given.values())
        self.barrier.wait()
        tensor.copy_(total)


def test_gates_that_only_one_rank_used_learn_alike_on_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_of_engines.dist, "all_reduce", TwoRanks().all_reduce)
    used_by = {0: [1.0, 2.0, None, None], 1: [3.0, None, 4.0, None]}

    def of_rank(rank: int) -> list[float | None]:
        gates = [torch.nn.Parameter(torch.ones(2)) for _ in used_by[rank]]
        for gate, value in zip(gates, used_by[rank], strict=True):
            gate.grad = None if value is None else torch.full((2,), value)
        gates_of_engines.GatesOfAllRanks(World(rank=rank, size=2), gates).add_up()
        return [None if gate.grad is None else gate.grad[0].item() for gate in gates]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(of_rank, (0, 1))) == [[2.0, 1.0, 2.0, None]] * 2
