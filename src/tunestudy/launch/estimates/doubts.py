"""What in a study's costs contradicts itself, or costs more than it should, with the setting that would mend it."""

from collections.abc import Iterator, Sequence

from tunestudy.config.estimate import Claim
from tunestudy.study.estimates.costs import StageCost
from tunestudy.study.estimates.spans import Span

LIMIT = 0.05
"""Share of training that checkpoints, or evaluations, may take."""
SLACK = 0.1
"""How far a stated range may lie beside the computed one."""
STEPS = (1, 2, 5)
"""Leading digits of the cadences that are proposed."""


def doubts(costs: Sequence[StageCost], card_bytes: float | None) -> list[str]:
    """One sentence each; stages of one name and equal words are told once."""
    found: dict[str, list[str]] = {}
    for cost in costs:
        for words in (
            *(one for claim in cost.claims for one in _of_claim(cost, claim)),
            *_overheads(cost),
            *_uploads(cost),
            *_card(cost, card_bytes),
        ):
            found.setdefault(words, []).append(_name(cost))
    return [f"{', '.join(dict.fromkeys(names))}: {words}" for words, names in found.items()]


def _name(cost: StageCost) -> str:
    more = f" +{len(cost.variants) - 1}" if len(cost.variants) > 1 else ""
    return f"{cost.stage} ({cost.variants[0]}{more})"


def _of_claim(cost: StageCost, claim: Claim) -> Iterator[str]:
    training = cost.times["training"]
    if claim.training and training and not training.meets(claim.training, slack=SLACK) and cost.step_s:
        yield (
            f"{cost.steps:,} steps × {seconds(cost.step_s)} = {hours(training)}; "
            f"stated {hours(Span.between(claim.training))}"
        )
    whole = cost.seconds
    if claim.total and whole and not whole.meets(claim.total, slack=SLACK):
        yield f"the whole job comes to {hours(whole)}; stated {hours(Span.between(claim.total))}"
    sizes = (
        (claim.uploads_gb, cost.uploads_bytes, f"{cost.saves} uploads come to"),
        (claim.disk_gb, cost.disk_bytes, "checkpoints and result come to"),
        (claim.memory_gb, cost.memory.whole if cost.memory else None, "the peak of memory comes to"),
    )
    for stated, found, words in sizes:
        if stated and found and not found.times(1e-9).meets(stated, slack=SLACK):
            yield f"{words} {gigabytes(found)}; stated {gigabytes(Span.between(stated).times(1e9))}"


def _overheads(cost: StageCost) -> Iterator[str]:
    training = cost.times["training"]
    if not training or not training.expected or not cost.steps:
        return
    terms = (
        ("checkpoints", "saves", cost.saves, cost.save_s, "save_steps"),
        ("evaluation", "evaluations", cost.evaluations, cost.evaluation_s, "eval_steps"),
    )
    for name, word, count, one, key in terms:
        spent = cost.times[name]
        if not spent or not one or not count or spent.expected <= LIMIT * training.expected:
            continue
        share = spent.expected / training.expected
        much = f"{share:.1f} times the training" if share >= 1 else f"{share:.0%} of the training".replace("%", " %")
        cadence = rarer(one.expected, training.expected / cost.steps)
        settings = cost.group.jobs[0].job.training
        if key == "eval_steps" and settings is not None and settings.eval_steps is None:
            cure = "they are those at the ends of epochs: eval_on_epoch_end: false leaves them out"
        elif cadence > cost.steps:
            cure = f"no {key} up to the end of the stage brings it below {LIMIT:.0%}".replace("%", " %")
        else:
            after = cost.steps // cadence * one.expected / training.expected
            cure = f"{key}: {cadence} would cost {after:.1%}".replace("%", " %")
        one_s = seconds(Span.exactly(one.expected))
        yield f"{count:,} {word} × {one_s} = {hours(Span.exactly(spent.expected))}, {much}; {cure}"


def _uploads(cost: StageCost) -> Iterator[str]:
    """Uploads have a queue of their own; it must not grow."""
    whole, uploads = cost.seconds or cost.times["training"], cost.uploads_s
    if whole and uploads and cost.saves and cost.upload_s and uploads.expected > whole.expected:
        yield (
            f"{cost.saves:,} uploads × {seconds(cost.upload_s)} = {hours(uploads)}, longer than the job itself: "
            "they end after it; save less often"
        )


def _card(cost: StageCost, card_bytes: float | None) -> Iterator[str]:
    if cost.memory is None or card_bytes is None or cost.memory.fits(card_bytes) is True:
        return
    card, need = f"{card_bytes / 1e9:.1f} GB", gigabytes(cost.memory.whole)
    cure = "a smaller per_device_train_batch_size, activation_checkpointing, quantization or fsdp2 would help"
    doubt = "does not fit" if cost.memory.fits(card_bytes) is False else "may not fit"
    yield f"needs {need} and {doubt} {card}; {cure}"


def rarer(one_s: float, step_s: float) -> int:
    """The smallest round cadence at which something of `one_s` seconds costs less than LIMIT of the training."""
    least = one_s / (LIMIT * step_s)
    power = 1
    while True:
        for digit in STEPS:
            if digit * power >= least:
                return digit * power
        power *= 10


def seconds(span: Span) -> str:
    """`3 s`, `5–10 min`: a short time with its range."""
    unit, size = ("min", 60.0) if span.high >= 120 else ("s", 1.0)
    return f"{_between(span.times(1 / size))} {unit}"


def hours(span: Span) -> str:
    """`15.6 h`, `48–60 h`, `12 min`: a long time with its range."""
    for unit, size, least in (("h", 3600.0, 5400.0), ("min", 60.0, 120.0), ("s", 1.0, 0.0)):
        if span.high >= least:
            return f"{_between(span.times(1 / size))} {unit}"
    return "0 s"


def gigabytes(span: Span) -> str:
    """`57.4 GB`, `1–2 GB`, `153 MB`."""
    unit, size = ("GB", 1e9) if span.high >= 1e9 else ("MB", 1e6)
    return f"{_between(span.times(1 / size))} {unit}"


def _between(span: Span) -> str:
    low, expected, high = (_short(end) for end in (span.low, span.expected, span.high))
    if low == high:
        return low
    in_the_middle = abs(span.expected - (span.low + span.high) / 2) < 0.01 * span.high
    return f"{low}–{high}" if in_the_middle else f"{expected} ({low}–{high})"


def _short(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 1 else 2
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
