"""Training a mixture: the same gradients however a step is cut, its balance losses, its log, exact resume."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stops import Crash, CrashAt
from tinyjob import facts_of, make_job, rows_of, run
from tinymole import mixture, mole_job, with_mixture
from tinyranks import start
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.config.errors import StudyError
from tunestudy.config.stage import TrainStage
from tunestudy.data.batch import IGNORED, Batch
from tunestudy.models.decoder import last_hidden_states
from tunestudy.records.layout import JobDir
from tunestudy.train.metrics import MoleState
from tunestudy.train.mole import MoleDrive
from tunestudy.train.world import World

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 20}
QUIET = {"eval_on_epoch_end": False, "save_steps": None, "full_save_steps": None, "save_on_epoch_end": False}
STEPS: dict[str, Any] = {**QUIET, "max_steps": 3, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": None}
CUTS: dict[str, dict[str, Any]] = {
    "one by one": {"per_device_train_batch_size": 1},
    "padded, four at a time": {"effective_batch_size": 8, "per_device_train_batch_size": 4, "padding": "right"},
    "activations formed again": {"per_device_train_batch_size": 2, "activation_checkpointing": True},
}
FAST = {"gate_learning_rate": 100.0}
"""These tiny gates move so little in a few steps that a balance loss would find nothing to pull at."""
MIXTURES: dict[str, dict[str, Any]] = {
    "by token, Switch's": {"balance": "switch"},
    "by sequence, Switch's, temperature": {"gate": "sequence", "balance": "switch", "learn_temperature": True},
    "two of three by token": {"top_k": 2, "balance": "switch"},
    "by layer, the paper's, gates alone": {"gate": "layer", "balance": "mole", "train_experts": False, **FAST},
}


def weights_of(job: JobDir) -> dict[str, Tensor]:
    """The mixture that a job published."""
    (file,) = job.model.rglob("mole.safetensors")
    return load_file(file)


def numbers(job: JobDir) -> list[dict[str, float]]:
    """mole_log.csv without the names of blocks."""
    return [{k: float(v) for k, v in row.items() if k != "module" and v} for row in rows_of(job.mole_log)]


def nearly_alike(one: JobDir, other: JobDir) -> None:
    for name, tensor in weights_of(one).items():
        torch.testing.assert_close(weights_of(other)[name], tensor, atol=2e-5, rtol=1e-4)
    for a, b in zip(numbers(one), numbers(other), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    for a, b in zip(rows_of(one.loss_log), rows_of(other.loss_log), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), abs=1e-5)


@pytest.mark.parametrize("case", list(MIXTURES))
def test_no_way_to_cut_a_step_changes_what_is_learnt(tmp_path: Path, case: str) -> None:
    adapter = {"balance_coefficient": 1.0, **MIXTURES[case]}
    whole = mole_job(tmp_path / "whole", adapter=adapter, **STEPS)
    assert run(whole)
    cuts = CUTS if case == "by sequence, Switch's, temperature" else dict(list(CUTS.items())[:1])
    for number, cut in enumerate(cuts.values()):
        other = mole_job(tmp_path / str(number), adapter=adapter, **{**STEPS, **cut})
        assert run(other)
        nearly_alike(whole, other)
    free = mole_job(tmp_path / "free", adapter={**adapter, "balance_coefficient": 0.0}, **STEPS)
    assert run(free)
    moved = {n: float((weights_of(free)[n] - t).abs().max()) for n, t in weights_of(whole).items()}
    assert max(moved.values()) > 1e-3, "the balance loss must have pulled, or nothing was tested"
    first = [float(rows_of(job.loss_log)[0]["train_loss"]) for job in (whole, free)]
    assert first[0] == first[1], "the loss that is logged is that of the language model"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_two_ranks_learn_what_one_does(tmp_path: Path, engine: str) -> None:
    adapter = {"balance_coefficient": 1.0, "gate": "sequence", "balance": "switch"}
    settings = {**STEPS, "full_save_steps": 2, "per_device_train_batch_size": 1}
    if engine == "deepspeed":
        settings |= {"optim": "adamw_torch", "learning_rate": 0.01}
    one = mole_job(tmp_path / "one", adapter=adapter, **settings)
    two = mole_job(tmp_path / "two", adapter=adapter, engine=engine, **settings)
    assert run(one)
    assert start(two).wait(timeout=300) == 0
    nearly_alike(one, two)


# The balance losses


def tiny(**options: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    )
    return with_mixture(model, **options)


def some_batch() -> Batch:
    """Two rows, the second shorter by three tokens."""
    ids = torch.arange(14).reshape(2, 7) % 20
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(7).expand(2, 7),
        targets=torch.full((2, 7), IGNORED),
        num_tokens=11,
        num_targets=0,
        attention_mask=mask,
    )


def driven(options: dict[str, Any]) -> tuple[Any, MoleDrive]:
    settings = TrainStage(data=({"dataset": "d"},), learning_rate=0.1, adapter=mixture(**options))
    model = tiny(**options)
    return model, MoleDrive(model, settings)


def balanced(model: Any, drive: MoleDrive, state: MoleState, *, targets: int = 5) -> Tensor:
    batch = some_batch()
    with drive.on(batch):
        last_hidden_states(model, batch)
        return drive.with_balance(torch.zeros(()), state, targets=targets, tokens=11) / targets


@pytest.mark.parametrize("balance", ["switch", "mole"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_after_a_step_like_this_one_the_gradient_is_that_of_the_papers_loss(balance: str, top_k: int | None) -> None:
    options: dict[str, Any] = {"balance": balance, "top_k": top_k, "balance_coefficient": 0.3}
    model, drive = driven(options)
    state = MoleState()
    constant = balanced(model, drive, state)
    drive.end_step(World(), state, tokens=11)
    ours = balanced(model, drive, state)

    inputs: dict[str, Tensor] = {}
    for name, gate in model.mole.gates.items():
        block = model.get_submodule(name)
        block.register_forward_pre_hook(lambda _m, args, name=name: inputs.update({name: args[0]}))
        assert gate.weight.shape == (3, 32)
    last_hidden_states(model, some_batch())
    real = some_batch().attention_mask
    shares, loads = [], []
    for name, gate in model.mole.gates.items():
        logits = inputs[name][real] @ gate.weight.T
        shares.append(logits.softmax(-1).mean(0))
        chosen = logits.topk(top_k or 1).indices.flatten()
        loads.append(torch.bincount(chosen, minlength=3) / len(chosen))
    if balance == "switch":
        expected = 0.3 * sum(3 * (f * p).sum() for f, p in zip(loads, shares, strict=True)) / 2
        torch.testing.assert_close(ours, expected)
        assert float(constant.detach()) == pytest.approx(0.3)
    else:
        expected = 0.3 * -torch.stack(shares).mean(0).log().sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    got = torch.autograd.grad(ours, parameters, allow_unused=True)
    for a, b in zip(got, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    drive.end_step(World(), state, tokens=11)
    overall, *blocks = drive.rows(state)
    assert 0.3 * overall["balance"] == pytest.approx(float(expected.detach()), rel=1e-5)
    assert [row["module"] for row in blocks] == ["layers.0", "layers.1"]
    for row, share, load in zip(blocks, shares, loads, strict=True):
        usage = [row[name] for name in ("en", "ko", "none")]
        assert usage == pytest.approx((share if top_k is None else load).tolist(), abs=1e-6)


def test_equal_shares_have_no_pull_and_full_entropy() -> None:
    model, drive = driven({"balance": "mole"})
    with torch.no_grad():
        for gate in model.mole.gates.values():
            gate.weight.zero_()
    state = MoleState()
    for _ in range(2):
        found = torch.autograd.grad(balanced(model, drive, state), model.mole.gates["model.layers.0"].weight)[0]
        assert float(found.abs().max()) < 1e-7
        drive.end_step(World(), state, tokens=11)
    (overall, *_) = drive.rows(state)
    assert overall["entropy"] == pytest.approx(1.0) and overall["balance"] == pytest.approx(3 * math.log(3))


def test_nothing_is_added_where_nothing_pulls() -> None:
    for options in ({"balance": "none"}, {"balance_coefficient": 0.0}):
        model, drive = driven(options)
        assert not balanced(model, drive, MoleState()).requires_grad
    drive = MoleDrive(torch.nn.Linear(2, 2), TrainStage(data=({"dataset": "d"},), learning_rate=0.1))
    nll = torch.zeros(())
    with drive.on(some_batch()):
        assert drive.with_balance(nll, MoleState(), targets=1, tokens=1) is nll
    assert drive.rows(MoleState()) == [] and drive.experts == ()


# Jobs

RESUMED: dict[str, dict[str, Any]] = {
    "noise, dropout, half precision, activations formed again": {
        "adapter": {"gate_noise": 0.5, "lora_dropout": 0.2, "balance_coefficient": 0.5, "gate_learning_rate": 0.1},
        "bf16": True,
        "activation_checkpointing": True,
        "per_device_train_batch_size": 2,
        "logging_steps": 2,
    },
    "packed sequences, gates alone, best published": {
        "adapter": {"gate": "sequence", "train_experts": False, "top_k": 1, "balance": "mole"},
        "packing": True,
        "max_length": 48,
        "effective_batch_size": 2,
        "per_device_train_batch_size": 1,
        "load_best_model_at_end": True,
        "learning_rate": 0.1,
    },
}


@pytest.mark.parametrize("case", list(RESUMED))
def test_a_killed_run_goes_on_to_the_same_bit(tmp_path: Path, case: str) -> None:
    settings = {"max_steps": 7, "logging_steps": 1, **RESUMED[case]}
    quiet, hit = mole_job(tmp_path / "quiet", **settings), mole_job(tmp_path / "hit", **settings)
    assert run(quiet)
    with pytest.raises(Crash):
        run(hit, stop=CrashAt(6))
    assert run(hit)
    assert json.loads(hit.result_json.read_text())["resumed_from"] == [3]
    assert facts_of(quiet) == facts_of(hit)
    assert rows_of(quiet.mole_log) == rows_of(hit.mole_log)
    assert quiet.mole_log.read_bytes() == hit.mole_log.read_bytes()


def test_gates_alone_leave_their_experts_and_are_all_that_a_checkpoint_holds(tmp_path: Path) -> None:
    job = mole_job(tmp_path, adapter={"train_experts": False}, max_steps=3, save_steps=3, full_save_steps=None)
    assert run(job)
    kept = load_file(job.checkpoint(3) / "mole.safetensors")
    assert sorted(kept) == [f"model.layers.{i}.lora_router.weight" for i in (0, 1)]
    published, given = weights_of(job), load_file(tmp_path / "en" / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    torch.testing.assert_close(published[f"{name}.lora_A"][:3], given[f"base_model.model.{name}.lora_A.weight"])
    assert all(torch.equal(published[key], tensor) for key, tensor in kept.items())
    assert all(float(tensor.norm()) > 0 for tensor in kept.values())


def test_the_log_has_every_gated_block_and_all_of_them(tmp_path: Path) -> None:
    job = mole_job(tmp_path, adapter={"top_k": 2}, max_steps=4, logging_steps=2, **QUIET)
    assert run(job)
    rows = rows_of(job.mole_log)
    assert [(row["step"], row["module"]) for row in rows] == [
        (step, module) for step in ("2", "4") for module in ("overall", "layers.0", "layers.1")
    ]
    assert list(rows[0]) == ["epoch", "step", "module", "entropy", "balance", "en", "ko", "none"]
    for row in rows:
        shares = [float(row[name]) for name in ("en", "ko", "none")]
        assert sum(shares) == pytest.approx(1.0) and max(shares) <= 0.5 + 1e-9
        assert 0 < float(row["entropy"]) <= math.log(2) / math.log(3) + 1e-6
    for name in ("en", "entropy", "balance"):
        blocks = [float(row[name]) for row in rows[1:3]]
        assert float(rows[0][name]) == pytest.approx(sum(blocks) / 2)


def test_a_stage_goes_on_with_the_mixture_before(tmp_path: Path) -> None:
    first = mole_job(tmp_path, max_steps=2, **QUIET)
    assert run(first)
    second = make_job(
        tmp_path, "more", after=first, init="continue", adapter=mixture(gate_noise=0.1), max_steps=1, **QUIET
    )
    assert run(second)
    before, after = weights_of(first), weights_of(second)
    assert before.keys() == after.keys()
    moved = {name: float((after[name] - tensor).abs().max()) for name, tensor in before.items()}
    assert all(0 < value < 0.1 for value in moved.values()), "a step away from where the first one ended"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"train": ["lm_head"]}, "train"),
        ({"torch_compile": True}, "torch_compile"),
        ({"engine": "fsdp2"}, "engine"),
    ],
)
def test_what_does_not_go_with_a_mixture_is_refused(tmp_path: Path, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(StudyError) as error:
        run(mole_job(tmp_path, **settings))
    assert error.value.place.key == f"stages.mix.{key}"
