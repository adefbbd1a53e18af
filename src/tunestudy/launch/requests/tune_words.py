"""What `tune-batch` prints: a table of what was tried, what to put into the study, and what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunestudy.config.job import Job
from tunestudy.launch.columns import columns
from tunestudy.launch.requests.tuning import (
    AMPLE,
    Candidate,
    Space,
    Tried,
    best_of,
    differing,
    few_divisors,
    not_needed,
)
from tunestudy.study.load import LoadedStudy, locate

HEADER = ("micro-batch", "checkpointing", "workers", "accumulation", "peak", "tokens/s", "±", "samples/s", "wait", "")
GIGABYTE = 1e9
BUSY = 0.3


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A search, as far as it came."""

    job: Job
    space: Space
    known: Mapping[Candidate, Tried]
    ranks: int
    facts: Mapping[str, Any]
    """`device`, `card_bytes`, `limit_bytes`, `taken_bytes`, as the last try saw them."""
    cut: bool
    """Whether time ended it."""
    busy: float = 0.0
    """Share of the machine's cores that worked for others when it began."""

    @property
    def best(self) -> Tried | None:
        return best_of(self.known, self.space)

    def accumulation(self, candidate: Candidate) -> int:
        return self.space.share // candidate.micro_batch


def progress_words(tried: Tried) -> str:
    """One line while the search runs."""
    one = tried.candidate
    checkpointing = "on" if one.activation_checkpointing else "off"
    what = f"micro-batch {one.micro_batch}, checkpointing {checkpointing}, {one.workers} workers"
    figures = f", {tried.tokens_per_s:,.0f} tokens/s" if tried.tokens_per_s else ""
    return f"{what}: {tried.verdict}{figures}"


def tuning_lines(tuning: Tuning, loaded: LoadedStudy) -> list[str]:
    """The whole text."""
    job, space = tuning.job, tuning.space
    effective = f"{space.share * tuning.ranks}" + (f" over {tuning.ranks} ranks" if tuning.ranks > 1 else "")
    lines = [
        f"{job.variants[0]}, stage {job.stage}: effective batch {effective}, on {_card(tuning)}",
        "",
        *columns([HEADER, *(_row(tuning, tried) for tried in in_order(tuning.known))], left=(1, len(HEADER) - 1)),
        "",
        *_recommendation(tuning, loaded),
        *_losses(tuning),
    ]
    left = list(not_needed(space, tuning.known))
    if left:
        lines += ["", "Not tried:", *(f"  {what}: {why}" for what, why in left)]
    if tuning.cut:
        lines += ["", "Time is up: the search had not ended; the same command goes on, --minutes gives it more"]
    if tuning.busy > BUSY:
        lines += [
            "",
            f"Other programs kept {tuning.busy:.0%} of the cores busy when this began, so times may be off;".replace(
                "%", " %"
            ),
            "--fresh measures all of it again.",
        ]
    few = few_divisors(space.share, tuning.ranks)
    return lines + (["", few[0].upper() + few[1:]] if few else [])


def in_order(known: Mapping[Candidate, Tried]) -> list[Tried]:
    return sorted(known.values(), key=lambda tried: (tried.candidate.activation_checkpointing, tried.candidate))


def _card(tuning: Tuning) -> str:
    facts = tuning.facts
    name = "this machine's CPU" if facts.get("device", "cpu") == "cpu" else str(facts["device"])
    size = f", {facts['card_bytes'] / GIGABYTE:.1f} GB" if "card_bytes" in facts else ""
    asked = " (as --memory-gb asks)" if facts.get("memory_bytes") else ""
    taken = facts.get("taken_bytes") or 0
    others = f", of which other programs hold {taken / GIGABYTE:.1f} GB" if taken > 0.2 * GIGABYTE else ""
    return f"{name}{size}{asked}{others}"


def _row(tuning: Tuning, tried: Tried) -> tuple[str, ...]:
    one = tried.candidate
    marks = [tried.verdict]
    marks += ["now"] if one == tuning.space.now else []
    marks += ["best"] if tried is tuning.best else []
    return (
        str(one.micro_batch),
        "on" if one.activation_checkpointing else "off",
        str(one.workers),
        str(tuning.accumulation(one)),
        f"{tried.peak_bytes / GIGABYTE:.2f} GB" if tried.peak_bytes and tried.fits else "",
        f"{tried.tokens_per_s:,.0f}" if tried.tokens_per_s else "",
        _spread(tried),
        f"{tried.samples_per_s:,.1f}" if tried.samples_per_s else "",
        "" if tried.wait_share is None else _percent(tried.wait_share),
        ", ".join(marks),
    )


def _spread(tried: Tried) -> str:
    """Half of what lies between the slowest and the fastest step."""
    return f"{(max(tried.rates) - min(tried.rates)) / 2:,.0f}" if tried.rates else ""


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _recommendation(tuning: Tuning, loaded: LoadedStudy) -> list[str]:
    best = tuning.best
    if best is None:
        return ["Nothing of what was tried fits with 5 % of the memory to spare."]
    room = f"{best.free:.0%}".replace("%", " %")
    tight = "" if best.free >= AMPLE else "; less than 10 % is little for weeks of training"
    own = tuning.known.get(tuning.space.now)
    if best.candidate == tuning.space.now:
        return [f"Leave it as it is: nothing tried is faster beyond chance; {room} of the memory is free{tight}."]
    gain = "the study's own does not fit" if own is None or not own.usable else _gain(best, own)
    lines = [f"Best: {gain}; {room} of the memory is free{tight}.", f"Put into `{_section(tuning, loaded)}:`", ""]
    return lines + [f"  {key}: {_yaml(value)}" for key, value in keys_to_set(tuning, loaded).items()]


