"""The C-Abstractor is the published one: golden/make_c_abstractor.py made its outputs with timm's blocks."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tunestudy.config.components import CAbstractor
from tunestudy.models.components.c_abstractor import ConvAbstractor

GOLDEN = Path(__file__).parents[2] / "golden" / "c_abstractor.safetensors"
CHANNELS = {"wider": (16, 24), "equal": (16, 16)}


def projector(channels: int, hidden: int, **settings) -> ConvAbstractor:
    options = CAbstractor.model_validate({"num_queries": 4, "hidden_size": hidden, **settings})
    return ConvAbstractor(options, channels=channels, outputs=20, num_patches=36)


@pytest.mark.parametrize("case", CHANNELS)
def test_equal_to_the_published_one(case: str) -> None:
    golden = load_file(GOLDEN)
    weights = {name.removeprefix(f"{case}.weights."): tensor for name, tensor in golden.items() if ".weights." in name}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(CHANNELS))}
    model = projector(*CHANNELS[case]).eval()
    model.load_state_dict(weights, strict=True)
    before = golden[f"{case}.inputs"].clone()
    with torch.no_grad():
        got = model(golden[f"{case}.inputs"])
    assert (got - golden[f"{case}.outputs"]).abs().max() <= 1e-6
    assert golden[f"{case}.outputs"].std() > 0.1
    assert torch.equal(golden[f"{case}.inputs"], before)


def test_places_count() -> None:
    """Its locality: patches in another order are another image, with and without the position embedding."""
    x = torch.randn(1, 36, 16, generator=torch.Generator().manual_seed(0))
    for pos_emb in (True, False):
        torch.manual_seed(0)
        model = projector(16, 24, pos_emb=pos_emb).eval()
        assert (model(x) - model(x.flip(1))).abs().max() > 1e-4
        assert (model.pos_emb is not None) == pos_emb


def test_sizes_of_the_published_configuration() -> None:
    with torch.device("meta"):
        model = ConvAbstractor(CAbstractor(), channels=1024, outputs=4096, num_patches=1024)
    net = sum(parameter.numel() for parameter in model.net.parameters())
    readout = sum(parameter.numel() for parameter in model.readout.parameters())
    block = 2 * 1024**2 + 9 * 1024 + 6 * 1024 + (1024 * 256 + 256) + (256 * 1024 + 1024)
    assert net == 6 * block
    assert readout == (1024 + 1) * 4096 + (4096 + 1) * 4096
    assert model(torch.empty(3, 1024, 1024, device="meta")).shape == (3, 144, 4096)


def test_depth_of_the_readout() -> None:
    assert len(projector(16, 24, mlp_depth=1).readout) == 1
    assert len(projector(16, 24, mlp_depth=3).readout) == 5
