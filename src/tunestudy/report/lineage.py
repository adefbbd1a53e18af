"""What a job is made from: the result that it starts from, the models that it merges, the experts that it mixes."""

from dataclasses import dataclass

from tunestudy.config.merge import BASE, STUDY_MODEL
from tunestudy.report.facts import JobFacts, Settings, StudyFacts
from tunestudy.report.format import listing
from tunestudy.report.values import mapping


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One thing that a job reads."""

    role: str
    """`base`, or a name that the study gave; empty for what the job starts from."""
    what: str
    """A job's id, a folder, or words for the study's model."""
    is_job: bool

    @property
    def text(self) -> str:
        return f"{self.role}: {self.what}" if self.role else self.what


def is_merge(job: JobFacts) -> bool:
    return (job.settings or {}).get("type") == "merge"


def read_by(settings: Settings) -> dict[str, Settings]:
    """By name, what a stage reads beside its start, the base first; experts that add nothing are left out."""
    if settings.get("type") == "merge":
        base = mapping(settings.get("base"))
        named = {**({BASE: base} if base else {}), **mapping(settings.get("models"))}
    else:
        named = mapping(mapping(settings.get("adapter")).get("experts"))
    return {str(name): mapping(one) for name, one in named.items() if one is not None}


def origins(facts: StudyFacts, job: JobFacts) -> list[Origin]:
    """What a job starts from, nearest last, then what it reads beside it."""
    named = read_by(facts.settings_of(job))
    inputs = job.inputs or _planned_inputs(facts, job, named)
    begun = job.inputs or job.settings is not None
    starts = job.parents if begun else [parent for parent in job.parents if parent not in inputs.values()]
    read = [
        Origin(role=name, what=inputs.get(name) or where_from(named[name]), is_job=name in inputs)
        for name in dict.fromkeys((*named, *inputs))
    ]
    return [*(Origin(role="", what=parent, is_job=True) for parent in starts), *read]


def _planned_inputs(facts: StudyFacts, job: JobFacts, named: dict[str, Settings]) -> dict[str, str]:
    """Of a job without a directory: plan.json has all that it waits for in one list, here told apart by stage."""
    stages = {other.stage: other.id for other in facts.jobs if other.id in job.parents}
    return {name: stages[str(one["stage"])] for name, one in named.items() if str(one.get("stage")) in stages}


def where_from(weights: Settings) -> str:
    """Words for `{stage: …}` or `{path: …}`."""
    if weights.get("path"):
        return str(weights["path"])
    return "the study's model" if weights.get("stage") == STUDY_MODEL else f"stage {weights.get('stage')}"


def kind_of_job(facts: StudyFacts, job: JobFacts) -> str:
    """What a merge merges, or a mixture mixes; empty for other jobs."""
    settings = facts.settings_of(job)
    if settings.get("type") == "merge":
        return f"{settings.get('method')} of {listing([str(name) for name in mapping(settings.get('models'))])}"
    adapter = mapping(settings.get("adapter"))
    return (
        f"mixture of {listing([str(name) for name in mapping(adapter.get('experts'))])}" if is_mixture(settings) else ""
    )


def is_mixture(settings: Settings) -> bool:
    return mapping(settings.get("adapter")).get("type") == "mole"
