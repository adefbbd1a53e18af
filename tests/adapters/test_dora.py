"""DoRA against PEFT's own: the same outputs, gradients, steps and files; norms computed once per optimiser step."""

import copy
from collections.abc import Callable
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Qwen3Config

from tunestudy.adapters.attach import attach, go_on
from tunestudy.adapters.dora import current_direction, direction_layers, forget, quicken
from tunestudy.config.adapter import DoraAdapter
from tunestudy.config.errors import StudyError

IN, OUT, RANK = 24, 40, 4
IDS = torch.tensor([[4, 9, 11, 30, 7, 5]])


def moved(model: Any, seed: int = 1) -> Any:
    """The model after its trainable tensors have moved, as by training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def two_layers(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """PEFT's DoRA on a small network, its weights moved and in fp32."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(IN, OUT), nn.Tanh(), nn.Linear(OUT, IN, bias=False)).to(dtype)
    config = LoraConfig(r=RANK, lora_alpha=8, use_dora=True, target_modules=["0", "2"], **options)
    model = get_peft_model(network, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return moved(model)


def ours_of(model: Any, **options: Any) -> Any:
    copied = copy.deepcopy(model)
    quicken(copied, **options)
    return copied


def x_of(seed: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 5, IN, generator=torch.Generator().manual_seed(seed)).to(dtype)


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def learning(model: Any) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def language_model(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=40,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def train_step(model: Any, optimizer: Any, step: int, *, recompute: bool) -> dict[str, torch.Tensor]:
    """Four micro-batches and one step of the optimiser; the outputs and gradients."""
    optimizer.zero_grad()
    seen = {}
    for micro in range(4):
        x = x_of(seed=100 * step + micro).requires_grad_()
        out = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
        (out - x.detach().flip(-1)).square().mean().backward()
        seen |= {f"output {micro}": out.detach(), f"x {micro}": x.grad}
    seen |= {name: p.grad.clone() for name, p in learning(model).items()}
    optimizer.step()
    return seen


@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "checkpointed"])
def test_twenty_steps_equal_pefts(recompute):
    theirs = two_layers()
    ours = ours_of(theirs)
    optimizers = [torch.optim.AdamW(learning(m).values(), lr=1e-3) for m in (ours, theirs)]
    for step in range(20):
        mine = train_step(ours, optimizers[0], step, recompute=recompute)
        other = train_step(theirs, optimizers[1], step, recompute=recompute)
        assert mine.keys() == other.keys()
        for name in mine:
            assert distance(mine[name], other[name]) <= 1e-5, (step, name)
    assert all(layer._caches["default-direction"].computed == 20 for layer in direction_layers(ours, "default"))


def test_half_precision_is_no_further_from_fp64_than_peft():
    """Over many draws: each side's distance to the same network in fp64."""
    totals: dict[str, list[float]] = {}
    for seed in range(40):
        theirs = moved(two_layers(torch.bfloat16), seed)
        exact = copy.deepcopy(theirs).double()
        sides = {"ours": ours_of(theirs), "peft": theirs, "exact": exact}
        x, direct = x_of(seed, torch.bfloat16), x_of(seed + 50, torch.bfloat16)
        found = {side: gradients(m, x.double() if side == "exact" else x, direct) for side, m in sides.items()}
        for name, expected in found["exact"].items():
            errors = [distance(found[side][name], expected) for side in ("ours", "peft")]
            totals[name] = [a + b for a, b in zip(totals.get(name, [0, 0]), errors, strict=True)]
    for name, (ours, peft) in totals.items():
        assert ours <= peft * 1.02, (name, ours, peft)


