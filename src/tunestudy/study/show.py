"""A plan as people read it: grouped by stage and variants, because ten thousand rows tell nobody anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunestudy.config.merge import MergeInput, MergeStage, Weights
from tunestudy.config.stage import AnyStage
from tunestudy.records.space import bytes_text
from tunestudy.study.estimates.steps import Amount
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import Plan, PlannedJob

MAX_ROWS = 60


@dataclass(frozen=True)
class Group:
    """The jobs of one stage that serve the same variants: one per seed."""

    stage: str
    variants: tuple[str, ...]
    jobs: tuple[PlannedJob, ...]


def groups_of(jobs: Iterable[PlannedJob]) -> list[Group]:
    """Groups in the order of their first job."""
    found: dict[tuple[str, tuple[str, ...]], list[PlannedJob]] = {}
    for planned in jobs:
        found.setdefault((planned.job.stage, planned.job.variants), []).append(planned)
    return [Group(stage, variants, tuple(group)) for (stage, variants), group in found.items()]


def plan_lines(plan: Plan) -> list[str]:
    """The whole text that `tunestudy plan` prints."""
    groups = groups_of(plan.jobs)
    rows = [_row(group) for group in groups[:MAX_ROWS]]
    header = ["stage", "variants", "jobs", "state", "steps/job", "tokens/job", "checkpoints/job"]
    lines = [f"{plan.study.study}: {_size(plan)}", "", *_table([header, *rows])]
    if len(groups) > MAX_ROWS:
        lines.append(f"… and {len(groups) - MAX_ROWS} more rows; --json lists every job")
    lines += ["", *_reuse(groups), *_totals(plan)]
    lines += _section("Merges", _merges(groups))
    gated = [f"{gated.stage} ({_names(gated.variants)}): {gated.forecast}" for gated in plan.gates[:MAX_ROWS]]
    gated += [f"… and {len(plan.gates) - MAX_ROWS} more"] * (len(plan.gates) > MAX_ROWS)
    lines += _section("Gates, were nothing but the proximal step to move them", gated)
    lines += _section("Changes since the last plan", [str(change) for change in plan.changes])
    left = [f"{orphan.id} ({bytes_text(orphan.size_bytes)})" for orphan in plan.orphans]
    lines += _section("No longer in the study (`tunestudy clean` removes them)", left)
    return lines + _section("Warnings", plan.warnings)


def _row(group: Group) -> list[str]:
    estimate = group.jobs[0].estimate
    row = [group.stage, _names(group.variants), str(len(group.jobs)), _states(group.jobs)]
    if group.jobs[0].job.merging is not None:
        return [*row, "-", "-", "-"]
    checkpoints = "?" if estimate.checkpoints is None else str(estimate.checkpoints)
    return [*row, _amount(estimate.steps), _amount(estimate.tokens), checkpoints]


def _merges(groups: Sequence[Group]) -> list[str]:
    """What each merge makes of what: stages of one name and settings are told once."""
    told = {
        f"{group.stage} ({_names(group.variants)}): {merge_words(group.jobs[0].job.merging)}": None
        for group in groups
        if group.jobs[0].job.merging is not None
    }
    return [*list(told)[:MAX_ROWS], *([f"… and {len(told) - MAX_ROWS} more"] * (len(told) > MAX_ROWS))]


def merge_words(stage: MergeStage) -> str:
    """`dare_ties of en (english × 0.6, density 0.1) and … over vision, as mergekit does it`."""
    models = " and ".join(_model_words(name, one) for name, one in stage.models.items())
    base = f" over {_origin(stage.base)}" if stage.base is not None else ""
    compat = f", as {stage.compat} does it" if stage.compat != "paper" else ""
    return f"{stage.method} of {models}{base}{', into an adapter' * (stage.into == 'adapter')}{compat}"


def _model_words(name: str, one: MergeInput) -> str:
    facts = [_origin(one) + f" × {one.weight:g}"]
    facts += [f"{role} × {weight:g}" for role, weight in one.weights.items()]
    facts += [f"density {one.density:g}"] if one.density is not None else []
    facts += [f"{role} density {density:g}" for role, density in one.densities.items()]
    return f"{name} ({', '.join(facts)})"


def _origin(one: Weights) -> str:
    return one.stage or str(one.path)


def _size(plan: Plan) -> str:
    study, totals = plan.study, plan.totals()
    trials = (
        f"{_of(len(study.variants), 'variant')} × {_of(len(study.seeds), 'seed')} = {_of(totals['trials'], 'trial')}"
    )
    return f"{trials}, {_of(totals['jobs'], 'job')} ({totals['jobs_to_do']} to do)"


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _reuse(groups: Sequence[Group]) -> list[str]:
    lines = [
        f"{group.stage}: 1 job per seed, shared by {len(group.variants)} variants"
        for group in groups
        if len(group.variants) > 1 and group.jobs
    ]
    return [*lines, ""] if lines else []


def _totals(plan: Plan) -> list[str]:
    totals = plan.totals()
    saved = totals["stages_without_reuse"] - totals["jobs"]
    lines = [
        f"Together: {_sum(plan, 'steps')} steps, {_sum(plan, 'tokens')} tokens, "
        f"{_number(totals['checkpoints'])} checkpoints written"
    ]
    return [*lines, f"Reuse saves {saved} of {totals['stages_without_reuse']} stage runs"] if saved > 0 else lines


def _sum(plan: Plan, what: str) -> str:
    amounts: list[Amount | None] = [getattr(planned.estimate, what) for planned in plan.jobs]
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts):
        return "an unknown number of"
    return str(Amount(sum(amount.value for amount in known), all(amount.exact for amount in known)))


def _states(jobs: Sequence[PlannedJob]) -> str:
    states = [
        f"{planned.status} ({planned.steps_kept:,} of {planned.steps:,} steps done)"
        if planned.steps_kept and planned.steps
        else planned.status
        for planned in jobs
    ]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _amount(amount: Amount | None) -> str:
    return "?" if amount is None else str(amount)


def _number(value: int | None) -> str:
    return "an unknown number of" if value is None else f"{value:,}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to their widest cell; the last ones are numbers and stand to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, 1, 3) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "─" * len(lines[0]), *lines[1:]]


def validation_lines(loaded: LoadedStudy) -> list[str]:
    """What `tunestudy validate` prints: the study as it was understood."""
    study = loaded.study
    lines = [f"{loaded.path} is a valid study: `{study.study}`, seeds {', '.join(map(str, study.seeds))}"]
    for name, variant in list(study.variants.items())[:MAX_ROWS]:
        lines.append(
            f"  {name}: {' → '.join(_stage_words(*item) for item in variant.stages.items()) or 'the model as it comes'}"
        )
    if len(study.variants) > MAX_ROWS:
        lines.append(f"  … and {len(study.variants) - MAX_ROWS} more variants")
    if loaded.has_tiny and not loaded.tiny:
        load_study(loaded.path, tiny=True)
        lines.append("its small form is valid, too: `--tiny`")
    return lines + _section("Warnings", loaded.warnings)


def _stage_words(name: str, stage: AnyStage) -> str:
    if isinstance(stage, MergeStage):
        return f"{name} ({stage.method} of {', '.join(stage.models)})"
    what = f"{stage.adapter.type} r{stage.adapter.lora_r}" if stage.adapter else "full"
    what = "nothing" if stage.trains_nothing else what
    if isinstance(stage.train, tuple):
        what = " + ".join([*([what] if stage.adapter else []), *stage.train])
    return f"{name} ({what}, {stage.init}, batch {stage.effective_batch_size})"
