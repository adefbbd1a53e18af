"""The pyramid: nothing at first, and what its equations say afterwards."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, layer_norm

from tunestudy.models.components.pyramid import halved, quarters

CONCAT = {"pyramid": {"how": "concat"}}
FPN = {"pyramid": {"how": "fpn", "hidden_size": 8}}


@pytest.mark.parametrize("components", [CONCAT, FPN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_pyramid_changes_no_bit(tiny, inputs, components, dtype):
    model, plain = tiny(components).to(dtype), tiny().to(dtype)
    with torch.no_grad():
        assert torch.equal(model(**inputs()).logits, plain(**inputs()).logits)


@pytest.mark.parametrize("components", [CONCAT, FPN])
def test_the_tower_keeps_its_width_and_its_class_token(tiny, inputs, stir, components):
    model = tiny(components)
    stir(model.model.vision_tower.encoder.pyramid)
    pixels = inputs()["pixel_values"]
    with torch.no_grad():
        got, plain = (m.model.vision_tower(pixels).last_hidden_state for m in (model, tiny()))
    assert got.shape == plain.shape
    assert torch.equal(got[:, 0], plain[:, 0])
    assert (got[:, 1:] - plain[:, 1:]).abs().max() > 1e-2


def levels_of(model, pixels):
    """Patches after each layer, layer norm applied with the pyramid's weights; and the last ones as they are."""
    pyramid = model.model.vision_tower.encoder.pyramid
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    levels = [
        layer_norm(states[level][:, 1:], (32,), norm.weight, norm.bias, 1e-6)
        for level, norm in zip(pyramid.levels, pyramid.norms, strict=True)
    ]
    return levels, states[-1][:, 1:]


def test_concat_is_one_map_of_all_levels(tiny, inputs, stir):
    model = tiny({"pyramid": {"levels": [1, 3]}})
    pyramid = model.model.vision_tower.encoder.pyramid
    stir(pyramid)
    pixels = inputs()["pixel_values"]
    with torch.no_grad():
        (first, third), last = levels_of(model, pixels)
        weight = pyramid.mix.weight
        expected = last + first @ weight[:, :32].T + third @ weight[:, 32:].T + pyramid.mix.bias
        got = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_fpn_is_a_path_from_coarse_to_fine(tiny, inputs, stir):
    """Pooling and repeating in numpy: 4×4 patches are 4, 2, 1 and 1 wide at the levels 1 to 4."""
    model = tiny(FPN)
    pyramid = model.model.vision_tower.encoder.pyramid
    assert pyramid.levels == (1, 2, 3, 4)
    stir(pyramid)
    pixels = inputs()["pixel_values"]
    with torch.no_grad():
        levels, last = levels_of(model, pixels)
        got = model.model.vision_tower(pixels).last_hidden_state[:, 1:]
    path = None
    for k in (3, 2, 1, 0):
        width = (4, 2, 1, 1)[k]
        grid = levels[k].numpy().reshape(2, width, 4 // width, width, 4 // width, 32).mean(axis=(2, 4))
        lateral = (
            grid @ pyramid.laterals[k].weight.detach().numpy()[:, :, 0, 0].T + pyramid.laterals[k].bias.detach().numpy()
        )
        if path is not None:
            times = width // path.shape[1]
            lateral = lateral + np.repeat(np.repeat(path, times, axis=1), times, axis=2)
        path = lateral
    assert path is not None
    moved = conv2d(torch.tensor(path).permute(0, 3, 1, 2), pyramid.smooth.weight, pyramid.smooth.bias, padding=1)
    expected = last + moved.detach().permute(0, 2, 3, 1).reshape(2, 16, 32)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_what_is_left_over_at_an_edge_is_a_mean_of_fewer():
    grid = torch.arange(25.0).reshape(1, 1, 5, 5)
    pooled = halved(grid, times=1)[0, 0]
    assert pooled.shape == (3, 3)
    assert pooled[0, 0] == grid[0, 0, :2, :2].mean()
    assert pooled[0, 2] == grid[0, 0, :2, 4].mean()
    assert pooled[2, 2] == grid[0, 0, 4, 4]
    assert halved(grid, times=3).shape == (1, 1, 1, 1)
    assert halved(grid, times=0) is grid


@pytest.mark.parametrize(
    ("layers", "expected"), [(24, (6, 12, 18, 24)), (45, (12, 23, 34, 45)), (4, (1, 2, 3, 4)), (2, (1, 2)), (1, (1,))]
)
def test_the_last_layer_of_each_quarter(layers, expected):
    assert quarters(layers) == expected
