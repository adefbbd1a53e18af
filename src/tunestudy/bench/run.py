"""The benchmarks of a job: whatever score is missing or belongs to an older definition is made anew."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tunestudy.adapters.attach import go_on
from tunestudy.bench.rows import read_rows
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.summary import summary_of
from tunestudy.bench.tasks import Row, Scored, task
from tunestudy.config.engines import slices_weights
from tunestudy.config.job import Evaluation, Job
from tunestudy.data.build import eyes_of
from tunestudy.models.decoder import base_model_of
from tunestudy.models.load import LoadedModel, load_result
from tunestudy.models.placement import place
from tunestudy.models.slicing import slice_blocks
from tunestudy.records.atomic import read_json, write_json, write_text
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest

if TYPE_CHECKING:
    from tunestudy.train.world import World


def run_benchmarks(job: Job, folder: JobDir, world: "World", stop: StopRequest) -> bool:
    """Score what is not scored yet; False when a stop was asked for before all was done."""
    missing = [name for name, wanted in job.evaluations.items() if not is_scored(folder, name, wanted)]
    if not missing:
        return True
    loaded, sliced = load_to_score(job, folder, world)
    for name in missing:
        if world.any(bool(stop)):
            return False
        score(name, job, folder, world, loaded, sliced=sliced)
    return True


def load_to_score(job: Job, folder: JobDir, world: "World") -> tuple[LoadedModel, bool]:
    """The job's model, where it can answer, and whether ranks hold slices of it."""
    settings = job.settings
    if settings is None:
        return load_result(folder, world.device), False
    sliced = world.size > 1 and slices_weights(settings)
    loaded = load_result(folder, "cpu" if sliced or settings.device_map is not None else world.device)
    if settings.device_map is not None:
        place(base_model_of(loaded.model), settings.device_map)
    if settings.adapter is not None:
        go_on(loaded.model, settings.adapter)
    if sliced:
        slice_blocks(loaded.model, world.size, world.device)
    return loaded, sliced


def is_scored(folder: JobDir, name: str, wanted: Evaluation) -> bool:
    """Whether eval/<name>.json holds the score of exactly this benchmark."""
    return bool((read_json(folder.eval_json(name)) or {}).get("fingerprint") == wanted.fingerprint)


def score(name: str, job: Job, folder: JobDir, world: "World", loaded: LoadedModel, *, sliced: bool) -> None:
    """Run one benchmark on all ranks and let rank 0 write predictions first, the score last.

    Ranks share the rows; those that hold slices of the model ask it the same questions together.
    """
    started = time.time()
    wanted = job.evaluations[name]
    kind = task(wanted.benchmark.task)
    eyes = eyes_of(loaded.vision, job, folder)
    rows = read_rows(name, wanted.benchmark, job, folder, loaded.tokenizer, eyes)
    size = wanted.benchmark.batch_size
    scorer = Scorer(loaded.model, loaded.tokenizer, batch_size=size, device=world.device, sliced=sliced, eyes=eyes)
    mine = kind.score(scorer, rows if sliced else share(rows, size, world.rank, world.size), wanted.benchmark)
    scored = mine if sliced else [row for part in world.gather_objects(mine) for row in part]
    if world.rank > 0:
        return
    scored.sort(key=lambda row: row.id)
    lines = [json.dumps(asdict(row), ensure_ascii=False) for row in scored]
    write_text(folder.predictions(name), "\n".join(lines) + "\n")
    write_json(folder.eval_json(name), summary(name, wanted, kind.VERSION, scored, time.time() - started))


def summary(name: str, wanted: Evaluation, version: int, scored: Sequence[Scored], duration_s: float) -> dict[str, Any]:
    """The content of eval/<name>.json; `rows_sha256` tells whether two scores are of the same rows."""
    return {
        "benchmark": name,
        "type": wanted.benchmark.type,
        "version": version,
        "fingerprint": wanted.fingerprint,
        "dataset": wanted.benchmark.dataset,
        "n": len(scored),
        **summary_of(wanted.benchmark, scored),
        "rows_sha256": hashlib.sha256("\n".join(row.id for row in scored).encode()).hexdigest(),
        "duration_s": round(duration_s, 3),
    }


def share(rows: Sequence[Row], batch_size: int, rank: int, num_ranks: int) -> list[Row]:
    """This rank's rows: whole batches of like length, dealt in turn, so that no batch depends on the ranks."""
    ordered = sorted(rows, key=lambda row: (len(row.prompt_ids), row.id))
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [row for batch in batches[rank::num_ranks] for row in batch]
