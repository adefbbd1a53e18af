"""A mixture of LoRA experts equals its definition, for any gate, layout of a batch, and with a cache."""

import copy
from typing import Any

import pytest
import torch
from tinymole import move_gates, with_mixture
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.errors import StudyError
from tunestudy.data.batch import IGNORED, Batch
from tunestudy.models.attention import samples_leak, switch_to_segment_attention
from tunestudy.models.decoder import batch_told, last_hidden_states
from tunestudy.models.mole import Mole, MoleLinear, mole_of, put_mole, telling
from tunestudy.models.mole_gates import Gate, Scene, Tokens, tokens_of

GATES = ["token", "sequence", "layer"]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40, "head_dim": 8}
SAMPLES = [([3, 7, 9, 1, 4], 2), ([5, 2, 8], 1), ([6, 6, 1, 30, 31, 32, 12], 4)]
"""Tokens, and how many of them are the prompt."""


def tiny(**mole: Any) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(config).eval()
    return with_mixture(model, **mole) if mole else model


def the_mole(model: Any) -> Mole:
    mole = mole_of(model)
    assert mole is not None
    return mole


def layer_of(options: dict[str, Any], ranks: tuple[int, ...], seed: int = 0) -> tuple[Gate, MoleLinear]:
    torch.manual_seed(seed)
    settings = MoleAdapter(experts={f"e{i}": "x" if rank else None for i, rank in enumerate(ranks)}, **options)
    gate = Gate(settings, width=16, scene=Scene(), block="b")
    layer = MoleLinear(nn.Linear(16, 12), gate, ranks)
    for parameter in (*gate.parameters(), layer.lora_A, layer.lora_B):
        nn.init.normal_(parameter)
    return gate, layer


