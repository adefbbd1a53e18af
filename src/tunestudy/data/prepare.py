"""A stage's data, tokenised once per study and mapped by every job and rank that needs them.

Rank 0 of whichever job comes first builds `cache/data/<fingerprint>/` under a lease and seals it; a flipped bit in it
makes the next job build it again. Tokenising depends on no seed, so all variants and seeds share it.
"""

import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tunestudy.config.data import AnyDataset, MixturePart, samples_per_epoch
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.stage import TrainStage
from tunestudy.data.build import Wanted, build
from tunestudy.data.corpus import Corpus, open_corpus
from tunestudy.data.select import HELD_OUT, smallest, split_name
from tunestudy.data.sources import Folders, source_of
from tunestudy.data.vision import Vision
from tunestudy.records.atomic import read_json, temporary_beside
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.lease import Lease
from tunestudy.records.manifest import problems, seal

DATA_VERSION = 3
"""Raised when the same settings begin to make other tokens: old caches are then left aside."""

OVERLAP_EXAMPLES = 5
POLL_S = 0.2


class Ranks(Protocol):
    """What is needed of `train.world.World`."""

    rank: int

    def barrier(self) -> None: ...


@dataclass(frozen=True)
class PreparedData:
    """A stage's training and evaluation samples, and the content of data.json."""

    train: Corpus
    eval: Corpus | None
    report: dict[str, Any]


def prepare(job: Job, folder: JobDir, tokenizer: Any, world: Ranks, vision: Vision | None = None) -> PreparedData:
    """The data of `job`'s stage. Raises StudyError for data that cannot be used; every rank calls this."""
    settings = job.training
    assert settings is not None, "a job that only evaluates has no training data"
    wanted = wanted_data(job, settings, Folders.of(job, folder))
    data = _opened(made_once(wanted, folder.study, tokenizer, settings, world, vision), wanted, settings)
    if world.rank == 0:
        for line in remarks(data.report):
            print(line, flush=True)
    return data


def made_once(
    wanted: Wanted,
    study: StudyDir,
    tokenizer: Any,
    settings: TrainStage,
    world: Ranks,
    vision: Vision | None = None,
) -> Path:
    """The cache folder of these data under this tokenizer, made by rank 0 unless it is there; every rank calls."""
    fingerprint = data_fingerprint(wanted, tokenizer, settings, vision)
    cache = study.data_cache / fingerprint[:32]
    if world.rank == 0:
        _build_once(cache, study.leases / f"data-{fingerprint[:32]}", wanted, tokenizer, settings, vision)
    else:
        while problems(cache, hashes=False):  # a barrier would time out where tokenising takes hours
            time.sleep(POLL_S)
    world.barrier()
    return cache


def wanted_data(job: Job, settings: TrainStage, folders: Folders) -> Wanted:
    """The data sets a stage trains and evaluates on; evaluation defaults to the held-out rows of its own."""
    train = [part.dataset for part in settings.data]
    own = [name for name in train if not split_name(name)[1] and _dataset(job, name).held_out > 0]
    evaluation = [part.dataset for part in settings.eval_data] or [f"{name}{HELD_OUT}" for name in own]
    for key, names in (("data", train), ("eval_data", evaluation)):
        if len(set(names)) < len(names):
            raise StudyError(at(f"stages.{job.stage}.{key}"), f"names a data set twice: {', '.join(names)}")
    datasets = {split_name(name)[0]: _dataset(job, name) for name in [*train, *evaluation]}
    for name in [*train, *evaluation]:
        if split_name(name)[1] and datasets[split_name(name)[0]].held_out == 0:
            raise StudyError(at(f"datasets.{split_name(name)[0]}.held_out"), f"is 0, so there are no rows in {name}")
    return Wanted(datasets, tuple(train), tuple(evaluation), folders)


