"""The readiness checklist of EXPERIMENT.md: each point is judged from files, never ticked by hand."""

from tunestudy.report.facts import StudyFacts
from tunestudy.report.format import listing, plural
from tunestudy.report.machines import machines
from tunestudy.report.samples import unequal_samples
from tunestudy.report.values import mapping, whole

Point = tuple[bool, str]


def checklist(facts: StudyFacts) -> list[Point]:
    """(fulfilled, what) in the order in which a study gets ready."""
    return [*_planned(facts), *_environments(facts), *_data(facts), *_comparable(facts), *_results(facts)]


def _planned(facts: StudyFacts) -> list[Point]:
    return [
        (bool(facts.jobs), f"plan: {plural(len(facts.jobs), 'job')}" if facts.jobs else "plan: none yet"),
        (bool(facts.benchmarks), f"benchmarks: {listing(list(facts.benchmarks)) or 'none'}"),
    ]


def _environments(facts: StudyFacts) -> list[Point]:
    hosts = machines(facts)
    if not hosts:
        return [(False, "environment: not recorded yet, no job has started")]
    dirty = [host.host for host in hosts if host.git.get("dirty")]
    unknown = [host.host for host in hosts if not host.git]
    points = [(True, f"environment recorded on {listing([host.host for host in hosts])}")]
    if dirty:
        points.append((False, f"code committed: uncommitted changes on {listing(dirty)}"))
    elif unknown:
        points.append((False, f"code committed: no git repository was found on {listing(unknown)}"))
    else:
        points.append((True, "code committed: no uncommitted changes"))
    return points


def _data(facts: StudyFacts) -> list[Point]:
    prepared = {name for job in facts.jobs for name in mapping(job.data.get("sources"))}
    rejected = 0
    for job in facts.jobs:
        sources = mapping(job.data.get("sources")).values()
        rejected = max(
            rejected,
            sum(whole(n) or 0 for source in sources for n in mapping(mapping(source).get("rejected")).values()),
        )
    overlap = max((whole(mapping(job.data.get("overlap")).get("rows")) or 0 for job in facts.jobs), default=0)
    if not prepared:
        return [(False, "data: not prepared yet")]
    words = f"data prepared: {listing(sorted(prepared))}"
    return [
        (True, f"{words}; at most {plural(rejected, 'record')} rejected in a stage" if rejected else words),
        (
            overlap == 0,
            "no evaluation row in the training data"
            if not overlap
            else f"{plural(overlap, 'evaluation row')} in the training data",
        ),
    ]


def _comparable(facts: StudyFacts) -> list[Point]:
    enough = len(facts.seeds) > 1
    unequal = list(unequal_samples(facts))
    told = [(not unequal, "the same training samples in all variants that do not declare other data")]
    return [
        *(told if any(job.data.get("drawn") for job in facts.jobs) else []),
        (
            enough,
            f"seeds: {listing([str(seed) for seed in facts.seeds])}" + ("" if enough else " (no spread from one)"),
        ),
    ]


def _results(facts: StudyFacts) -> list[Point]:
    done = facts.count("done")
    return [(bool(facts.jobs) and done == len(facts.jobs), f"jobs done: {done} of {len(facts.jobs)}")]