@pytest.mark.parametrize("gate_kind", GATES)
@pytest.mark.parametrize("options", [{}, {"top_k": 2, "temperature": 0.7}, {"learn_temperature": True}])
def test_forward_and_gradients_equal_a_loop_over_experts(gate_kind: str, options: dict[str, Any]) -> None:
    ranks = (3, 0, 2, 5)
    gate, layer = layer_of({"gate": gate_kind, **options}, ranks)
    x = torch.randn(2, 6, 16, requires_grad=True)
    weights = torch.randn(2, 6, 12)
    gate.before_block(layer, (x,), {})
    ours = layer(x)
    inputs = [x, *gate.parameters(), layer.lora_A, layer.lora_B]
    got = torch.autograd.grad((ours * weights).sum(), inputs)

    seen = {"token": x, "sequence": x.mean(1, keepdim=True), "layer": None}[gate_kind]
    logits = gate.logits[None, None] if seen is None else linear(seen, gate.weight)
    logits = logits / (gate.log_temperature.exp() if "learn_temperature" in options else options.get("temperature", 1))
    if "top_k" in options:
        least = logits.sort(-1, descending=True).values[..., 1:2]
        logits = torch.where(logits >= least, logits, -torch.inf)
    shares = logits.softmax(-1)
    looped, first = layer.base_layer(x), 0
    for expert, rank in enumerate(ranks):
        down, up = layer.lora_A[first : first + rank], layer.lora_B[:, first : first + rank]
        looped = looped + shares[..., expert : expert + 1] * linear(linear(x, down), up)
        first += rank
    torch.testing.assert_close(ours, looped, atol=1e-5, rtol=1e-5)
    for a, b in zip(got, torch.autograd.grad((looped * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_constant_shares_are_one_change_of_the_weight_and_start_equal() -> None:
    gate, layer = layer_of({"gate": "layer", "top_k": 2}, (3, 2, 4))
    x = torch.randn(1, 5, 16)
    gate.before_block(layer, (x,), {})
    delta = layer.delta(gate.constant())
    expected = linear(x, layer.weight + delta, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        gate.logits.zero_()
    assert gate.constant().tolist() == [0.5, 0.5, 0.0], "of equal logits, the first ones"
    by_expert = sum(0.5 * b @ a for a, b in layer.factors()[:2])
    torch.testing.assert_close(layer.delta(gate.constant()), by_expert)


def test_the_same_tokens_flat_and_other_tokens() -> None:
    gate, layer = layer_of({}, (3, 2))
    x = torch.randn(2, 4, 16)
    gate.before_block(layer, (x,), {})
    torch.testing.assert_close(layer(x.flatten(0, 1)), layer(x).flatten(0, 1))
    with pytest.raises(StudyError, match="other tokens than its block"):
        layer(x[0, :3])


def test_noise_is_of_training_alone() -> None:
    gate, _ = layer_of({"gate_noise": 1.0}, (3, 2))
    x = torch.randn(1, 4, 16)
    torch.manual_seed(1)
    first = gate(x)
    torch.manual_seed(1)
    assert torch.equal(gate(x), first) and not torch.equal(gate(x), first)
    gate.eval()
    assert torch.equal(gate(x), gate(x))


def test_half_precision_keeps_the_bases_type_and_nothing_of_float32() -> None:
    model = tiny(gate="token").to(torch.bfloat16)
    for _, parameter in the_mole(model).parameters():
        parameter.data = parameter.data.float()
    ids = torch.tensor([[1, 2, 3]])
    plain = model(ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(ids).logits
    assert plain.dtype == mixed.dtype == torch.bfloat16
    torch.testing.assert_close(plain.float(), mixed.float(), atol=0.1, rtol=0.1)
    hidden = torch.randn(1, 3, 32, dtype=torch.bfloat16, requires_grad=True)
    gate = next(iter(the_mole(model).gates.values()))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shares = gate(hidden)
    assert not any(tensor.dtype is torch.float32 and tensor.shape == hidden.shape for tensor in kept)
    shares[..., 0].sum().backward()
    assert hidden.grad is not None and gate.weight.grad is not None and float(gate.weight.grad.norm()) > 0


# Batches


def row_batch(samples: list[tuple[list[int], int]], layout: str) -> Batch:
    """The samples with targets behind their prompts, laid out `free`, `right`, or `packed` in padded rows of two."""
    rows = (
        [[s] for s in samples] if layout == "right" else [samples] if layout == "free" else [samples[:2], samples[2:]]
    )
    longest = max(sum(len(ids) for ids, _ in row) for row in rows)
    grids = {name: torch.full((len(rows), longest), value) for name, value in GRIDS.items()}
    for i, row in enumerate(rows):
        at = 0
        for number, (ids, prompt) in enumerate(row):
            where = slice(at, at + len(ids))
            grids["input_ids"][i, where] = torch.tensor(ids)
            grids["position_ids"][i, where] = torch.arange(len(ids))
            grids["targets"][i, at + prompt - 1 : at + len(ids) - 1] = torch.tensor(ids[prompt:])
            grids["segment_ids"][i, where] = number
            at += len(ids)
    segments = grids.pop("segment_ids")
    lengths = [0, *(len(ids) for ids, _ in samples)]
    return Batch(
        **grids,
        num_tokens=sum(lengths),
        num_targets=int((grids["targets"] != IGNORED).sum()),
        cu_seqlens=torch.tensor(lengths).cumsum(0).int() if layout == "free" else None,
        attention_mask=(segments >= 0) if layout != "free" and bool((segments < 0).any()) else None,
        segment_ids=segments if layout == "packed" else None,
    )


GRIDS = {"input_ids": 0, "position_ids": 0, "targets": IGNORED, "segment_ids": -1}


def by_sample(hidden_BTD: Tensor, batch: Batch) -> list[Tensor]:
    real = torch.ones_like(batch.input_ids, dtype=torch.bool) if batch.attention_mask is None else batch.attention_mask
    return list(torch.split(hidden_BTD[real], [len(ids) for ids, _ in SAMPLES]))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("layout", ["free", "right", "packed"])
def test_no_layout_of_a_batch_changes_what_a_sample_becomes(gate: str, layout: str) -> None:
    model = tiny(gate=gate)
    assert switch_to_segment_attention(model) is None and samples_leak(model) is None
    batch = row_batch(SAMPLES, layout)
    with torch.no_grad():
        got = by_sample(last_hidden_states(model, batch), batch)
        alone = [last_hidden_states(model, row_batch([sample], "right"))[0] for sample in SAMPLES]
    for a, b in zip(got, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_gate_over_a_sequence_never_sees_what_is_to_be_predicted() -> None:
    model = tiny(gate="sequence")
    ids, prompt = SAMPLES[2]
    other = ids[:prompt] + [20, 21, 22][: len(ids) - prompt]
    with torch.no_grad():
        states = [last_hidden_states(model, row_batch([(one, prompt)], "right")) for one in (ids, other)]
        asked = model.base_model(torch.tensor([ids[:prompt]])).last_hidden_state
        everything = model.base_model(torch.tensor([ids])).last_hidden_state
    assert torch.equal(states[0][:, :prompt], states[1][:, :prompt])
    torch.testing.assert_close(asked, states[0][:, :prompt], atol=1e-5, rtol=1e-5)
    assert (everything[:, :prompt] - asked).abs().max() > 1e-3, "or the gate saw nothing at all"


@pytest.mark.parametrize("layout", ["free", "right", "packed"])
def test_which_tokens_are_real_and_prompts(layout: str) -> None:
    batch = row_batch(SAMPLES, layout)
    tokens = tokens_of(batch, by_sample=True)
    real = torch.ones_like(batch.input_ids).bool() if tokens.real is None else tokens.real
    assert int(real.sum()) == 15
    assert tokens.prompt is not None
    assert sorted(batch.input_ids[tokens.prompt].tolist()) == sorted(t for ids, n in SAMPLES for t in ids[:n])
    if tokens.sample is not None:
        assert torch.bincount(tokens.sample[real], minlength=3)[:3].tolist() == [5, 3, 7]
    assert tokens_of(batch, by_sample=False).prompt is None


@pytest.mark.parametrize("layout", ["free", "right"])
def test_what_fills_up_a_batch_is_not_real(layout: str) -> None:
    filler = ([0], 1)
    batch = row_batch([*SAMPLES, filler], layout)
    tokens = tokens_of(Batch(**{**vars(batch), "num_tokens": batch.num_tokens - 1}), by_sample=False)
    assert tokens.real is not None and int(tokens.real.sum()) == 15
    dummy = row_batch([filler], layout)
    nothing = tokens_of(Batch(**{**vars(dummy), "num_tokens": 0}), by_sample=True)
    assert nothing.real is not None and not nothing.real.any()


# Writing


@pytest.mark.parametrize("gate", GATES)
def test_what_a_padded_batch_writes_with_a_cache_is_what_each_row_writes_without(gate: str) -> None:
    model = tiny(gate=gate)
    prompts = [ids for ids, _ in SAMPLES]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    told = model.generate(
        input_ids=ids, attention_mask=mask, output_logits=True, return_dict_in_generate=True, **options
    )
    for row, prompt in enumerate(prompts):
        text = list(prompt)
        for step in range(6):
            with torch.no_grad(), telling(model, Tokens(prompt=(torch.arange(len(text)) < len(prompt))[None])):
                logits = model(torch.tensor([text]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(told.logits[step][row], logits, atol=1e-4, rtol=1e-4)
            text.append(int(logits.argmax()))
        assert told.sequences[row, longest:].tolist() == text[len(prompt) :]


def test_a_cache_with_other_rows_than_the_gates_saw_is_refused() -> None:
    model = tiny(gate="sequence")
    with torch.no_grad():
        cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
        cache.batch_select_indices(torch.tensor([0, 0]))
        with pytest.raises(RuntimeError, match="other rows than its prompts had"):
            model(torch.tensor([[4], [5]]), past_key_values=cache)


def test_what_was_told_ends_with_its_block() -> None:
    model = tiny(gate="sequence")
    scene = the_mole(model).scene
    with pytest.raises(ZeroDivisionError), batch_told(model, row_batch(SAMPLES, "free")):
        assert scene.told is not None
        _ = 1 / 0
    assert scene.told is None
    assert mole_of(tiny()) is None


# On a model


def test_a_copy_is_a_mixture_of_its_own() -> None:
    model = tiny(gate="sequence")
    ids = torch.tensor([SAMPLES[0][0]])
    before = model(ids).logits
    other = copy.deepcopy(model)
    assert torch.equal(other(ids).logits, before)
    move_gates(other, seed=5)
    assert not torch.equal(other(ids).logits, before) and torch.equal(model(ids).logits, before)
    assert other.mole.scene is not model.mole.scene


def test_where_a_mixture_cannot_go() -> None:
    settings = MoleAdapter(experts={"a": "x", "b": None})
    with pytest.raises(StudyError, match="use target: language_model"):
        put_mole(tiny(), settings, {"lm_head": (2, 0)})
    with pytest.raises(StudyError, match="not a linear layer"):
        put_mole(tiny(), settings, {"model.layers.0.input_layernorm": (2, 0)})
    with pytest.raises(StudyError, match="merge_then_new"):
        put_mole(tiny(gate="token"), settings, {"model.layers.0.mlp.up_proj": (2, 0)})


def test_names_of_parameters_are_those_of_the_model() -> None:
    model = tiny(gate="token", learn_temperature=True)
    mole = the_mole(model)
    named = dict(model.named_parameters())
    own = dict(mole.parameters())
    assert all(named[name] is parameter for name, parameter in own.items())
    assert own.keys() == {name for name in named if ".lora_" in name} and len(own) == 4 * 2 + 2 * 2
    assert len(model.state_dict().keys() & own.keys()) == len(own)
    assert mole.ranks["model.layers.1.mlp.down_proj"] == (3, 2, 0) and mole.experts == ("en", "ko", "none")
