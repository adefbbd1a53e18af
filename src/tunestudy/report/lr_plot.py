"""The picture of a learning-rate sweep: loss over the rate, one self-contained SVG that any browser opens."""

from collections.abc import Sequence
from html import escape

from tunestudy.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axis_over, log_axis

_STYLE = (
    "svg{background:#fff;color:#222;font:11px system-ui,sans-serif}.grid{stroke:#ddd}.raw{fill:none;stroke:#b9c4d0}"
    ".mean{fill:none;stroke:#0b62a4;stroke-width:2}.pick{stroke:#a42;stroke-dasharray:4 3}text{fill:currentColor}"
    "@media(prefers-color-scheme:dark){svg{background:#16181c;color:#ddd}.grid{stroke:#333}.raw{stroke:#556}"
    ".mean{stroke:#6bb2f0}.pick{stroke:#f0a070}}"
)


def lr_plot(rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], pick: float | None) -> str:
    """SVG with the raw losses, their smoothed line and the suggested rate. All sequences have one value a step."""
    top = min(max(losses), 2 * max(smoothed[:1] or [1.0]))  # a divergence must not flatten what comes before
    shown = [min(loss, top) for loss in losses]
    x = log_axis(min(rates), max(rates), LEFT, WIDTH - RIGHT)
    y = axis_over([*shown, *(min(value, top) for value in smoothed)], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img">',
        f"<title>Loss over the learning rate</title><style>{_STYLE}</style>",
        *_grid(x, y),
        _line("raw", x, y, rates, shown),
        _line("mean", x, y, rates, [min(value, top) for value in smoothed]),
    ]
    if pick is not None:
        at = x.place(pick)
        parts.append(f'<line class="pick" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at + 4}" y="{TOP + 10}">{escape(f"{pick:.2g}")}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{HEIGHT - 8:g}" text-anchor="middle">learning rate</text></svg>')
    return "\n".join(parts) + "\n"


def _grid(x: Axis, y: Axis) -> list[str]:
    parts = []
    for place, _ in x.ticks:
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    decades = [(place, label) for place, label in _decades(x)]
    parts += [f'<text x="{p}" y="{HEIGHT - BOTTOM + 14:g}" text-anchor="middle">{label}</text>' for p, label in decades]
    for place, label in y.ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT:g}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text x="{LEFT - 6:g}" y="{place + 4:g}" text-anchor="end">{escape(label)}</text>')
    return parts


def _decades(x: Axis) -> list[tuple[float, str]]:
    powers = [power for power in range(-12, 4) if x.low <= 10.0**power <= x.high]
    return [(x.place(10.0**power), f"1e{power}") for power in powers]


def _line(name: str, x: Axis, y: Axis, rates: Sequence[float], values: Sequence[float]) -> str:
    points = " ".join(f"{x.place(rate)},{y.place(value)}" for rate, value in zip(rates, values, strict=True))
    return f'<polyline class="{name}" points="{points}"/>'
