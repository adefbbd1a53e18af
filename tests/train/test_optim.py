"""Optimisers against torch's own, groups, clipping."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tunestudy.config.stage import TrainStage
from tunestudy.train.optim import clip, make_optimizer, set_learning_rates
from tunestudy.train.trainable import Trainable, UnequalError, UntrainedError, require_alike, require_gradients
from tunestudy.train.world import World


def stage(**settings: object) -> TrainStage:
    return TrainStage.model_validate({"data": ["d"], "learning_rate": 0.01, **settings})


def trainables(*shapes: tuple[int, ...], rates: tuple[float, ...] = ()) -> list[Trainable]:
    torch.manual_seed(0)
    return [
        Trainable(
            name=f"p{i}",
            parameter=nn.Parameter(torch.randn(shape)),
            role=("projector", "language_model")[i % 2],
            learning_rate=rates[i] if rates else 0.01,
            decays=len(shape) > 1,
        )
        for i, shape in enumerate(shapes)
    ]


def take_steps(count: int, ours: list[Trainable], theirs: list[Trainable], *optimizers: torch.optim.Optimizer) -> None:
    """The same random gradients on both sides."""
    for step in range(count):
        torch.manual_seed(step)
        for a, b in zip(ours, theirs, strict=True):
            a.parameter.grad = torch.randn_like(a.parameter)
            b.parameter.grad = a.parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()


REFERENCES = {
    "adamw_torch_fused": (
        {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "weight_decay": 0.1},
        lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-6, foreach=False, fused=False),
    ),
    "adamw_torch": ({}, lambda groups: torch.optim.AdamW(groups, lr=0.01, foreach=False, fused=False)),
    "sgd": (
        {"momentum": 0.9, "weight_decay": 0.1},
        lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, foreach=False),
    ),
    "adafactor": ({"weight_decay": 0.1}, lambda groups: torch.optim.Adafactor(groups, lr=0.01, foreach=False)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_steps_equal_those_of_torch(name: str) -> None:
    settings, reference = REFERENCES[name]
    ours, theirs = trainables((4, 3), (5,), (2, 2)), trainables((4, 3), (5,), (2, 2))
    optimizer = make_optimizer(ours, stage(optim=name, **settings))
    decay = settings.get("weight_decay", 0.0)
    expected = reference([{"params": [t.parameter], "weight_decay": decay if t.decays else 0.0} for t in theirs])
    take_steps(3, ours, theirs, optimizer, expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.parameter, b.parameter, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"])
def test_few_bits_move_almost_as_adamw_does_and_spare_embeddings(name: str) -> None:
    ours, theirs = trainables((128, 64), (64,), (128, 64)), trainables((128, 64), (64,), (128, 64))
    ours[2] = replace(ours[2], name="model.embed_tokens.weight")
    optimizer = make_optimizer(ours, stage(optim=name, learning_rate=0.01))
    expected = torch.optim.AdamW([t.parameter for t in theirs], lr=0.01, weight_decay=0.0)
    started = theirs[0].parameter.detach().clone()
    take_steps(20, ours, theirs, optimizer, expected)
    dtypes = [optimizer.state[t.parameter]["state1"].dtype for t in ours]
    assert dtypes == [torch.uint8 if "8bit" in name else torch.float32, torch.float32, torch.float32]
    moved = (theirs[0].parameter - started).norm()
    assert (ours[0].parameter - theirs[0].parameter).norm() < 0.1 * moved
    torch.testing.assert_close(ours[2].parameter, theirs[2].parameter, rtol=1e-4, atol=1e-6)


def test_no_parameter_inherits_the_exactness_of_an_embedding_that_had_its_address() -> None:
    params = trainables((128, 64))
    embedding = replace(params[0], name="model.embed_tokens.weight")
    make_optimizer([embedding], stage(optim="adamw_8bit"))
    optimizer = make_optimizer(params, stage(optim="adamw_8bit"))
    params[0].parameter.grad = torch.randn_like(params[0].parameter)
    optimizer.step()
    assert optimizer.state[params[0].parameter]["state1"].dtype == torch.uint8


def test_vectors_do_not_decay_and_roles_have_their_own_rates() -> None:
    params = trainables((4, 3), (5,), (2, 2), rates=(0.1, 0.2, 0.1))
    optimizer = make_optimizer(params, stage(weight_decay=0.5))
    by_size = {p.numel(): group for group in optimizer.param_groups for p in group["params"]}
    assert by_size[12]["weight_decay"] == 0.5
    assert by_size[5]["weight_decay"] == 0.0
    assert by_size[12] is by_size[4]
    assert set_learning_rates(optimizer, lambda step: 1 / (step + 1), 1) == pytest.approx(0.1)
    assert by_size[12]["lr"] == pytest.approx(0.05)
    assert by_size[5]["lr"] == pytest.approx(0.1)


def test_clipping_is_by_the_global_norm() -> None:
    params = trainables((4, 3), (5,))
    for trainable in params:
        trainable.parameter.grad = torch.full_like(trainable.parameter, 2.0)
    norm = clip(params, 1.0)
    assert norm == pytest.approx(2 * 17**0.5)
    assert clip(params, None) == pytest.approx(1.0, rel=1e-5)


def test_a_tensor_without_gradient_is_named_and_a_zero_gradient_is_fine() -> None:
    params = trainables((4, 3), (5,))
    params[0].parameter.grad = torch.zeros(4, 3)
    with pytest.raises(UntrainedError, match=r"1 trainable tensors .* p1$"):
        require_gradients(params, World(), lambda parameter: parameter.grad is not None)
    params[1].parameter.grad = torch.zeros(5)
    require_gradients(params, World(), lambda parameter: parameter.grad is not None)


def test_an_adapter_that_begins_otherwise_on_a_rank_is_told() -> None:
    class Two(World):
        """Rank 0 of two, the other of which has what is given."""

        others: object = None

        def gather_objects(self, value):  # type: ignore[no-untyped-def]
            return [value, self.others or value]

    layer = nn.Module()
    layer.lora_A = nn.ParameterDict({"default": nn.Parameter(torch.ones(2, 3))})
    holder = nn.ModuleDict({"up": layer})
    world = Two(size=2)
    require_alike(holder, world)
    world.others = {"up.lora_A.default": "0" * 16}
    with pytest.raises(UnequalError, match=r"otherwise on rank 1 than on rank 0: 1 tensors differ, such as up\.lora_A"):
        require_alike(holder, world)
