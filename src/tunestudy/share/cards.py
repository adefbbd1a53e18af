"""Cards of a study's results, from its files as they are now."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tunestudy.config.job import Job
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import StudyDir
from tunestudy.records.manifest import read_manifest
from tunestudy.records.redact import redact
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.values import mapping
from tunestudy.share.card import CardFacts, base_of, render_card
from tunestudy.share.hub import Hub
from tunestudy.share.work import CardOf


def card_of_study(study: StudyDir) -> CardOf:
    """What makes the card of a job of this study. Licences are asked for once."""
    licences: dict[tuple[str, str | None], str | None] = {}

    def card_of(hub: Hub, job: Job, repo: str) -> str:
        facts = collect(study)
        folder = study.job(job.id)
        manifest = read_manifest(folder.model) or {}
        base = base_of(manifest, folder.model, facts.model)
        if base is not None and base not in licences:
            licences[base] = hub.licence_of(*base)
        of_job = next((one for one in facts.jobs if one.id == job.id), None)
        if of_job is None:
            raise ValueError(f"{job.id} is not in the plan")
        card = CardFacts(
            repo=repo,
            folder=folder.model,
            manifest=manifest,
            study=facts,
            headline=make_headline(facts),
            job=of_job,
            datasets={name: one.model_dump(mode="json") for name, one in job.datasets.items()},
            identities=_identities(study),
            licence=None if base is None else licences[base],
        )
        return redact(render_card(card))

    return card_of


def _identities(study: StudyDir) -> Mapping[str, Any]:
    """Of each data set what tells its content apart, without how it is read; many hashes as one."""
    plan = read_json(study.plan_json) or {}
    found = {}
    for name, identity in mapping(mapping(plan.get("inputs")).get("datasets")).items():
        told = {key: value for key, value in mapping(identity).items() if key in _TELLING and value is not None}
        found[name] = {key: _short(value) if isinstance(value, dict) else value for key, value in told.items()}
    return found


_TELLING = ("type", "name", "subset", "split", "revision", "content", "images", "limit", "held_out", "version")


def _short(hashes: dict[str, Any]) -> Any:
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return {"files": len(hashes), "sha256": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()}
