"""2D-RoPE: a rotation by places, nothing at first, and a gate that leaves zero."""

import cmath
import copy

import pytest
import torch

from tunestudy.config.components import Rope2d
from tunestudy.models.components.rope2d import Rotation, axial_angles, rotate

HEAD = 16


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def logits(rows, columns, *, gate=1.0):
    """q·k between all pairs of patches of a grid at these places; q and k do not depend on the places."""
    angles = gate * axial_angles(rows, columns, HEAD, 100.0)
    q, k = random(len(angles), HEAD, seed=1), random(len(angles), HEAD, seed=2)
    return rotate(q, angles) @ rotate(k, angles).T


def test_pairs_turn_as_complex_numbers_do():
    rows, columns, theta = torch.arange(3.0), torch.arange(5.0), 50.0
    x = random(15, HEAD)
    got = rotate(x, axial_angles(rows, columns, HEAD, theta))
    for place in range(15):
        h, w = divmod(place, 5)
        for j in range(4):
            frequency = theta ** (-2 * j / (HEAD / 2))
            for i, angle in ((j, h * frequency), (j + 4, w * frequency)):
                turned = complex(x[place, i], x[place, i + 8]) * cmath.rect(1, angle)
                assert complex(got[place, i], got[place, i + 8]) == pytest.approx(turned, abs=1e-6)


@pytest.mark.parametrize("gate", [0.0, 0.3, 1.0, -2.0])
@pytest.mark.parametrize("shift", [(3, 0), (0, 11), (7, 5)])
def test_logits_do_not_change_when_all_places_move(shift, gate):
    here = logits(torch.arange(4.0), torch.arange(4.0), gate=gate)
    there = logits(torch.arange(4.0) + shift[0], torch.arange(4.0) + shift[1], gate=gate)
    torch.testing.assert_close(here, there, atol=2e-5, rtol=0)


def test_logits_change_when_places_move_apart():
    here, stretched = logits(torch.arange(4.0), torch.arange(4.0)), logits(torch.arange(4.0) * 2, torch.arange(4.0))
    assert (here - stretched).abs().max() > 0.1


def test_nothing_turns_at_the_origin_and_lengths_are_kept():
    angles = axial_angles(torch.arange(6.0), torch.arange(6.0), HEAD, 10_000.0)
    x = random(36, HEAD)
    assert not angles[0].any()
    assert torch.equal(rotate(x, angles)[0], x[0])
    torch.testing.assert_close(rotate(x, angles).norm(dim=-1), x.norm(dim=-1))
    assert not torch.allclose(rotate(x, angles)[1:], x[1:], atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_shut_gate_changes_no_bit(dtype):
    rotation = Rotation(Rope2d(), head_dim=HEAD, side=4)
    x = random(2, 17, 2 * HEAD).to(dtype)
    assert rotation(x).dtype is dtype
    assert torch.equal(rotation(x), x)


def test_the_class_token_never_turns():
    rotation = Rotation(Rope2d(gate="none"), head_dim=HEAD, side=4)
    x = random(2, 17, 2 * HEAD)
    assert torch.equal(rotation(x)[:, 0], x[:, 0])
    assert torch.equal(rotation(x)[:, 1], x[:, 1])  # row 0, column 0
    assert not torch.equal(rotation(x)[:, 2], x[:, 2])


def test_another_grid_than_usual_and_none_at_all():
    rotation = Rotation(Rope2d(gate="none"), head_dim=HEAD, side=4)
    larger = Rotation(Rope2d(gate="none"), head_dim=HEAD, side=6)
    x = random(1, 37, HEAD)
    assert torch.equal(rotation(x), larger(x))
    with pytest.raises(ValueError, match="no square grid"):
        rotation(random(1, 36, HEAD))


def test_a_model_with_shut_gates_computes_what_it_did(tiny, see):
    assert torch.equal(see(tiny({"rope2d": True})), see(tiny()))


def test_the_gates_leave_zero(tiny, inputs):
    """The gradient is that of finite differences, and not zero in any layer."""
    model = tiny({"rope2d": {"theta": 10.0}}).double()
    batch = inputs()

    def loss():
        return model(**batch, labels=batch["input_ids"]).loss

    gates = [layer.attention.rope2d.angle_scale for layer in model.model.vision_tower.encoder.layer]
    loss().backward()
    for gate in gates:
        assert gate.grad.abs().item() > 1e-7
    step = 1e-2  # rotation itself is computed in float32
    with torch.no_grad():
        gates[-1].fill_(step)
        above = loss()
        gates[-1].fill_(-step)
        below = loss()
    assert gates[-1].grad.item() == pytest.approx(((above - below) / (2 * step)).item(), rel=5e-2)


def test_queries_and_keys_of_every_layer_turn(tiny, see):
    model, without_gate = tiny({"rope2d": True}), tiny({"rope2d": {"gate": "none"}})
    for layer in model.model.vision_tower.encoder.layer:
        layer.attention.rope2d.angle_scale.data.fill_(1.0)
    torch.testing.assert_close(see(model), see(without_gate), atol=1e-6, rtol=0)
    assert (see(model) - see(tiny())).abs().max() > 1e-4
    assert not [name for name, _ in without_gate.named_parameters() if "rope2d" in name]
    attention = model.model.vision_tower.encoder.layer[2].attention
    x = random(1, 17, 32)
    for project, norm in ((attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm)):
        assert torch.equal(norm(project(x)), attention.rope2d(project(x)))


def test_with_norms_of_queries_and_keys(tiny, see):
    assert torch.equal(see(tiny({"rope2d": True}, use_qk_norm=True)), see(tiny(use_qk_norm=True)))
    turned = tiny({"rope2d": {"gate": "none"}}, use_qk_norm=True)
    assert not torch.equal(see(turned), see(tiny(use_qk_norm=True)))


def test_a_copy_turns_by_its_own_gates(tiny, see):
    model = tiny({"rope2d": True})
    twin = copy.deepcopy(model)
    for layer in twin.model.vision_tower.encoder.layer:
        layer.attention.rope2d.angle_scale.data.fill_(1.0)
    assert not torch.equal(see(twin), see(model))
    assert torch.equal(see(model), see(tiny()))
