"""The benchmarks of a job: whatever score is missing or belongs to an older definition is made anew."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tunestudy.adapters.attach import go_on
from tunestudy.bench.metrics.accuracy import accuracy
from tunestudy.bench.rows import read_rows
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Row, Scored, task
from tunestudy.config.job import Evaluation, Job
from tunestudy.models.decoder import base_model_of
from tunestudy.models.load import load_result
from tunestudy.models.placement import place
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
    spread = None if job.settings is None else job.settings.device_map
    loaded = load_result(folder, world.device if spread is None else "cpu")
    if spread is not None:
        place(base_model_of(loaded.model), spread)
    if job.settings is not None and job.settings.adapter is not None:
        go_on(loaded.model, job.settings.adapter)
    for name in missing:
        if world.any(bool(stop)):
            return False
        score(name, job, folder, world, loaded.model, loaded.tokenizer)
    return True


def is_scored(folder: JobDir, name: str, wanted: Evaluation) -> bool:
    """Whether eval/<name>.json holds the score of exactly this benchmark."""
    return bool((read_json(folder.eval_json(name)) or {}).get("fingerprint") == wanted.fingerprint)


def score(name: str, job: Job, folder: JobDir, world: "World", model: Any, tokenizer: Any) -> None:
    """Run one benchmark on all ranks and let rank 0 write predictions first, the score last."""
    started = time.time()
    wanted = job.evaluations[name]
    kind = task(wanted.benchmark.type)
    rows = read_rows(name, wanted.benchmark, job, folder, tokenizer)
    scorer = Scorer(model, tokenizer, batch_size=wanted.benchmark.batch_size, device=world.device)
    mine = kind.score(scorer, share(rows, wanted.benchmark.batch_size, world.rank, world.size), wanted.benchmark)
    scored = [row for part in world.gather_objects(mine) for row in part]
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
        "primary": "accuracy",
        "metrics": {"accuracy": accuracy([row.correct for row in scored])},
        "rows_sha256": hashlib.sha256("\n".join(row.id for row in scored).encode()).hexdigest(),
        "duration_s": round(duration_s, 3),
    }


def share(rows: Sequence[Row], batch_size: int, rank: int, num_ranks: int) -> list[Row]:
    """This rank's rows: whole batches of like length, dealt in turn, so that no batch depends on the ranks."""
    ordered = sorted(rows, key=lambda row: (len(row.prompt_ids), row.id))
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return [row for batch in batches[rank::num_ranks] for row in batch]