def data_fingerprint(wanted: Wanted, tokenizer: Any, settings: TrainStage, vision: Vision | None = None) -> str:
    """SHA-256 over all that decides which tokens come out: data, tokenizer, template and settings."""
    neutral = {"max_rejected", "fetch"}  # what was fetched is part of the identity
    parts = {
        "version": DATA_VERSION,
        "datasets": {
            name: [
                dataset.model_dump(mode="json", exclude=neutral),
                source_of(dataset).identity(dataset, wanted.folders),
            ]
            for name, dataset in wanted.datasets.items()
        },
        "train": wanted.train,
        "eval": wanted.evaluation,
        "tokenizer": tokenizer_identity(tokenizer),
        "settings": [settings.max_length, settings.overlong, settings.loss_on],
        "vision": vision and vision.identity(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_identity(tokenizer: Any) -> str:
    """SHA-256 over the vocabulary, the rules, the special tokens and the chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), str(tokenizer.special_tokens_map), str(tokenizer.chat_template)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _dataset(job: Job, name: str) -> AnyDataset:
    dataset = split_name(name)[0]
    if dataset not in job.datasets:
        raise StudyError(
            at(f"stages.{job.stage}.data"), f"there is no data set {dataset!r}; there are: {', '.join(job.datasets)}"
        )
    return job.datasets[dataset]


def _build_once(
    cache: Path, lease: Path, wanted: Wanted, tokenizer: Any, settings: TrainStage, vision: Vision | None
) -> None:
    with Lease.acquire(lease, wait_s=math.inf):
        if not problems(cache):
            return
        prepared = temporary_beside(cache)
        prepared.mkdir(parents=True)
        try:
            report = build(wanted, tokenizer, settings, prepared, vision)
            (prepared / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
            seal(prepared, cache, {"kind": "data", "version": DATA_VERSION})
        except OSError as error:
            if error.filename is not None:
                raise
            # A full disk is told by write() without a name.
            raise OSError(
                error.errno, f"writing the data cache: {os.strerror(error.errno or 0)}", str(cache)
            ) from error
        finally:
            shutil.rmtree(prepared, ignore_errors=True)


def _opened(cache: Path, wanted: Wanted, settings: TrainStage) -> PreparedData:
    train = open_corpus(cache / "train")
    everything = open_corpus(cache / "eval") if wanted.evaluation else None
    built = read_json(cache / "report.json")
    evaluation = everything
    if everything is not None and settings.eval_subset_size is not None:
        evaluation = everything.subset(
            smallest(everything.sample_ids, settings.eval_subset_size, settings.eval_subset_seed)
        )
    report: dict[str, Any] = {"sources": _source_report(built, train, settings.data, wanted), "cache": cache.name}
    if evaluation is not None:
        report["eval"] = _eval_report(evaluation)
        report["overlap"] = overlap(train, evaluation)
    return PreparedData(train, evaluation, report)


def _source_report(
    built: dict[str, Any], train: Corpus, parts: tuple[MixturePart, ...], wanted: Wanted
) -> dict[str, dict[str, Any]]:
    """Per source of the mixture: what was read and rejected, what is there, and what an epoch takes of it."""
    available = np.bincount(train.source, minlength=len(parts))
    tokens = np.bincount(train.source, weights=train.lengths, minlength=len(parts))
    targets = train.targets_by_source()
    realised = samples_per_epoch(available.tolist(), parts)
    return {
        part.dataset: {
            **built[split_name(part.dataset)[0]],
            "samples": int(available[i]),
            "tokens": int(tokens[i]),
            "target_tokens": int(targets[i]),
            "language": wanted.datasets[split_name(part.dataset)[0]].language,
            "weight": part.weight,
            "samples_per_epoch": realised[i],
            "realised_share": realised[i] / sum(realised),
        }
        for i, part in enumerate(parts)
    }


def _eval_report(evaluation: Corpus) -> dict[str, Any]:
    ids = "\n".join(sorted(evaluation.sample_ids))
    targets = evaluation.targets_by_source()
    counts = np.bincount(evaluation.source, minlength=len(evaluation.sources))
    sources = {
        name: {"rows": int(counts[i]), "target_tokens": int(targets[i])} for i, name in enumerate(evaluation.sources)
    }
    return {"rows": len(evaluation), "ids_sha256": hashlib.sha256(ids.encode()).hexdigest(), "sources": sources}


def overlap(train: Corpus, evaluation: Corpus) -> dict[str, Any]:
    """How many evaluation rows have a twin of the same content in training, with the ids of the first."""
    twins = np.flatnonzero(np.isin(evaluation.content, train.content))
    examples = [evaluation.sample_ids[int(i)] for i in twins[:OVERLAP_EXAMPLES]]
    return {"rows": len(twins), "examples": examples, "same_image": rows_with_known_images(train, evaluation)}


def rows_with_known_images(train: Corpus, evaluation: Corpus) -> int:
    """Evaluation rows one of whose images also stands in training, whatever is asked about it."""
    if train.images is None or evaluation.images is None:
        return 0
    known = np.isin(evaluation.images.short_hashes, train.images.short_hashes)
    seen = np.concatenate([[0], np.cumsum(known)])
    ends = evaluation.images.ends
    starts = np.concatenate([[0], ends[:-1]])
    return int(np.count_nonzero(seen[ends] > seen[starts]))


def remarks(report: dict[str, Any]) -> list[str]:
    """What a person should know of a stage's data: records left out, evaluation rows seen in training."""
    lines = [
        f"{name}: {sum(source['rejected'].values())} of {source['read']} records left out "
        f"({', '.join(f'{reason} {count}' for reason, count in source['rejected'].items())})"
        for name, source in report["sources"].items()
        if source["rejected"]
    ]
    lines += [
        f"{name}: {sum(source['lost'].values())} of {source['read']} records have no image "
        f"({', '.join(f'{reason} {count}' for reason, count in source['lost'].items())})"
        for name, source in report["sources"].items()
        if source.get("lost")
    ]
    if twins := report.get("overlap", {}).get("rows"):
        lines.append(f"warning: {twins} of {report['eval']['rows']} evaluation rows also occur in the training data")
    if known := report.get("overlap", {}).get("same_image"):
        lines.append(
            f"warning: {known} of {report['eval']['rows']} evaluation rows are about images of the training data"
        )
    return lines
