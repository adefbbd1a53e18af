"""Makes c_abstractor.safetensors anew from timm's RegStage, which Honeybee's C-Abstractor consists of.

    pip install --no-deps --target FOLDER timm && PYTHONPATH=FOLDER python tests/golden/make_c_abstractor.py

The order of parts is that of arXiv:2312.06742, section 3.3 and figure 4; depth, activation, norm and read-out are those
of its published configuration `c-abs`. timm imports torchvision, of which nothing here is used: empty modules stand in.
"""

import importlib.machinery
import math
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIDE, QUERIES, OUTPUTS, DEPTH = 6, 4, 20, 3
CHANNELS = {"wider": (16, 24), "equal": (16, 16)}
"""Case → channels of the tower and of the projector: with a convolution beside the first block, and without."""


class Whatever(type):
    """A class with every attribute."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class Nothing(metaclass=Whatever):
    """What timm takes from torchvision."""

    def __init__(self, *_: Any, **__: Any) -> None: ...


class Absent(types.ModuleType):
    """An empty module that has every name."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


def without_torchvision() -> None:
    """Let timm be imported where torchvision cannot."""
    names = ("", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder", ".ops", ".ops.misc")
    names += (".models", ".models.feature_extraction", ".models._utils")
    for name in names:
        module = Absent(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
        above, _, last = module.__name__.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)


def published(channels: int, hidden: int) -> Any:
    """The published projector of parts from timm, without its position embedding."""
    from timm.layers import LayerNorm2d
    from timm.models.regnet import RegStage
    from torch import nn

    stage = partial(RegStage, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
    pool = nn.AdaptiveAvgPool2d(math.isqrt(QUERIES))
    net = nn.Sequential(stage(DEPTH, channels, hidden), pool, stage(DEPTH, hidden, hidden))
    readout = nn.Sequential(nn.Linear(hidden, OUTPUTS), nn.SiLU(), nn.Linear(OUTPUTS, OUTPUTS))
    return nn.ModuleDict({"net": net, "readout": readout}).eval()


def main() -> None:
    """Fixed weights and inputs through timm's modules; all of them go into the file."""
    without_torchvision()
    import timm
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(20231211)
    held = {}
    for case, (channels, hidden) in CHANNELS.items():
        model = published(channels, hidden)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
            pos_emb = torch.randn(1, SIDE * SIDE, channels, generator=random)
            inputs_BNC = torch.randn(2, SIDE * SIDE, channels, generator=random)
            grid_BCHW = (inputs_BNC + pos_emb).transpose(1, 2).unflatten(2, (SIDE, SIDE))
            outputs_BQD = model["readout"](model["net"](grid_BCHW).flatten(2).transpose(1, 2))
        held |= {f"{case}.weights.{name}": tensor for name, tensor in model.state_dict().items()}
        held |= {f"{case}.weights.pos_emb": pos_emb, f"{case}.inputs": inputs_BNC, f"{case}.outputs": outputs_BQD}
    facts = {"timm": timm.__version__, "torch": torch.__version__}
    contiguous = {name: tensor.contiguous() for name, tensor in held.items()}
    save_file(contiguous, HERE / "c_abstractor.safetensors", metadata=facts)


if __name__ == "__main__":
    main()
