"""Where results go on the hub: a repository of its own for every job, known before anything runs."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.config.sharing import CheckpointSharing, SharingSettings
from tunestudy.config.study import Study
from tunestudy.study.load import LoadedStudy
from tunestudy.study.nearest import did_you_mean

DEFAULT_NAME = "{study}-{variant}-seed{seed}-{stage}"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}\w)?", re.ASCII)
_ODD = re.compile(r"[^A-Za-z0-9_.]+")
_HUB = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A job's place on the hub."""

    job: str
    """Its id."""
    repo: str
    """`owner/name`, or a name alone for the token's user."""
    private: bool | None = None
    revision: str | None = None
    strategy: str = "end"


def repo_name(template: str, job: Job, study: str) -> str:
    """The repository of a job. ValueError for an unknown placeholder, or a name that the hub does not take."""
    values = {"study": study, "variant": job.variants[0], "seed": str(job.seed), "stage": job.stage}
    for found in _PLACEHOLDER.findall(template):
        if found not in values:
            raise ValueError(f"there is no `{{{found}}}`; {did_you_mean(found, values)}")
    name = _PLACEHOLDER.sub(lambda match: _plain(values[match[1]]), template)
    require_repo_name(name)
    return name


def require_repo_name(name: str) -> None:
    """ValueError unless the hub takes `name`, with or without an owner in front."""
    parts = name.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(
            f"`{name}` is no name of a repository: [owner/]name of letters, digits, `-`, `_` and `.`, at most 96 of "
            "them, without `--` or `..`"
        )


def _plain(value: str) -> str:
    """A value as a part of a name: what the hub does not take becomes one `-`."""
    return re.sub(r"\.\.+", ".", _ODD.sub("-", value)).strip("-.")


def pushed_by_itself(jobs: Sequence[Job]) -> list[Job]:
    """Jobs whose stage says `push_to_hub`."""
    return [job for job in jobs if job.settings is not None and job.settings.push_to_hub]


def targets_of(jobs: Sequence[Job], study: str, *, template: str | None = None) -> list[Target]:
    """Where each of these jobs goes; `template` in place of the study's own names.

    Raises StudyError for names that cannot be, and where two jobs would write to one place.
    """
    targets = [_target(job, study, template) for job in jobs]
    first: dict[tuple[str, str | None], Job] = {}
    for job, target in zip(jobs, targets, strict=True):
        other = first.setdefault((target.repo.lower(), target.revision), job)
        if other is not job:
            raise StudyError(_where(job, template), _collision(target.repo, other, job))
    return targets


def _target(job: Job, study: str, template: str | None) -> Target:
    settings = job.settings or SharingSettings()
    try:
        repo = repo_name(template or settings.hub_model_id or DEFAULT_NAME, job, study)
    except ValueError as error:
        raise StudyError(_where(job, template), str(error)) from None
    strategy = settings.hub_strategy if isinstance(settings, CheckpointSharing) else "end"
    private, revision = settings.hub_private_repo, settings.hub_revision
    return Target(job=job.id, repo=repo, private=private, revision=revision, strategy=strategy)


def _where(job: Job, template: str | None) -> str:
    if template is not None:
        return "--to"
    of_stage = isinstance(job.settings, SharingSettings) and job.settings.hub_model_id is not None
    return f"variants.{job.variants[0]}.stages.{job.stage}.{'hub_model_id' if of_stage else 'push_to_hub'}"


def _collision(repo: str, one: Job, other: Job) -> str:
    differs = [
        f"{{{name}}}"
        for name, a, b in (
            ("variant", one.variants[0], other.variants[0]),
            ("seed", one.seed, other.seed),
            ("stage", one.stage, other.stage),
        )
        if a != b
    ]
    told = f"`{repo}` would be written by {one.id} ({_who(one)}) and by {other.id} ({_who(other)})"
    return f"{told}; put {' or '.join(differs) or 'another name'} into the name, e.g. {DEFAULT_NAME}"


def _who(job: Job) -> str:
    return f"{job.variants[0]}, seed {job.seed}, stage {job.stage}"


def check_sharing(loaded: LoadedStudy, jobs: Sequence[Job]) -> list[str]:
    """Raise StudyError at the study's line for places that cannot be; returns warnings."""
    study = loaded.study
    if not any(
        getattr(stage, "push_to_hub", False) for one in study.variants.values() for stage in one.stages.values()
    ):
        return list(_named_for_nothing(study))
    try:
        targets_of(pushed_by_itself(jobs), study.study)
        _require_alike(study, jobs)
    except StudyError as error:
        place = loaded.locate(str(error.place.key))
        raise StudyError(place, error.message) from None
    return list(_named_for_nothing(study))


def _require_alike(study: Study, jobs: Sequence[Job]) -> None:
    """Variants that share a job share its place on the hub: another one for one of them would be dropped."""
    for job in jobs:
        for name in job.variants:
            stage = study.variants[name].stages.get(job.stage)
            if stage is None or job.settings is None:
                continue
            for key in _HUB:
                if getattr(stage, key, None) != getattr(job.settings, key, None):
                    where = f"variants.{name}.stages.{job.stage}.{key}"
                    shared = f"{name} and {job.variants[0]} train this stage alike and share the job {job.id}"
                    raise StudyError(
                        where, f"{shared}, which goes to one place; give both the same, or set it in `stages:`"
                    )


def _named_for_nothing(study: Study) -> Iterator[str]:
    named = {
        stage_name
        for variant in study.variants.values()
        for stage_name, stage in variant.stages.items()
        if getattr(stage, "hub_model_id", None) and not getattr(stage, "push_to_hub", False)
    }
    for name in sorted(named):
        yield f"stage `{name}` names a repository without `push_to_hub: true`: only `tunestudy push` will use it"