def gradients(model: Any, x: torch.Tensor, direct: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    (out * direct.to(out.dtype)).sum().backward()
    return {"output": out.detach(), "x": x.grad, **{name: p.grad for name, p in learning(model).items()}}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    theirs = two_layers()
    exact, ours = copy.deepcopy(theirs).double(), ours_of(theirs)
    with torch.autocast("cpu", dtype):
        found, other = (gradients(model, x_of(), x_of(4)) for model in (ours, theirs))
    expected = gradients(exact, x_of().double(), x_of(4))
    assert found["output"].dtype == other["output"].dtype == dtype
    for name, value in found.items():
        assert distance(value, expected[name]) <= 1.25 * distance(other[name], expected[name]) + 1e-4, name


def test_dropout_on_input_is_pefts():
    theirs = two_layers(lora_dropout=0.3).train()
    ours = ours_of(theirs)
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(5)
        outputs.append(gradients(model, x_of(), x_of(4)))
    for name, value in outputs[0].items():
        assert distance(value, outputs[1][name]) <= 1e-5, name


def test_dropout_on_the_adapter_leaves_the_base_product_whole():
    """With B = 0 and m moved there is no adapter's branch, so dropping its input changes nothing."""
    theirs = two_layers(lora_dropout=0.5).train()
    ours = ours_of(theirs, dropout_on="adapter")
    assert not torch.equal(ours(x_of()), ours(x_of()))
    for layer in direction_layers(ours, "default"):
        layer.lora_B["default"].weight.data.zero_()
    assert torch.equal(ours(x_of()), ours(x_of()))
    assert torch.equal(ours(x_of()), ours.eval()(x_of()))


def only_layer(model: Any) -> Any:
    return direction_layers(model, "default")[0]


def reload_same_shapes(model: Any) -> None:
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})


