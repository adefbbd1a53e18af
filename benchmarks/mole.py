"""Cost of a mixture of LoRA experts against one LoRA and against a loop over experts, all sides in one run.

    python benchmarks/mole.py [--repeats 60] [--experts 4] [--rank 16] [--width 2048] [--tokens 512]

One linear layer (d × d, fp32, frozen) with its gate, on one thread. What counts is what a side takes beside the plain
layer, so the plain layer's own product is left out: a layer that only hands a tensor over stands in for it, below
PEFT's LoRA too. Sides take turns; the least process time of all repeats counts. The gate's own time, which layers of a
block share, is part of the mixture's and of the loop's. Before that, equality with the loop, forward and every
gradient, on the true layer. Exit code 1: a figure is beyond its limit. Nothing is written but stdout.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tunestudy.config.adapter import MoleAdapter
from tunestudy.models.mole import MoleLinear
from tunestudy.models.mole_gates import Gate, Scene

MAX_OF_ONE_LORA = 3.2
MIN_OF_LOOP = 1.6
MAX_DIFFERENCE = 1e-5


class HandsOver(nn.Linear):
    """A linear layer whose product costs nothing."""

    handed: Tensor

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002 - a layer's signature
        # A tensor of its own, as a product is: whoever adds in place may.
        return self.handed.clone()


def mixture(base: nn.Linear, experts: int, rank: int) -> tuple[Gate, MoleLinear]:
    """A gate and its layer, with weights that are nowhere zero."""
    settings = MoleAdapter(experts={f"e{i}": "x" for i in range(experts)})
    gate = Gate(settings, width=base.in_features, scene=Scene(), block="block")
    layer = MoleLinear(base, gate, [rank] * experts)
    with torch.no_grad():
        for parameter in (gate.weight, layer.lora_A, layer.lora_B):
            parameter.normal_(std=parameter.shape[1] ** -0.5)
    return gate, layer


def stacked(gate: Gate, layer: MoleLinear, x: Tensor) -> Tensor:
    gate.before_block(layer, (x,), {})
    y: Tensor = layer(x)
    return y


def looped(gate: Gate, layer: MoleLinear, factors: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """The same by its definition, expert after expert."""
    shares = linear(x, gate.weight).softmax(-1)
    y: Tensor = layer.base_layer(x)
    for expert, (down, up) in enumerate(factors):
        y = y + shares[..., expert : expert + 1] * linear(linear(x, down), up)
    return y


def leaves(layer: MoleLinear) -> list[tuple[Tensor, Tensor]]:
    """Each expert's factors as parameters of their own."""
    return [(a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()) for a, b in layer.factors()]


def differences(options: argparse.Namespace) -> dict[str, float]:
    """Largest difference from the loop, over the largest value: of the output and of each gradient."""
    base = nn.Linear(options.width, options.width, bias=False).requires_grad_(False)
    gate, layer = mixture(base, options.experts, options.rank)
    factors = leaves(layer)
    x = torch.randn(1, options.tokens, options.width)
    weights = torch.randn(1, options.tokens, options.width)

    def run(side: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        gate.weight.grad, given = None, x.clone().requires_grad_()
        y = side(given)
        (y * weights).sum().backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None and gate.weight.grad is not None
        return y.detach(), given.grad, gate.weight.grad

    ours = run(lambda given: stacked(gate, layer, given))
    theirs = run(lambda given: looped(gate, layer, factors, given))
    named = dict(zip(("output", "gradient of x", "gradient of the gate"), zip(ours, theirs, strict=True), strict=True))
    assert layer.lora_A.grad is not None and layer.lora_B.grad is not None
    named["gradient of A"] = layer.lora_A.grad, torch.cat([a.grad for a, _ in factors])
    named["gradient of B"] = layer.lora_B.grad, torch.cat([b.grad for _, b in factors], dim=1)
    return {name: float((a - b).abs().max() / b.abs().max()) for name, (a, b) in named.items()}


def sides(options: argparse.Namespace) -> dict[str, tuple[Callable[[Tensor], Tensor], list[Any]]]:
    """Name → what it computes, and the parameters that get gradients."""
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    def base() -> HandsOver:
        layer = HandsOver(options.width, options.width, bias=False).requires_grad_(False)
        layer.handed = torch.randn(1, options.tokens, options.width)
        return layer

    gate, layer = mixture(base(), options.experts, options.rank)
    loop_gate, loop_layer = mixture(base(), options.experts, options.rank)
    factors = leaves(loop_layer)
    config = LoraConfig(r=options.rank, lora_alpha=options.rank)
    peft = Linear(base(), "default", config=config, r=options.rank, lora_alpha=options.rank)
    nn.init.normal_(peft.lora_B["default"].weight)
    plain = base()
    return {
        "nothing": (plain, []),
        "one LoRA (PEFT)": (peft, [p for p in peft.parameters() if p.requires_grad]),
        "mixture": (
            lambda x: stacked(gate, layer, x),
            [gate.weight, layer.lora_A, layer.lora_B],
        ),
        "loop over experts": (
            lambda x: looped(loop_gate, loop_layer, factors, x),
            [loop_gate.weight, *(tensor for pair in factors for tensor in pair)],
        ),
    }


def least_times(options: argparse.Namespace, *, backward: bool) -> dict[str, float]:
    """Side → least process time in seconds of one forward pass, and with `backward` its gradients too."""
    x = torch.randn(1, options.tokens, options.width, requires_grad=backward)
    weights = torch.randn(1, options.tokens, options.width)
    known = sides(options)
    times: dict[str, list[float]] = {name: [] for name in known}
    for _ in range(options.repeats):
        for name, (compute, parameters) in known.items():
            began = time.process_time()
            with torch.set_grad_enabled(backward):
                y = compute(x)
            if y.requires_grad:
                torch.autograd.grad(y, [x, *parameters], weights)
            times[name].append(time.process_time() - began)
    return {name: min(taken) for name, taken in times.items()}


def verdict(what: str, value: float, limit: str, held: bool) -> bool:
    print(f"{what:<60}{value:>10.3g}  {limit:<10}{'held' if held else 'MISSED'}")
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"E = {options.experts}, r = {options.rank}, d = {options.width}, T = {options.tokens}, fp32, one thread\n")
    held = [
        verdict(f"difference from the loop: {name}", value, f"≤ {MAX_DIFFERENCE:g}", value <= MAX_DIFFERENCE)
        for name, value in differences(options).items()
    ]
    for backward in (False, True):
        what = "forward and backward" if backward else "forward"
        times = least_times(options, backward=backward)
        free = times.pop("nothing")
        extra = {name: taken - free for name, taken in times.items()}
        print(f"\n{what}: ms beside the plain layer: " + ", ".join(f"{n} {1e3 * t:.2f}" for n, t in extra.items()))
        of_lora = extra["mixture"] / extra["one LoRA (PEFT)"]
        of_loop = extra["loop over experts"] / extra["mixture"]
        held += [
            verdict(f"{what}: times one LoRA", of_lora, f"≤ {MAX_OF_ONE_LORA}", of_lora <= MAX_OF_ONE_LORA),
            verdict(f"{what}: faster than the loop", of_loop, f"≥ {MIN_OF_LOOP}", of_loop >= MIN_OF_LOOP),
        ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
