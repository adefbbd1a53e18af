"""The benchmarks of a job: whatever score is missing or belongs to an older definition is made anew."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tunestudy.adapters.attach import go_on
from tunestudy.bench.advance import Advance
from tunestudy.bench.batches import chunks, cut_by
from tunestudy.bench.gallery import write_thumbnails
from tunestudy.bench.overlap import check_overlap
from tunestudy.bench.parts import Parts
from tunestudy.bench.rows import read_rows
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.summary import summary_of
from tunestudy.bench.tasks import Asking, Row, Scored, Totals, task
from tunestudy.config.benchmark import Benchmark
from tunestudy.config.engines import slices_weights
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Evaluation, Job
from tunestudy.data.build import eyes_of
from tunestudy.data.vision import Eyes
from tunestudy.models.decoder import base_model_of
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.placement import place
from tunestudy.models.results import load_result
from tunestudy.models.slicing import slice_blocks
from tunestudy.records.adjusted import read_adjusted
from tunestudy.records.atomic import read_object, write_json, write_text
from tunestudy.records.layout import CheckpointScores, JobDir
from tunestudy.records.progress import Progress
from tunestudy.records.stop import StopRequest

if TYPE_CHECKING:
    from tunestudy.train.world import World


def run_benchmarks(
    job: Job, folder: JobDir, world: "World", stop: StopRequest, progress: Progress | None = None
) -> bool:
    """Score what is not scored yet; False when a stop was asked for before all was done. `progress` hears of it."""
    missing = [name for name, wanted in job.evaluations.items() if not is_scored(folder, name, wanted)]
    if not missing:
        return True
    loaded, sliced = load_to_score(job, folder, world)
    advance = Advance(world, progress)
    for name in missing:
        if world.any(bool(stop)) or not score(name, job, folder, world, loaded, sliced=sliced, stop=stop, on=advance):
            return False
    return True


def load_to_score(job: Job, folder: JobDir, world: "World") -> tuple[LoadedModel, bool]:
    """The job's model, where it can answer, and whether ranks hold slices of it."""
    settings = job.training
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
    return bool(read_object(folder.eval_json(name)).get("fingerprint") == wanted.fingerprint)


def score(
    name: str,
    job: Job,
    folder: JobDir,
    world: "World",
    loaded: LoadedModel,
    *,
    sliced: bool,
    stop: StopRequest | None = None,
    on: Advance | None = None,
) -> bool:
    """Run one benchmark on all ranks and let rank 0 write predictions first, the score last.

    False when a stop was asked for before all was answered: what is answered is kept, and the next call goes on.
    on: hears how it goes on.
    """
    started = time.time()
    advance = (Advance(world) if on is None else on).of(name)
    wanted = as_it_fits(job.evaluations[name], folder, world.device.type)
    kind = task(wanted.benchmark.task)
    if hasattr(kind, "evaluate"):
        evaluate_by_itself(name, wanted, job, folder, world, loaded, sliced=sliced, advance=advance)
        return True
    eyes = eyes_of(loaded.vision, job, folder)
    rows = read_rows(name, wanted.benchmark, job, folder, loaded.tokenizer, eyes)
    scorer = scorer_of(loaded, wanted.benchmark, world, sliced=sliced, eyes=eyes, advance=advance)
    parts = Parts(folder.predictions(name), f"{wanted.fingerprint}:{kind.VERSION}", world.rank)
    stop = StopRequest() if stop is None else stop
    with backend(wanted.benchmark, scorer, job, folder, world, loaded, eyes, sliced=sliced) as asked:
        scored = answers(rows, wanted.benchmark, kind, asked, parts, advance, sliced=sliced, stop=stop)
    if scored is None:
        return False
    of_result = not isinstance(folder, CheckpointScores)  # what rows are is the same at every checkpoint
    if of_result:
        check_overlap(name, job, folder, rows, world)
    if world.rank == 0:
        write_text(folder.predictions(name), as_lines(scored))
        if of_result and eyes is not None:
            write_thumbnails(folder, name, scored, rows, eyes.places)
        write_json(folder.eval_json(name), summary(name, wanted, kind.VERSION, scored, time.time() - started))
        parts.remove()
    return True


def as_it_fits(wanted: Evaluation, folder: JobDir, device: str) -> Evaluation:
    """With smaller batches after the job has run out of memory in a benchmark."""
    divisor = read_adjusted(folder).benchmark_divisor
    return wanted.model_copy(update={"benchmark": cut_by(wanted.benchmark, divisor, device)})


def scorer_of(
    loaded: LoadedModel, benchmark: Benchmark, world: "World", *, sliced: bool, eyes: Eyes | None, advance: Advance
) -> Scorer:
    """The model as a benchmark asks it."""
    return Scorer(
        loaded.model,
        loaded.tokenizer,
        device=world.device,
        batch_size=benchmark.batch_size,
        batch_tokens=benchmark.batch_tokens,
        image_cache_bytes=benchmark.image_cache_bytes,
        sliced=sliced,
        eyes=eyes,
        advance=advance,
    )


