"""Components in a whole InternVL: what learns, in which role, under which engine's wrappings."""

import copy
from typing import Any

import pytest
import torch

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.components import VisionComponents
from tunestudy.config.errors import StudyError
from tunestudy.models.components.install import install
from tunestudy.models.components.model import InternVLWithComponents
from tunestudy.models.components.parts import tokens_per_tile
from tunestudy.models.decoder import blocks_of
from tunestudy.models.roles import role_of, set_trainable, trainable_table

NEW = ("rope2d", "pyramid", "multi_modal_projector")


def new_parameters(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if any(part in name for part in NEW)}


def loss_of(model, inputs):
    batch = inputs(tokens_per_tile(model))
    return model(**batch, labels=batch["input_ids"]).loss


def components_of(**options: Any) -> VisionComponents:
    return VisionComponents.model_validate(options)


def test_gradients_reach_every_new_tensor(tiny, inputs, everything):
    model = tiny(everything)
    set_trainable(model, "all")
    loss_of(model, inputs).backward()
    gradients = {name: p.grad for name, p in new_parameters(model).items()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    still = {name.split("encoder.")[-1] for name, gradient in gradients.items() if not gradient.any()}
    assert still and all(part.startswith(("pyramid.norms", "pyramid.laterals")) for part in still)  # behind zeros


def test_after_one_step_nothing_stands_still(tiny, inputs, everything):
    model = tiny(everything)
    set_trainable(model, "all")
    before = copy.deepcopy(dict(new_parameters(model)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        optimizer.step()
    assert [name for name, p in new_parameters(model).items() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("how", ["concat", "fpn"])
def test_rope_and_pyramid_together_change_no_bit_at_first(tiny, see, how):
    assert torch.equal(see(tiny({"rope2d": {}, "pyramid": {"how": how, "hidden_size": 8}})), see(tiny()))


def test_rope_and_pyramid_change_no_bit_before_the_same_c_abstractor(tiny, see, everything):
    alone = {"c_abstractor": everything["c_abstractor"]}
    assert torch.equal(see(tiny(everything)), see(tiny(alone)))


def test_roles(tiny, everything):
    roles = {name: role_of(name) for name in new_parameters(tiny(everything))}
    assert {role for name, role in roles.items() if "multi_modal_projector" in name} == {"projector"}
    assert {role for name, role in roles.items() if "multi_modal_projector" not in name} == {"vision_tower"}


@pytest.mark.parametrize("role", ["vision_tower", "projector", "language_model"])
def test_freezing_by_role(tiny, inputs, everything, role):
    model = tiny(everything)
    set_trainable(model, [role])
    loss_of(model, inputs).backward()
    assert {role_of(name) for name, p in model.named_parameters() if p.grad is not None} == {role}
    assert all(p.grad is not None for name, p in model.named_parameters() if role_of(name) == role)


def test_rates_and_counts_by_role(tiny, everything):
    model, plain = tiny(everything), tiny()
    rates = {"projector": 1e-3, "vision_tower": 1e-5}
    for m in (model, plain):
        set_trainable(m, "all")
    table, before = (
        {row["role"]: row for row in trainable_table(m, learning_rate=1e-4, learning_rates=rates, adapter=None)}
        for m in (model, plain)
    )
    assert (table["projector"]["learning_rate"], table["vision_tower"]["learning_rate"]) == (1e-3, 1e-5)
    added = sum(p.numel() for name, p in new_parameters(model).items() if role_of(name) == "vision_tower")
    assert table["vision_tower"]["trainable"] == before["vision_tower"]["trainable"] + added
    assert table["language_model"] == before["language_model"]


class TestFreshWeights:
    def test_come_from_seed_and_name_alone(self, tiny, everything):
        first = new_parameters(tiny(everything))
        torch.rand(7)
        again, other = new_parameters(tiny(everything)), new_parameters(tiny(everything, seed=6))
        assert all(torch.equal(p, again[name]) for name, p in first.items())
        assert not all(torch.equal(p, other[name]) for name, p in first.items())
        alone = new_parameters(tiny({"c_abstractor": everything["c_abstractor"]}))
        assert all(torch.equal(p, first[name]) for name, p in alone.items())

    def test_leave_the_global_generator_alone(self, tiny, everything):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        tiny(everything)
        assert torch.equal(torch.rand(1), expected)

    def test_are_float32_in_a_model_of_bfloat16(self, tiny, everything):
        model = tiny().to(torch.bfloat16)
        install(model, components_of(**everything), seed=5)
        assert {p.dtype for p in new_parameters(model).values()} == {torch.float32}
        exact = new_parameters(tiny(everything))
        assert all(torch.equal(p, exact[name]) for name, p in new_parameters(model).items())

    def test_are_spread_as_wide_as_their_inputs_ask(self, tiny):
        model = tiny({"c_abstractor": {"num_queries": 9, "depth": 1, "hidden_size": 256}})
        projector = model.model.multi_modal_projector
        for weight, fan_in in (
            (projector.net[2].b1.conv1.conv.weight, 256),
            (projector.net[0].b1.conv2.conv.weight, 9),
        ):
            assert weight.abs().max() <= fan_in**-0.5
            assert weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
        assert projector.pos_emb.std().item() == pytest.approx(0.02, rel=0.1)


def test_bfloat16(tiny, inputs, everything):
    """Autocast over frozen bfloat16 and trainable float32: as the plain model at first, and gradients are finite."""
    model, plain = tiny().to(torch.bfloat16), tiny().to(torch.bfloat16)
    install(model, components_of(rope2d=True, pyramid=everything["pyramid"]), seed=5)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(model(**inputs()).logits, plain(**inputs()).logits)
    install_all = tiny().to(torch.bfloat16)
    install(install_all, components_of(**everything), seed=5)
    set_trainable(install_all, ["vision_tower", "projector"])
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(install_all, inputs).backward()
    trained = [p for p in install_all.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_activation_checkpointing_gives_the_same_gradients(tiny, inputs, stir, everything):
    gradients = []
    for checkpointing in (False, True):
        model = tiny(everything)
        stir(model)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loss_of(model, inputs).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_blocks_compile(tiny, inputs, stir, see, everything):
    model = tiny(everything, num_hidden_layers=1)
    stir(model)
    expected = see(model)
    torch._dynamo.reset()
    blocks = [block for block in blocks_of(model) if type(block).__name__ == "InternVLVisionLayer"]
    assert len(blocks) == 1
    for block in blocks:
        block.compile(backend="eager", dynamic=True)  # transformers' capture of hidden states breaks the graph
    torch.testing.assert_close(see(model), expected, atol=1e-6, rtol=1e-5)
    rotation = model.model.vision_tower.encoder.layer[0].attention.rope2d
    whole = torch.compile(rotation, backend="eager", fullgraph=True, dynamic=True)
    x = torch.ones(2, 17, 32)
    torch.testing.assert_close(whole(x), rotation(x))
    torch._dynamo.reset()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(tiny, inputs, stir, everything, side):
    model = tiny(everything)
    stir(model)
    alone = inputs(9)
    ids, mask, fill = alone["input_ids"], torch.ones_like(alone["input_ids"]), torch.zeros(1, 5, dtype=torch.int64)
    order = (fill, ids) if side == "left" else (ids, fill)
    marks = (fill, mask) if side == "left" else (mask, fill)
    positions = (torch.cat(marks, dim=1).cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        padded = model(
            input_ids=torch.cat(order, dim=1),
            attention_mask=torch.cat(marks, dim=1),
            position_ids=positions,
            pixel_values=alone["pixel_values"],
        ).logits
        expected = model(**alone).logits
    length = ids.shape[1]
    got = padded[:, -length:] if side == "left" else padded[:, :length]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_on_top(tiny, see, stir, everything):
    """Nothing changes when it is attached; roles trained beside it are those of the components."""
    model = tiny(everything)
    stir(model)
    before = see(model)
    adapter = LoraAdapter.model_validate({"lora_r": 2, "lora_alpha": 4})
    wrapped = attach(model, adapter, ["projector"], seed=1)
    torch.testing.assert_close(see(wrapped), before, atol=1e-6, rtol=1e-6)
    learns = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    assert any("modules_to_save" in name and ".net.0.b1." in name for name in learns)
    assert all(".lora_" in name or "multi_modal_projector.modules_to_save" in name for name in learns)
    stir(wrapped)
    after = see(wrapped)
    assert not torch.allclose(after, before, atol=1e-2)
    torch.testing.assert_close(see(wrapped.merge_and_unload()), after, atol=1e-4, rtol=1e-4)


def test_an_adapter_in_the_components_too(tiny, see, everything):
    """The read-out's linear layers are called 0 and 2, as are layers of the decoder: names must stay apart."""
    model = tiny(everything)
    before = see(model)
    wrapped = attach(model, LoraAdapter.model_validate({"lora_r": 2, "target": "projector"}), seed=1)
    torch.testing.assert_close(see(wrapped), before, atol=1e-6, rtol=1e-6)
    assert {
        name.partition(".lora_")[0].rpartition("model.")[2] for name, p in wrapped.named_parameters() if p.requires_grad
    } == {"multi_modal_projector.readout.0", "multi_modal_projector.readout.2"}


def test_the_tower_trained_beside_an_adapter(tiny, inputs, everything):
    """PEFT copies the tower: hooks of the copy turn by the copy's gates, which therefore learn."""
    wrapped = attach(tiny(everything), LoraAdapter(lora_r=2, target="language_model"), ["vision_tower"], seed=1)
    batch = inputs(9)
    wrapped(**batch, labels=batch["input_ids"]).loss.backward()
    gates = {name: p.grad for name, p in wrapped.named_parameters() if "angle_scale" in name and p.requires_grad}
    assert len(gates) == 4
    assert all(gradient is not None and gradient.any() for gradient in gates.values())


class TestPrompt:
    def test_the_projector_says_how_many_placeholders(self, tiny, everything):
        assert tokens_per_tile(tiny()) == 4
        assert tokens_per_tile(tiny({"rope2d": True})) == 4
        model = tiny(everything)
        assert tokens_per_tile(model) == model.config.image_seq_length == 9

    @pytest.mark.parametrize("per_tile", [4, 8, 0])
    def test_another_number_is_a_plain_error(self, tiny, inputs, everything, per_tile):
        with pytest.raises(StudyError, match=rf"2 tiles become 18 tokens \(9 each\).*has {2 * per_tile} placeholders"):
            tiny(everything).model(**inputs(per_tile))

    def test_text_alone_needs_none(self, tiny, everything):
        model = tiny(everything)
        assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 64)


@pytest.mark.parametrize(
    ("components", "vision", "key", "message"),
    [
        ({"c_abstractor": True}, {}, "c_abstractor.num_queries", "144 tokens cannot be pooled from the 4×4 patches"),
        ({"pyramid": {"levels": [2, 9]}}, {}, "pyramid.levels", "no layer 9: the tower has 4"),
        ({"rope2d": True}, {"hidden_size": 36, "num_attention_heads": 2}, "rope2d", "multiple of 4"),
        ({"rope2d": True}, {"image_size": [28, 14]}, "", "no square grid"),
    ],
)
def test_a_model_with_no_place_for_it(tiny, components, vision, key, message):
    with pytest.raises(StudyError, match=message) as caught:
        tiny(components, **vision)
    assert caught.value.place.key == f"components.{key}".rstrip(".")


def test_a_model_that_is_no_internvl(everything):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    text = Qwen2ForCausalLM(Qwen2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9))
    with pytest.raises(StudyError, match=r"rope2d, pyramid, c_abstractor can be added to InternVL.*not to Qwen2For"):
        install(text, components_of(**everything), seed=1)


def test_the_model_without_its_head(tiny, inputs, everything):
    inner, whole = tiny().model, tiny(everything)
    install(inner, components_of(**everything), seed=5)
    assert isinstance(whole, InternVLWithComponents)
    for name, p in inner.named_parameters():
        if not any(part in name for part in NEW):
            assert torch.equal(p, whole.get_parameter(f"model.{name}"))
    with torch.no_grad():
        assert inner(**inputs(9)).last_hidden_state.shape == (1, 24, 32)