def write_in_place(name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        with torch.no_grad():
            model.get_parameter(f"base_model.model.0.{name}").mul_(1.5)

    return change


def write_through_data(name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.get_parameter(f"base_model.model.0.{name}").data.mul_(1.5)

    return change


def swap_data(name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        parameter = model.get_parameter(f"base_model.model.0.{name}")
        for factor in (2.0, 0.75):  # the first one's memory is free again for the second
            parameter.data = parameter.data * factor

    return change


def new_scale(model: Any) -> None:
    only_layer(model).set_scale("default", 3.0)


def cast_and_back(model: Any) -> None:
    model.to(torch.bfloat16).to(torch.float32)


def merge_and_back(model: Any) -> None:
    model.merge_adapter()
    model.unmerge_adapter()


def step_of_an_optimizer(model: Any) -> None:
    model(x_of()).sum().backward()
    torch.optim.SGD(learning(model).values(), lr=0.1).step()


FACTORS = ("lora_A.default.weight", "lora_B.default.weight", "base_layer.weight")
WAYS = (write_in_place, write_through_data, swap_data)
CHANGES: dict[str, Callable[[Any], None]] = {
    **{f"{way.__name__} {name}": way(name) for way in WAYS for name in FACTORS},
    "load_state_dict": reload_same_shapes,
    "set_scale": new_scale,
    "cast": cast_and_back,
    "merge": merge_and_back,
    "step": step_of_an_optimizer,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_any_change_is_noticed(change, mode):
    ours = ours_of(two_layers())
    with mode():
        before = ours(x_of())
    change(ours)
    with mode():
        after = ours(x_of())
        layer = only_layer(ours)
        cached = current_direction(layer, "default").norm
        forget(ours)
        assert torch.equal(cached, current_direction(layer, "default").norm)
        assert torch.equal(after, ours(x_of()))
    if change is not merge_and_back:
        assert not torch.equal(before, after)


def test_norms_are_shared_until_something_changes():
    ours = ours_of(two_layers())
    with torch.inference_mode():
        ours(x_of())
    for _ in range(3):
        checkpoint(ours, x_of().requires_grad_(), use_reentrant=False).sum().backward()
    cache = only_layer(ours)._caches["default-direction"]
    assert cache.computed == 1
    step_of_an_optimizer(ours)
    ours(x_of())
    assert cache.computed == 2


def test_the_weights_squares_outlive_a_step():
    ours = ours_of(two_layers())
    ours(x_of())
    squares = only_layer(ours)._caches["default-direction"]._squares[1]
    step_of_an_optimizer(ours)
    ours(x_of())
    assert only_layer(ours)._caches["default-direction"]._squares[1] is squares


def test_a_layer_used_twice():
    theirs = two_layers()
    ours = ours_of(theirs)
    results = []
    for model in (ours, theirs):
        out = model(model(x_of()))
        out.square().sum().backward()
        results.append([out, *(p.grad for p in learning(model).values())])
    assert all(distance(a, b) <= 1e-5 for a, b in zip(*results, strict=True))


def test_gradients_of_biases_and_without_any_of_x():
    theirs = two_layers(bias="all")
    ours = ours_of(theirs)
    assert any(name.endswith(".bias") for name in learning(ours))
    for model in (ours, theirs):
        model(x_of()).square().sum().backward()
    for (name, mine), other in zip(learning(ours).items(), learning(theirs).values(), strict=True):
        assert distance(mine.grad, other.grad) <= 1e-5, name


@pytest.mark.parametrize("case", ["base trains", "base is watched", "result is watched", "nothing"])
def test_the_base_takes_part_in_the_backward_pass_where_somebody_needs_it(case):
    """Else its product is taken together with the adapter's."""
    theirs = two_layers()
    seen = []
    first = theirs.base_model.model[0].base_layer
    if case == "base trains":
        first.weight.requires_grad_(True)
    elif case == "base is watched":
        first.register_full_backward_hook(lambda *_: seen.append("gradient"))
    elif case == "result is watched":
        first.register_forward_hook(
            lambda _m, _x, result: result.register_hook(lambda _: seen.append("result")) and None
        )
    ours = ours_of(theirs)
    x, y = (x_of().requires_grad_() for _ in "xy")
    theirs(x).square().sum().backward()
    ours(y).square().sum().backward()
    assert distance(y.grad, x.grad) < 1e-5
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or distance(a.grad, b.grad) < 1e-5, name
    told = [one for one in seen if isinstance(one, str)]
    assert len(told) == (2 if "watched" in case else 0)


def test_rows_of_zeros_do_not_become_nan():
    """PEFT's own divides zero by zero there."""
    theirs = two_layers()
    for layer in (theirs.base_model.model[0],):
        layer.base_layer.weight.data[3] = 0
        layer.lora_B["default"].weight.data[3] = 0
        layer.lora_magnitude_vector["default"].weight.data[3] = 0
    ours = ours_of(theirs)
    assert theirs(x_of()).isnan().any()
    found = gradients(ours, x_of(), x_of(4))
    assert all(bool(value.isfinite().all()) for value in found.values())
    layer = only_layer(ours)
    assert torch.equal(layer(x_of())[..., 3], layer.base_layer.bias[3].expand(2, 5))
    expected = ours(x_of())
    ours.merge_adapter()
    torch.testing.assert_close(ours(x_of()), expected)
    ours.unmerge_adapter()
    torch.testing.assert_close(ours(x_of()), expected)


@pytest.mark.parametrize("safe", [False, True])
def test_merging_and_back(safe):
    ours = ours_of(two_layers())
    weight = only_layer(ours).base_layer.weight.detach().clone()
    expected = ours(x_of())
    ours.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(ours(x_of()), expected, rtol=1e-5, atol=1e-5)
    ours.unmerge_adapter()
    torch.testing.assert_close(only_layer(ours).base_layer.weight, weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.merge_and_unload()(x_of()), expected, rtol=1e-5, atol=1e-5)


def test_stock_peft_and_ours_read_each_others_files(tmp_path):
    ours = moved(attach(language_model(), DoraAdapter(lora_r=RANK), seed=1))
    ours.save_pretrained(tmp_path / "ours")
    stock = PeftModel.from_pretrained(language_model(), tmp_path / "ours")
    torch.testing.assert_close(logits(stock), logits(ours), rtol=1e-5, atol=1e-5)
    assert not direction_layers(stock, "default")
    again = PeftModel.from_pretrained(language_model(), tmp_path / "ours", is_trainable=True)
    quicken(again)
    assert len(direction_layers(again, "default")) == 14
    assert torch.equal(logits(again), logits(ours))


def test_a_loaded_adapter_that_is_trained_on_computes_our_way(tmp_path):
    attach(language_model(), DoraAdapter(lora_r=RANK), seed=1).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(language_model(), tmp_path, is_trainable=True)
    go_on(model, DoraAdapter(lora_r=RANK, dropout_on="adapter"))
    layers = direction_layers(model, "default")
    assert len(layers) == 14 and {layer.lora_variant["default"].dropout_on for layer in layers} == {"adapter"}


def test_under_ddp(tmp_path):
    """Its reducer sees every parameter's gradient, and they are the plain ones."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        ours = ours_of(two_layers())
        plain = copy.deepcopy(ours)
        wrapped = nn.parallel.DistributedDataParallel(ours)
        with wrapped.no_sync():
            wrapped(x_of()).sum().backward()
        wrapped(x_of(9)).sum().backward()
        (plain(x_of()).sum() + plain(x_of(9)).sum()).backward()
        for (name, mine), other in zip(learning(ours).items(), learning(plain).values(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, msg=name)
    finally:
        torch.distributed.destroy_process_group()


def test_names_and_keys_are_pefts():
    config = LoraConfig(use_dora=True, r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    stock = get_peft_model(language_model(), config)
    assert list(attach(language_model(), DoraAdapter(lora_r=RANK), seed=1).state_dict()) == list(stock.state_dict())


def test_combining_adapters_is_refused():
    model = attach(language_model(), DoraAdapter(lora_r=RANK), seed=1)
    model.add_adapter("second", model.peft_config["default"])
    with pytest.raises(StudyError, match="default, second is DoRA: PEFT would combine A and B only"):
        model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "both", combination_type="cat")


def test_gpt2_with_its_transposed_linear_layers():
    torch.manual_seed(0)
    config = CONFIG_MAPPING["gpt2"](n_embd=32, n_layer=2, n_head=2, vocab_size=40, bos_token_id=0, eos_token_id=1)
    plain = AutoModelForCausalLM.from_config(config)
    expected = logits(plain)
    model = attach(plain, DoraAdapter(lora_r=2), seed=0)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    changed = logits(moved(model))
    assert distance(changed, expected) > 1e-3
    torch.testing.assert_close(logits(model.merge_and_unload()), changed, rtol=1e-5, atol=1e-5)


def test_embeddings_keep_pefts_own(tmp_path):
    adapter = DoraAdapter(lora_r=2, target_modules=("embed_tokens", "q_proj"))
    model = attach(language_model(), adapter, seed=0)
    torch.testing.assert_close(logits(model), logits(language_model()), rtol=1e-5, atol=1e-5)
    assert len(direction_layers(model, "default")) == 2
    moved(model).save_pretrained(tmp_path)
    stock = PeftModel.from_pretrained(language_model(), tmp_path)
    torch.testing.assert_close(logits(stock), logits(model), rtol=1e-5, atol=1e-5)


def test_a_four_bit_base():
    torch.manual_seed(0)
    network = nn.Sequential(bnb.nn.Linear4bit(128, 64, quant_type="nf4", compute_dtype=torch.float32)).to("cpu")
    network.is_loaded_in_4bit = True
    theirs = moved(get_peft_model(network, LoraConfig(r=RANK, use_dora=True, target_modules=["0"])))
    ours = copy.deepcopy(theirs)
    quicken(ours)
    x = torch.randn(2, 5, 128)
    found, other = (gradients(model, x, torch.ones(2, 5, 64)) for model in (ours, theirs))
    assert type(only_layer(ours)).__name__ == "Linear4bit"
    for name, value in found.items():
        assert distance(value, other[name]) <= 1e-5, name
    gradients(ours, x, torch.ones(2, 5, 64))
    assert only_layer(ours)._caches["default-direction"].computed == 1
