"""The world part: its tokens stand where their image's text stands, and nothing but it learns."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from world_lab import COSMOS, WAN, build, pixels, world_settings

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.errors import StudyError
from tunestudy.models.components.world import (
    install_world,
    num_world_tokens,
    world_images,
    world_latents,
    world_of,
    world_text,
)
from tunestudy.models.components.world_encoder import in_range
from tunestudy.models.roles import is_tied, set_trainable
from tunestudy.train.stage import checkpoint_activations

ARCHITECTURES = ["qwen3", "gemma3", "internvl", "qwen3_vl"]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, values in enumerate(rows):
        where = slice(longest - len(values), None) if side == "left" else slice(0, len(values))
        ids[row, where], mask[row, where] = torch.tensor(values), 1
    return ids, mask


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ragged_batch_is_each_sample_alone(equipped, architecture, side):
    """Rows with an image, none, two, at other places and behind other padding."""
    model, tokenizer, settings = equipped(architecture)
    one = world_text(settings)
    texts = [f"ab{one}=1", "0123456789", f"{one}3\n{one}4", f"abcdefgh{one}9"]
    images, per_text = pixels(4), [[0], [], [1, 2], [3]]
    rows = [ids_of(tokenizer, text) for text in texts]
    ids, mask = padded(rows, side)
    with torch.no_grad():
        with world_images(model, images):
            together = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, (values, own) in enumerate(zip(rows, per_text, strict=True)):
            with world_images(model, images[own] if own else None):
                alone = model(input_ids=torch.tensor([values]), use_cache=False).logits[0]
            torch.testing.assert_close(together[row, mask[row].bool()], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("reserve", [0, 8])
def test_every_row_has_its_tokens_at_its_own_place(equipped, reserve):
    """Ids above the matrix, or on rows that it keeps in reserve; each place is worked out here one by one."""
    model, tokenizer, settings = equipped(reserve=reserve)
    part, images = world_of(model), pixels(2)
    one, count = world_text(settings), num_world_tokens(settings)
    rows = [ids_of(tokenizer, text) for text in (f"{one}abcde", f"abcde{one}")]
    latents = part.encode(images)
    with world_latents(model, latents), torch.no_grad():
        embedded = part(torch.tensor(rows))
    for row, first in enumerate((0, 5)):
        tokens = part.world_projector(latents[row : row + 1])[0]
        assert torch.equal(embedded[row, first], part.world_borders.weight[0])
        torch.testing.assert_close(embedded[row, first + 1 : first + 1 + count], tokens)
        assert torch.equal(embedded[row, first + 1 + count], part.world_borders.weight[1])
        for place in set(range(len(rows[row]))) - set(range(first, first + count + 2)):
            assert torch.equal(embedded[row, place], part.old.weight[rows[row][place]])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_alone_is_answered_as_before(architecture):
    model, tokenizer = build(architecture)
    ids, tied = torch.tensor([ids_of(tokenizer, "0123ab=")]), is_tied(model)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        install_world(model, tokenizer, world_settings(), seed=3)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert is_tied(model) == tied


def test_images_belong_to_places_in_order(equipped):
    model, tokenizer, settings = equipped()
    one = world_text(settings)
    ids, images = torch.tensor([ids_of(tokenizer, f"{one}a{one}=")]), pixels(2)
    with torch.no_grad():
        with world_images(model, images):
            given = model(input_ids=ids).logits
        with world_images(model, images.flip(0)):
            swapped = model(input_ids=ids).logits
    assert (given - swapped).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("a{one}", 2, r"hold 4 <world> tokens, but their images \(2\) give 8"),
        ("a{one}", 0, r"images \(0\) give 0"),
        ("ab=", 1, r"hold 0 <world> tokens, but their images \(1\) give 4"),
        ("a<world>", 1, "another order"),
        ("<end_of_world>{world}<start_of_world>", 1, "another order"),
        ("<start_of_world>{half}a{half}<end_of_world>", 1, "another order"),
        ("{one}<start_of_world><world>", 1, "truncated"),
    ],
)
def test_places_and_images_that_do_not_fit(equipped, text, count, message):
    model, tokenizer, settings = equipped()
    filled = text.format(one=world_text(settings), world="<world>" * 4, half="<world>" * 2)
    with pytest.raises(StudyError, match=message), world_images(model, pixels(count) if count else None):
        model(input_ids=torch.tensor([ids_of(tokenizer, filled)]))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids_of(tokenizer, "ab")]))  # nothing is left behind


def test_a_model_without_a_world_part():
    model, _ = build()
    with world_latents(model, None):
        pass
    with pytest.raises(StudyError, match="has none"), world_latents(model, torch.zeros(1, 1, 4, 4, 4)):
        pass


@pytest.mark.parametrize(("kind", "config", "frames"), [("wan", WAN, 9), ("cosmos", COSMOS, 17)])
def test_a_still_image_is_a_video_of_equal_frames(equipped, kind, config, frames):
    model, tokenizer, settings = equipped(num_world_steps=2, encoder={"type": kind, "config": config})
    part, images = world_of(model), pixels(2)
    video = images[:, None].repeat(1, frames, 1, 1, 1)
    assert torch.equal(part.encode(images), part.encode(video))
    assert part.encode(images).shape == (2, 3, 4, 4, 4)
    ids = ids_of(tokenizer, world_text(settings))
    assert len(ids) == 3 * 4 + 2
    with pytest.raises(ValueError, match=f"{frames} frames"):
        part.encode(video[:, 1:])


def test_frames_are_told_apart_by_time_alone(equipped):
    model, _, settings = equipped(num_world_steps=2)
    part = world_of(model)
    latents = torch.randn(1, 1, 4, 4, 4).expand(-1, 3, -1, -1, -1)
    tokens = part.world_projector(latents).detach().view(3, 4, -1)
    rows = part.world_projector.temporal.weight.detach()
    assert len(rows) == settings.max_world_steps == 16
    torch.testing.assert_close(tokens[2] - tokens[0], (rows[2] - rows[0]).expand(4, -1))


@pytest.mark.parametrize("reduction", ["spatial", "channel"])
@pytest.mark.parametrize("projection", ["linear", "mlp_no_final_gelu", "mlp"])
def test_the_projection_by_hand(equipped, reduction, projection):
    """Means over 2 × 2 cells, or a channel's cells, through the layers one by one."""
    model, _, _ = equipped(reduction=reduction, projection=projection)
    part = world_of(model).world_projector
    latents = torch.randn(1, 1, 4, 4, 4)
    if reduction == "spatial":
        cells = [latents[0, 0, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((1, 2)) for r in (0, 1) for c in (0, 1)]
    else:
        cells = [latents[0, 0, channel].flatten() for channel in range(4)]
    first = part.projection[0]
    value = torch.stack(cells) @ first.weight.T + first.bias
    if projection != "linear":
        second = part.projection[2]
        value = torch.nn.functional.gelu(value) @ second.weight.T + second.bias
    if projection == "mlp":
        value = torch.nn.functional.gelu(value)
    torch.testing.assert_close(part(latents)[0], value + part.temporal.weight[0])


def test_pixels_reach_the_autoencoder_in_its_range(equipped):
    model, _, _ = equipped()
    encoder = world_of(model).encoder
    images = pixels(2)
    by_hand = images.double() / 255 * 2 - 1
    assert (by_hand.min(), by_hand.max()) == (-1, 1)
    seen: list[torch.Tensor] = []
    hook = encoder.vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    got = encoder(images)
    hook.remove()
    torch.testing.assert_close(seen[0][:, :, 0], by_hand.float())
    raw = encoder.vae.encode(by_hand.float()[:, :, None]).latent_dist.mode()
    mean, std = (torch.tensor(WAN[key]).view(1, 4, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    torch.testing.assert_close(got, ((raw - mean) / std).transpose(1, 2))
    assert torch.equal(encoder(images), got)
    torch.testing.assert_close(encoder(by_hand.float()), got)
    with pytest.raises(ValueError, match=r"reach from 0 to 255"):
        encoder(images.float())
    with pytest.raises(ValueError, match="int64"):
        in_range(images.long())


@pytest.mark.parametrize("how", ["plain", "checkpointed", "bf16", "peft"])
@pytest.mark.parametrize("architecture", ["gemma3", "qwen3_vl"])
def test_only_the_world_part_learns(equipped, architecture, how):
    model, tokenizer, settings = equipped(architecture)
    part = world_of(model)
    before = {name: value.clone() for name, value in part.encoder.state_dict().items()}
    if how == "peft":
        model = attach(model, LoraAdapter(lora_r=2, target="language_model"), seed=1)
        assert world_of(model) is part
    set_trainable(model, ["world_projector"])
    if how == "checkpointed":
        checkpoint_activations(model)
    model.train()
    ids = torch.tensor([ids_of(tokenizer, f"a{world_text(settings)}=12")])
    with world_images(model, pixels(1)), torch.autocast("cpu", torch.bfloat16, enabled=how == "bf16"):
        logits = model(input_ids=ids, use_cache=False).logits
    logits[:, -1].float().logsumexp(-1).sum().backward()
    with_gradient = {name.rpartition("embed_tokens.")[2] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {
        "world_projector.projection.0.weight",
        "world_projector.projection.0.bias",
        "world_projector.projection.2.weight",
        "world_projector.projection.2.bias",
        "world_projector.temporal.weight",
        "world_borders.weight",
    }
    assert all(bool(parameter.grad.any()) for parameter in part.parameters() if parameter.grad is not None)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert not part.encoder.training and not any(p.requires_grad for p in part.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in part.encoder.state_dict().items())
    assert not any("vae" in name for name in (*model.state_dict(), *dict(model.named_modules())))


def test_checkpointed_gradients_are_the_plain_ones(equipped):
    found = []
    for checkpointed in (False, True):
        model, tokenizer, settings = equipped("internvl")
        set_trainable(model, ["world_projector"])
        if checkpointed:
            checkpoint_activations(model)
        model.train()
        with world_images(model, pixels(1)):
            logits = model(input_ids=torch.tensor([ids_of(tokenizer, f"a{world_text(settings)}=")])).logits
        logits.logsumexp(-1).sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) == 6
    for plain, formed_again in zip(*found, strict=True):
        assert torch.equal(plain, formed_again)


def test_a_batch_without_images_has_a_backward_pass_and_no_gradient(equipped):
    model, tokenizer, _ = equipped()
    set_trainable(model, ["world_projector"])
    model.train()
    model(input_ids=torch.tensor([ids_of(tokenizer, "abc")])).logits.sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_image_brings_a_gradient_of_zeros(equipped):
    """For ranks whose batch has none, beside others whose batch has some."""
    model, tokenizer, _ = equipped(num_world_steps=1)
    set_trainable(model, ["world_projector"])
    ids = torch.tensor([ids_of(tokenizer, "abc")])
    plain = model(input_ids=ids).logits
    with world_images(model.train(), pixels(0)):
        logits = model(input_ids=ids).logits
    assert torch.equal(logits, plain)
    logits.sum().backward()
    learnt = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert len(learnt) == 6 and not any(gradient.any() for gradient in learnt)


def test_the_encoder_keeps_its_type_and_stays_when_the_model_moves(equipped):
    model, _, _ = equipped(encoder={"type": "wan", "config": WAN, "dtype": "bfloat16"})
    part = world_of(model)
    model.to(torch.float64)
    assert {p.dtype for p in part.encoder.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.float16):
        first = part.encode(pixels(1))
    assert first.dtype is torch.float32
    assert torch.equal(first, part.encode(pixels(1)))


def test_answers_are_generated_with_images(equipped):
    model, tokenizer, settings = equipped("gemma3")
    rows = [ids_of(tokenizer, text) for text in (f"a{world_text(settings)}=", f"{world_text(settings)}abc=")]
    ids, mask = padded(rows, "left")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": -1}
    with world_images(model, pixels(2)):
        together = model.generate(input_ids=ids, attention_mask=mask, **options)
    for row, values in enumerate(rows):
        with world_images(model, pixels(2)[row : row + 1]):
            alone = model.generate(input_ids=torch.tensor([values]), **options)
        assert together[row, -4:].tolist() == alone[0, -4:].tolist()


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"image_size": 36}, "world.image_size", "nearest that do: 32, 40"),
        ({"tokens": 25}, "world.tokens", "4 × 4 latent cells"),
        ({"tokens": 9, "reduction": "channel"}, "world.tokens", "set tokens: 4"),
        ({"device": "cuda:63"}, "world.device", "no device cuda:63"),
        ({"encoder": {"config": {"width": 3}}}, "world.encoder.config", "refuses it"),
        ({"encoder": {"config": {**WAN, "z_dim": 8}}}, "world.encoder.config", "4 numbers for 8"),
        ({"encoder": {"model_name_or_path": "./absent"}}, "world.encoder.model_name_or_path", "cannot be loaded"),
    ],
)
def test_settings_that_the_encoder_cannot_have(options, key, message, tmp_path):
    model, tokenizer = build()
    with pytest.raises(StudyError, match=message) as caught:
        install_world(model, tokenizer, world_settings(**options), seed=1, base_dir=tmp_path)
    assert caught.value.place.key == key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 5}, "nearest: 4, 9"),
        ({"num_world_steps": 16}, "17 latent frames"),
        ({"encoder": {}}, "either model_name_or_path"),
    ],
)
def test_settings_that_contradict_themselves(options, message):
    with pytest.raises(ValueError, match=message):
        world_settings(**options)


def test_without_the_extra_the_cure_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    model, tokenizer = build()
    with pytest.raises(StudyError, match=r"pip install 'tunestudy\[world\]'"):
        install_world(model, tokenizer, world_settings(), seed=1)


def test_a_placeholder_of_the_models_own_is_not_taken(tmp_path: Path):
    model, tokenizer = build("internvl")
    model.config.image_token_id = len(tokenizer) + 1
    with pytest.raises(StudyError, match="image_token_id"):
        install_world(model, tokenizer, world_settings(), seed=1)


def test_weights_depend_on_the_seed_alone():
    made = []
    for drawn, seed in ((0, 5), (1, 5), (0, 6)):
        model, tokenizer = build()
        torch.manual_seed(drawn)
        torch.rand(drawn + 1)
        state = torch.get_rng_state()
        install_world(model, tokenizer, world_settings(), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        made.append([p.detach().clone() for p in world_of(model).parameters()])
    assert all(map(torch.equal, made[0], made[1]))
    assert not torch.equal(made[0][1], made[2][1])