def _section(tuning: Tuning, loaded: LoadedStudy) -> str:
    """Where the keys hold: the stage, or the variant's overrides where those have one of them and would win."""
    variant, stage = tuning.job.variants[0], tuning.job.stage
    for key in keys_to_set(tuning, loaded):
        place = locate(loaded.source, loaded.raw_variants, ("variants", variant, "stages", stage, key))
        if place.key.startswith("variants."):
            return f"variants: {loaded.raw_variants[variant].uses[stage].written}: overrides: {stage}"
    return f"stages: {stage}"


def _gain(best: Tried, own: Tried) -> str:
    if best.speed > own.speed:
        return f"{best.speed / own.speed:.2f} × the tokens per second of now"
    return "as fast as now"


def _yaml(value: object) -> str:
    return str(value).lower()


def keys_to_set(tuning: Tuning, loaded: LoadedStudy) -> dict[str, int | bool]:
    """What the study must say for the best one: what differs, and what keeps the effective batch where it is."""
    best, now = tuning.best, tuning.space.now
    if best is None or best.candidate == now:
        return {}
    one, found = best.candidate, dict[str, int | bool]()
    if one.micro_batch != now.micro_batch:
        found["per_device_train_batch_size"] = one.micro_batch
        if is_written(loaded, "gradient_accumulation_steps"):
            found["gradient_accumulation_steps"] = tuning.accumulation(one)
        if not is_written(loaded, "effective_batch_size"):
            found["effective_batch_size"] = tuning.space.share * tuning.ranks
    if one.activation_checkpointing != now.activation_checkpointing:
        found["activation_checkpointing"] = one.activation_checkpointing
    if one.workers != now.workers:
        found["dataloader_num_workers"] = one.workers
    return found


def is_written(loaded: LoadedStudy, key: str) -> bool:
    """Whether the study sets a key of stages anywhere, by file or command line."""
    return any(str(path[-1]).rpartition(".")[2] == key for path in (*loaded.source.lines, *loaded.source.given) if path)


def _losses(tuning: Tuning) -> list[str]:
    apart = differing(tuning.known, tuning.space)
    fitting = [tried for tried in tuning.known.values() if tried.learnt]
    lines = []
    if apart:
        worst, share = max(apart, key=lambda pair: pair[1])
        lines.append(
            f"Losses or gradients of the first steps differ by up to {share:.1e} (micro-batch "
            f"{worst.candidate.micro_batch}): more than rounding explains, so results of this model depend on how a "
            "step is cut"
        )
    elif len(fitting) > 1:
        lines.append(
            "The first steps' losses and gradients agree in all of them: what is learnt does not depend on the choice."
        )
    if any(tried.draws for tried in fitting):
        lines.append(
            "With dropout, another micro-batch draws other numbers, as another seed would; losses were compared "
            "without it."
        )
    return ["", *lines] if lines else []


def open_ends(tuning: Tuning) -> str:
    """What would help where nothing fits, of what the stage does not do yet."""
    settings = tuning.job.training
    assert settings is not None
    ways = [f"a max_length below {settings.max_length}"]
    if settings.adapter is None:
        ways.append("an adapter in place of full training")
    elif settings.quantization is None:
        ways.append("quantization: {load_in_4bit: true}")
    if tuning.ranks == 1 or settings.engine not in ("fsdp2", "deepspeed"):
        ways.append("engine: fsdp2 over more ranks")
    tried_both = {tried.candidate.activation_checkpointing for tried in tuning.known.values()} == {True, False}
    first = "not even one row at a time, with activation checkpointing" if tried_both else "not even one row at a time"
    why = next((tried.why for tried in in_order(tuning.known) if not tried.fits and tried.why), "")
    return f"{first} ({why}); what helps: {', '.join(ways)}"


def as_json(tuning: Tuning, loaded: LoadedStudy) -> dict[str, Any]:
    """The same for machines."""
    best = tuning.best
    return {
        "stage": tuning.job.stage,
        "variants": list(tuning.job.variants),
        "effective_batch_size": tuning.space.share * tuning.ranks,
        "ranks": tuning.ranks,
        **{name: tuning.facts.get(name) for name in ("device", "card_bytes", "limit_bytes", "taken_bytes")},
        "tried": [{**_entry(tuning, tried)} for tried in in_order(tuning.known)],
        "best": None if best is None else _entry(tuning, best),
        "set": keys_to_set(tuning, loaded),
        "steps_agree": not differing(tuning.known, tuning.space),
        "not_tried": [{"what": what, "why": why} for what, why in not_needed(tuning.space, tuning.known)],
        "finished": not tuning.cut,
    }


def _entry(tuning: Tuning, tried: Tried) -> dict[str, Any]:
    one = tried.candidate
    return {
        "per_device_train_batch_size": one.micro_batch,
        "activation_checkpointing": one.activation_checkpointing,
        "dataloader_num_workers": one.workers,
        "gradient_accumulation_steps": tuning.accumulation(one),
        "verdict": tried.verdict,
        "fits": tried.fits,
        "usable": tried.usable,
        "peak_bytes": tried.peak_bytes or None,
        "step_s": tried.step_s,
        "tokens_per_s": tried.tokens_per_s,
        "samples_per_s": tried.samples_per_s,
        "wait_share": tried.wait_share,
        "learnt": list(tried.learnt),
        "why": tried.why,
    }
