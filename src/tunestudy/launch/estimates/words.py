"""Costs as people read them: a table of memory, a table of time, sums, and what contradicts itself."""

import textwrap
import time
from collections.abc import Sequence

from tunestudy.launch.columns import columns
from tunestudy.launch.estimates.costs import Costs, fits_in_words
from tunestudy.launch.estimates.doubts import gigabytes, hours
from tunestudy.study.estimates.costs import TIMES, StageCost
from tunestudy.study.estimates.spans import Span

MAX_ROWS, WIDEST_NAME, FEW_NAMES = 40, 34, 2
SHORT = {
    "frozen": "frozen",
    "trainable": "train",
    "gradients": "grads",
    "optimizer": "optim",
    "activations": "activ",
    "logits": "logits",
    "gather": "gather",
    "constants": "const",
    "measured": "meas",
}
"""Heads of the table of memory."""
GIGABYTES = 5e9
"""From this peak on memory is told in GB."""
HEADS = ("train", "eval", "saves", "start", "bench")
"""Heads of TIMES."""


def cost_lines(costs: Costs) -> list[str]:
    """What `plan --estimate` prints below the plan."""
    lines = ["", *_memory(costs), "", *_times(costs), "", *_totals(costs)]
    if costs.doubts:
        lines += ["", "What does not add up, or costs more than it should:", *_wrapped(costs.doubts)]
    if costs.notes:
        lines += ["", "Not known:", *_wrapped(costs.notes)]
    return lines


def _memory(costs: Costs) -> list[str]:
    known = [stage for stage in costs.stages if stage.memory]
    if not known:
        return ["Memory per GPU: unknown (see below)"]
    what = "GPU" if costs.card.device == "cuda" else "process"
    shown = [name for name in SHORT if any(stage.memory.terms.get(name) for stage in known if stage.memory)]
    highest = max(stage.memory.whole.high for stage in known if stage.memory)
    unit, size = ("GB", 1e9) if highest >= GIGABYTES else ("MB", 1e6)
    rows = [["stage", *(SHORT[name] for name in shown), "low", "expected", "high", "fits"]]
    for stage in known[:MAX_ROWS]:
        assert stage.memory is not None
        ends = stage.memory.whole
        cells = [_amount(stage.memory.terms.get(name, 0.0) / size) for name in shown]
        fits = fits_in_words(stage, costs.card.bytes)
        rows.append(
            [_name(stage), *cells, *(_amount(end / size) for end in (ends.low, ends.expected, ends.high)), fits]
        )
    return [f"Memory per {what} in {unit}, on {costs.card.words}:", *_table(rows), *_left_out(known)]


def _times(costs: Costs) -> list[str]:
    known = [stage for stage in costs.stages if any(span and span.high for span in stage.times.values())]
    if not known:
        return ["Time of one job: unknown (see below)"]
    rows = [["stage", "steps", *HEADS, "one job", "low–high", "jobs", "from"]]
    for stage in known[:MAX_ROWS]:
        whole = stage.seconds
        cells = [_time(stage.times.get(name)) for name in TIMES]
        ends = "?" if whole is None else f"{_clock(whole.low)}–{_clock(whole.high)}"
        steps = "?" if stage.steps is None else f"{stage.steps:,}"
        rows.append([_name(stage), steps, *cells, _time(whole), ends, str(stage.jobs), stage.evidence or "nothing"])
    lacking = list(dict.fromkeys(name for stage in known for name in stage.lacking))
    told = [f"  {' and '.join(lacking)}: neither timed nor stated for all, and not in these times"] if lacking else []
    told += [f"  {len(costs.stages) - len(known)} more stages of which no time is known"] * (
        len(known) < len(costs.stages)
    )
    return ["Time of one job:", *_table(rows), *_left_out(known), *told]


def _totals(costs: Costs) -> list[str]:
    lines = ["Together, of what is still to do (low – expected – high):"]
    lines.append(f"  jobs         {_three(costs.job_s)}")
    if costs.card.device == "cuda":
        spread = costs.gpu_hours
        lines.append(
            f"  GPU-hours    {'unknown' if spread is None else ' – '.join(f'{v:,.1f}' for v in _ends(spread))}"
        )
    lines.append(f"  from now     {_three(costs.left)}")
    if costs.left is not None:
        dates = [time.strftime("%Y-%m-%d %H:%M", time.localtime(costs.now + end)) for end in _ends(costs.left)]
        lines.append(f"  done about   {' – '.join(dates)}")
    lines += _uploads(costs.stages)
    done = ", with what is done" if any(stage.left < stage.jobs for stage in costs.stages) else ""
    lines.append(f"  disk         {'unknown' if costs.disk_bytes is None else gigabytes(costs.disk_bytes) + done}")
    by_words: dict[str, list[str]] = {}
    for name, words in costs.downloads.items():
        by_words.setdefault(words, []).append(name)
    for words, names in by_words.items():
        more = f" and {len(names) - FEW_NAMES} more" if len(names) > FEW_NAMES else ""
        lines.append(f"  download     {', '.join(names[:FEW_NAMES])}{more}: {words}")
    return lines


def _uploads(stages: Sequence[StageCost]) -> list[str]:
    """Apart: they have a queue of their own."""
    spoken = [stage for stage in stages if stage.uploads_s is not None]
    return [
        f"  uploads      {_name(stage)}: {stage.saves:,} × {hours(stage.upload_s)} = {hours(stage.uploads_s)}"
        + (f", {gigabytes(stage.uploads_bytes)}" if stage.uploads_bytes else "")
        + ", beside the training"
        for stage in spoken
        if stage.upload_s and stage.uploads_s and stage.saves
    ]


def _left_out(stages: Sequence[StageCost]) -> list[str]:
    return [f"… and {len(stages) - MAX_ROWS} more; --json has all"] if len(stages) > MAX_ROWS else []


def _name(stage: StageCost) -> str:
    """`adapt · lora`, `base · 5 variants`."""
    variants = stage.variants[0] if len(stage.variants) == 1 else f"{len(stage.variants)} variants"
    name = f"{stage.stage} · {variants}"
    return name if len(name) <= WIDEST_NAME else name[: WIDEST_NAME - 1] + "…"


def _amount(value: float) -> str:
    return "-" if abs(value) < 0.05 else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _time(span: Span | None) -> str:
    return "?" if span is None else "-" if not span.high else _clock(span.expected)


def _clock(value: float) -> str:
    """`3.2 s`, `12 min`, `15.6 h`, `4.1 d`."""
    for unit, size, least in (("d", 86400.0, 259200.0), ("h", 3600.0, 5400.0), ("min", 60.0, 120.0)):
        if value >= least:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def _three(span: Span | None) -> str:
    return "unknown" if span is None else " – ".join(_clock(end) for end in _ends(span))


def _ends(span: Span) -> tuple[float, float, float]:
    return span.low, span.expected, span.high


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Indented; all but the first column and the last stand to the right."""
    return [f"  {line}" for line in columns(rows, left=(0, len(rows[0]) - 1))]


def _wrapped(sentences: Sequence[str]) -> list[str]:
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, 116, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
    ]
