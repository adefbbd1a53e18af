"""EXPERIMENT.md: what was merged, and what mixtures of experts did."""

from tunestudy.report.facts import StudyFacts
from tunestudy.report.format import MISSING, count, duration, listing, percent, share, short_count, sig, signed, size
from tunestudy.report.markdown import code, escape, table
from tunestudy.report.merges import Merging, merges
from tunestudy.report.mixtures import Mixture, mixtures


def merge_summary(facts: StudyFacts) -> list[str]:
    """The section's parts; none for a study without merges."""
    found = merges(facts)
    return ["### Merging", *(part for merging in found for part in _merge(merging))] if found else []


def _heading(one: Merging | Mixture) -> str:
    seeds = listing([str(seed) for seed in one.seeds])
    return f"#### {escape(listing(one.variants, 4))}: {escape(one.stage)}, seeds {seeds}"


def _merge(one: Merging) -> list[str]:
    settings = "; ".join(f"{name}: {value}" for name, value in one.settings)
    said = f"{one.method}{f' ({one.meaning})' if one.meaning else ''}; {settings}."
    inputs = [
        (escape(i.name), escape(i.origin), i.weight or MISSING, i.density or MISSING, i.kind or MISSING,
         ", ".join(map(code, i.identities)) or MISSING)
        for i in one.inputs
    ]  # fmt: skip
    parts = [
        _heading(one),
        escape(said),
        table(("model", "from", "weight", "density", "kind", "identity"), inputs),
    ]
    if not one.reported:
        return [*parts, "Nothing has been reported on this merge yet."]
    return [part for part in (*parts, _differences(one), _pairs(one), _notes(one)) if part]


def _differences(one: Merging) -> str:
    rows = [
        (escape(role.name), count(role.tensors), short_count(role.parameters), escape(of.model),
         of.zero_share.whole(share), of.norm.whole(sig), of.relative_norm.whole(sig))
        for role in one.roles
        for of in role.differences
    ]  # fmt: skip
    return table(("role", "tensors", "parameters", "model", "unchanged", "norm", "relative to the base"), rows)


def _pairs(one: Merging) -> str:
    rows = [
        (escape(role.name), count(role.tensors), short_count(role.parameters), escape(pair.names),
         pair.cosine.whole(signed), pair.sign_conflict.whole(percent))
        for role in one.roles
        for pair in role.pairs
    ]  # fmt: skip
    compared = "of differences" if one.of_differences else "of weights"
    return table(("role", "tensors", "parameters", "pair", f"cosine {compared}", "conflicting signs"), rows)


def _notes(one: Merging) -> str:
    lines = [f"- Warning: {escape(warning)}" for warning in one.warnings]
    lines += [f"- The result is {escape(one.adapter)}"] if one.adapter else []
    lines += [f"- {escape(one.absent)}"] if one.absent else []
    lines += [f"- Vocabularies {escape(one.vocabulary)}"] if one.vocabulary else []
    return "\n".join(
        [*lines, f"- Took {duration(one.duration_s)}, read {size(one.read_bytes)}, wrote {size(one.written_bytes)}"]
    )


def mixture_summary(facts: StudyFacts) -> list[str]:
    """The section's parts; none for a study without mixtures."""
    found = mixtures(facts)
    return ["### Mixtures of experts", *(part for mixture in found for part in _mixture(mixture))] if found else []


def _mixture(one: Mixture) -> list[str]:
    settings = "; ".join(f"{name}: {value}" for name, value in one.settings)
    rows = []
    for expert in one.experts:
        use = one.overall.usage.get(expert.name) if one.overall else None
        below = f"{expert.below} of {len(expert.by_module)}" if expert.by_module else MISSING
        held = expert.overall.whole(percent)
        rows.append(
            (
                escape(expert.name),
                escape(expert.origin),
                count(expert.rank),
                use.whole(percent) if use else MISSING,
                held,
                below,
            )
        )
    heads = ("expert", "from", "rank", "use", "energy held", f"modules below {percent(one.min_energy)}")
    parts = [
        _heading(one),
        escape(settings) + ".",
        table(heads, rows),
    ]
    if one.overall is None:
        return [*parts, "No gate has been logged yet."]
    words = f"- At step {count(one.last_step)}: entropy of the gates {one.overall.entropy.whole(sig)}, "
    lines = [f"{words}balance loss {one.overall.balance.whole(sig)}"]
    return [*parts, "\n".join([*lines, *(f"- Collapsed: {escape(line)}" for line in one.collapsed)])]