def answers(
    rows: Sequence[Row],
    benchmark: Benchmark,
    kind: ModuleType,
    scorer: Scorer,
    parts: Parts,
    advance: Advance,
    *,
    sliced: bool,
    stop: StopRequest,
) -> list[Scored] | None:
    """Every row's answer, sorted by id, on every rank; None when a stop was asked for.

    Only what no part holds yet is asked. Ranks take whole chunks in turn, and meet before each of them, so that all
    leave together; those that hold slices of the model ask it the same questions together, and rank 0 writes.
    """
    world = advance.world
    [done, *_] = world.gather_objects(parts.read(rows) if world.rank == 0 else {})
    parted = chunks([row for row in rows if row.id not in done], benchmark)
    rank, size = (0, 1) if sliced else (world.rank, world.size)
    mine: list[Scored] = []
    num_done = len(done)
    for start in range(0, len(parted), size):
        advance.count(num_done, len(rows))
        advance.meet()
        if world.any(bool(stop)):
            return None
        for chunk in parted[start + rank : start + rank + 1]:
            scored = kind.score(scorer, chunk, benchmark)
            if not sliced or world.rank == 0:
                parts.append(chunk, scored)
            mine += scored
        num_done += sum(map(len, parted[start : start + size]))
    advance.meet()
    new = [mine] if sliced else world.gather_objects(mine)
    return sorted([*done.values(), *(row for part in new for row in part)], key=lambda row: row.id)


@contextmanager
def backend(
    benchmark: Benchmark,
    scorer: Scorer,
    job: Job,
    folder: JobDir,
    world: "World",
    loaded: LoadedModel,
    eyes: Eyes | None,
    *,
    sliced: bool,
) -> Iterator[Any]:
    """What the benchmark asks: `scorer`, or one over vLLM, for which this process's model leaves the GPU."""
    if getattr(benchmark, "backend", "transformers") == "transformers":
        yield scorer
        return
    from tunestudy.bench.backends.vllm import KEY, VllmScorer, served

    if sliced or world.size > 1:
        raise StudyError(at(KEY), "vllm runs in a single rank; set resources.ranks: 1, or leave `backend` out")
    what = served(job, folder)
    loaded.model.to("cpu")
    try:
        with closing(VllmScorer(what, loaded.tokenizer, eyes)) as other:
            yield other
    finally:
        loaded.model.to(world.device)


def evaluate_by_itself(
    name: str,
    wanted: Evaluation,
    job: Job,
    folder: JobDir,
    world: "World",
    loaded: LoadedModel,
    *,
    sliced: bool,
    advance: Advance,
) -> None:
    """A benchmark whose task reads, asks and counts by itself."""
    started = time.time()
    kind = task(wanted.benchmark.task)
    scorer = scorer_of(loaded, wanted.benchmark, world, sliced=sliced, eyes=None, advance=advance)

    def together(run: Callable[[list[Any]], list[Any]], items: list[Any]) -> list[Any]:
        if sliced or world.size == 1:
            return run(items)
        answered = run(items[world.rank :: world.size])
        advance.meet()
        parts = world.gather_objects(answered)
        return [parts[i % world.size][i // world.size] for i in range(len(items))]

    base = folder.root / job.base_dir
    found = kind.evaluate(Asking(name, wanted.benchmark, base, folder.study.cache, scorer, together))
    if world.rank > 0:
        return
    write_text(folder.predictions(name), as_lines(found.scored))
    told = summary(name, wanted, kind.VERSION, found.scored, time.time() - started, found.totals)
    write_json(folder.eval_json(name), {**told, **found.facts})


def as_lines(scored: Sequence[Scored]) -> str:
    """predictions.jsonl; half a character, which a judge's reply may hold, becomes a question mark."""
    text = "".join(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in scored)
    return text.encode("utf-8", "replace").decode()


def summary(
    name: str,
    wanted: Evaluation,
    version: int,
    scored: Sequence[Scored],
    duration_s: float,
    totals: Totals | None = None,
) -> dict[str, Any]:
    """The content of eval/<name>.json; `rows_sha256` tells whether two scores are of the same rows.

    duration_s: of the run that finished it, without what an interrupted one had answered before.
    """
    return {
        "benchmark": name,
        "type": wanted.benchmark.type,
        "version": version,
        "fingerprint": wanted.fingerprint,
        "dataset": wanted.benchmark.dataset,
        "n": len(scored),
        **(summary_of(wanted.benchmark, scored) if totals is None else asdict(totals)),
        "rows_sha256": hashlib.sha256("\n".join(row.id for row in scored).encode()).hexdigest(),
        "duration_s": round(duration_s, 3),
    }
