"""Whether this machine and this folder can carry a plan out. All that stands in the way is told together."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from tunestudy.config.data import Dataset, SynthDataset
from tunestudy.config.deepspeed import INSTALL
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.fonts import NO_HANGUL, candidates
from tunestudy.config.job import Job
from tunestudy.config.merge import MergeStage
from tunestudy.config.paths import located
from tunestudy.config.ranks import is_of_ranks
from tunestudy.config.resources import Resources
from tunestudy.config.world import INSTALL_WORLD
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.inputs import hub_point, is_cached
from tunestudy.preflight.metrics import metric_problems
from tunestudy.preflight.slurm import slurm_problems
from tunestudy.preflight.trackers import tracker_problems
from tunestudy.records.fetched import FetchDir, fetch_key, files_of, what_is_missing
from tunestudy.records.hub_cache import hub_cache
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import problems
from tunestudy.records.redact import is_secret_name
from tunestudy.records.space import bytes_text
from tunestudy.study.load import LoadedStudy
from tunestudy.study.problems import raise_all

_NEEDED = ("torch", "transformers", "peft", "safetensors", "accelerate", "datasets")
_OURS_BEGIN = "TUNESTUDY_"
_SHOWN_FILES = 3
_ASSIGNED = re.compile(r"""\b([A-Za-z_]\w*)=(?=["']?([^\s,]+))""")
"""Name and value; what an assignment holds is looked at in its turn, as in `--export=NAME=value`."""
_RESERVE_BYTES = 200 * 2**20
"""Logs, tokenised data and predictions of a small study."""


def check(loaded: LoadedStudy, unfinished: Sequence[Job], study: StudyDir, *, starts: bool | None = None) -> None:
    """Raise StudyError (StudyErrors for several) with exit code 3 for everything that would make a run fail.

    `starts`: whether the worker is started; default: where jobs are unfinished. Nothing is written but a probe in the
    results folder, which is removed at once.
    """
    asked = Asked(loaded, unfinished, study, bool(unfinished) if starts is None else starts)
    raise_all([_refusal(loaded, error) for name in SOURCES for error in refusals(name, asked)])


def refusals(name: str, asked: Asked) -> list[StudyError]:
    """What the source of that name refuses; all of them, also where it comes upon one that ends its looking."""
    found: list[StudyError] = []
    try:
        found.extend(SOURCES[name](asked))  # keeps what came before an error
    except StudyError as error:
        found.append(error)
    except OSError as error:
        where = str(error.filename or name)
        found.append(StudyError(where, f"cannot be looked at: {error.strerror or error}; mend its rights, or the disk"))
    return found


def environment_problems(env: Mapping[str, str], key: str = "env") -> Iterator[StudyError]:
    """Variables of the study's `env:`, or of another `key`, that must not stand there."""
    for name in env:
        where = at(f"{key}.{name}")
        if is_secret_name(name):
            yield StudyError(where, f"secrets do not belong in a study file; `export {name}=…` before the run")
        elif name == "CUDA_VISIBLE_DEVICES":
            yield StudyError(
                where, "every job would get the same GPUs; set it before `tunestudy run`, which deals them out"
            )
        elif is_of_ranks(name) or name.startswith(_OURS_BEGIN):
            yield StudyError(where, "is set for every rank by the launcher; remove it")


def more_environment_problems(resources: Resources) -> Iterator[StudyError]:
    """The same of what is set on clusters' machines: sbatch files and journals stand in the results, too."""
    yield from environment_problems(resources.ray.runtime_env, "resources.ray.runtime_env")
    lines = {"prologue": resources.slurm.prologue, "sbatch": resources.slurm.sbatch, "wrap": (resources.slurm.wrap,)}
    for key, told in lines.items():
        for name, value in (found for line in told for found in _ASSIGNED.findall(line)):
            if is_secret_name(name) and not value.startswith("$"):
                cure = f"`export {name}=…` before the run, which sbatch passes on"
                yield StudyError(at(f"resources.slurm.{key}"), f"secrets do not belong in a study file; {cure}")


def package_problems(asked: Asked) -> Iterator[StudyError]:
    """Packages that every job imports and this Python lacks; nothing is imported."""
    missing = [name for name in _NEEDED if asked.starts_here and importlib.util.find_spec(name) is None]
    if missing:
        cure = "pip install 'tunestudy[train]'"
        yield StudyError("installation", f"training needs {', '.join(missing)}, not installed here; {cure}")


def torchvision_problems(asked: Asked) -> Iterator[StudyError]:
    """One that is there and broken, which transformers relies on all the same."""
    if asked.unfinished and asked.starts_here and (broken := broken_torchvision()):
        cure = "uninstall it (nothing here needs it) or install the build for this torch"
        told = f"torchvision is there but cannot be imported, and transformers relies on it then: {broken}; {cure}"
        yield StudyError("installation", told)


def part_problems(asked: Asked) -> Iterator[StudyError]:
    """What only some stages need, and this machine lacks: nothing is imported."""
    if not asked.starts_here:
        return
    for job in asked.unfinished:
        what = needs_bitsandbytes(job)
        if what and importlib.util.find_spec("bitsandbytes") is None:
            yield StudyError(f"stages.{job.stage}.{what}", "needs bitsandbytes: pip install 'tunestudy[quant]'")
            break
    training = [(job.stage, job.training) for job in asked.unfinished if job.training is not None]
    world = next((stage for stage, one in training if one.world is not None), None)
    if world is not None and importlib.util.find_spec("diffusers") is None:
        yield StudyError(f"stages.{world}.world", f"needs diffusers: {INSTALL_WORLD}")
    sharing = next((stage for stage, one in training if one.engine == "deepspeed"), None)
    if sharing is not None and importlib.util.find_spec("deepspeed") is None:
        yield StudyError(f"stages.{sharing}.engine", f"needs deepspeed: {INSTALL}")
    compiled = next((stage for stage, one in training if one.torch_compile), None)
    if compiled is not None and shutil.which(os.environ.get("CXX", "c++")) is None:
        yield StudyError(f"stages.{compiled}.torch_compile", "needs a C++ compiler: apt-get install g++")
    yield from font_problems(asked.unfinished)


def broken_torchvision() -> str | None:
    """What importing an installed torchvision says; None where it works or is not there. Takes seconds."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    lines = tried.stderr.strip().splitlines()
    return None if tried.returncode == 0 else (lines[-1] if lines else f"exit code {tried.returncode}")


def font_problems(unfinished: Sequence[Job]) -> Iterator[StudyError]:
    """Korean that is to be drawn on a machine without a font for it."""
    drawn = {
        name: dataset
        for job in unfinished
        for name, dataset in job.datasets.items()
        if isinstance(dataset, SynthDataset) and dataset.draws_text and dataset.font is None
    }
    for name, dataset in drawn.items():
        if "ko" in dataset.languages and next(candidates("ko"), None) is None:
            yield StudyError(f"datasets.{name}.language", NO_HANGUL)


def locked_problems(loaded: LoadedStudy) -> Iterator[StudyError]:
    """What the lock lacks of what the study names, and what this machine lacks of what is locked; by size alone."""
    locking = loaded.locking
    if locking is None or locking.lock is None:
        return
    fetch = f"`tunestudy fetch {loaded.typed}`"
    for named in locking.missing:
        others = [str(item) for item in locking.lock.items if (item.kind, item.id) == (named.kind, named.id)]
        held = f", only {' and '.join(others)}" if others and str(named) not in others else ""
        yield StudyError(locking.path.name, f"does not hold {named.kind} {named}{held}; first {fetch}")
    cache = hub_cache({**os.environ, **loaded.study.env})
    for named in locking.named:
        wrong = problems(locking.lock, cache, [named])
        if wrong:
            first = "; ".join(str(one) for one in wrong[:_SHOWN_FILES])
            more = f" and {len(wrong) - _SHOWN_FILES} files more" if len(wrong) > _SHOWN_FILES else ""
            yield StudyError(locking.path.name, f"{first}{more} in {cache}; {fetch} brings just what is wrong")


def model_problems(loaded: LoadedStudy) -> Iterator[StudyError]:
    """A model of the hub that is neither here nor to be had: every job would try, and fail, by itself."""
    locking = loaded.locking
    if locking is None or locking.lock is not None:  # what is locked has been looked at
        return
    cache = hub_cache({**os.environ, **loaded.study.env})
    key = "model.model_name_or_path"
    mine = [one for one in locking.named if (one.kind, one.id) == ("model", loaded.study.model.model_name_or_path)]
    missing = [one for one in mine if not is_cached(one, None, cache)]
    if missing and (point := hub_point(missing, cache)).state == "refused":
        yield StudyError(replace(loaded.locate(key), key=key), f"{point.found}; {point.remedy}")


def image_problems(asked: Asked) -> Iterator[StudyError]:
    """Data sets whose images have not been fetched yet: a job would find out only when it reads them."""
    for name, dataset in fetched_datasets(asked.unfinished).items():
        if asked.draws and is_drawn(dataset):
            continue
        key = fetch_key(dataset, files_of(dataset, asked.base))
        if missing := what_is_missing(dataset, FetchDir(asked.folder.fetch / key)):
            yield StudyError(f"datasets.{name}", missing)


def fetched_datasets(unfinished: Sequence[Job]) -> dict[str, Dataset]:
    """Those of the jobs whose images are named by URL."""
    datasets = {name: dataset for job in unfinished for name, dataset in job.datasets.items()}
    return {name: one for name, one in datasets.items() if getattr(one, "fetch", None) is not None}


def is_drawn(dataset: Dataset) -> bool:
    """Whether `run` makes the data set's images here, before it asks for anything."""
    return getattr(dataset, "drawn", None) is not None


def host_problems(asked: Asked) -> Iterator[StudyError]:
    """Everything that keeps the hosts from working together, in the hostfile's order."""
    for host, _, found in asked.hosts if asked.is_spread else ():
        yield from (StudyError(f"host {host.name}", difference.message) for difference in found)


def needs_bitsandbytes(job: Job) -> str | None:
    """The key of the stage that asks for it, if any."""
    if job.training is None:
        return None
    if job.training.quantization is not None:
        return "quantization"
    return "optim" if "8bit" in job.training.optim or "paged" in job.training.optim else None


def folder_problems(root: Path, needed: int) -> Iterator[StudyError]:
    """Whether `root` can be made and written, and its file system has `needed` bytes."""
    present = next(folder for folder in (root, *root.absolute().parents) if os.path.lexists(folder))
    if not present.is_dir():
        yield StudyError(str(root), f"{present} is a file, not a folder; move it or use --results")
        return
    if not _is_writable(present):
        yield StudyError(str(root), f"{present} is not writable for this user; choose another folder with --results")
        return
    free = psutil.disk_usage(str(present)).free
    if free < needed:
        told = f"about {bytes_text(needed)} are needed, {bytes_text(free)} are free"
        message = f"{told}; make room (`tunestudy clean`) or use --results"
        yield StudyError(str(root), message)


def bytes_needed(jobs: Sequence[Job], base: Path) -> int:
    """A lower estimate of what jobs add to the disk: published full models and the checkpoints of one job at a time.

    Sizes are known for models in local folders only; adapters are small beside the reserve.
    """
    published, largest = 0, 0
    for job in jobs:
        settings, name = job.training, job.model.model_name_or_path
        if job.merging is not None:
            published += _merged_bytes(job.merging, name, base)
            continue
        if settings is None or name is None or settings.adapter is not None or settings.world is not None:
            continue
        weights = _weights_bytes(located(base, name))
        published += weights
        with_optimiser = 3 * weights if settings.writes_full else weights
        largest = max(largest, with_optimiser * (settings.save_total_limit + 1))
    return _RESERVE_BYTES + published + largest


def _merged_bytes(stage: MergeStage, name: str | None, base: Path) -> int:
    """Of a merged model: as many as the base has, or the first model without one; a stage's is the study's in size."""
    if stage.into == "adapter":
        return 0
    first = next(iter(stage.inputs.values()))
    folder = first.path if first.path is not None else name
    return _weights_bytes(located(base, folder)) if folder is not None else 0


def _weights_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _is_writable(folder: Path) -> bool:
    """By trying: permission bits say little about network file systems and read-only mounts."""
    probe = folder / f".tmp-probe-{os.getpid()}"
    try:
        probe.touch()
    except OSError:
        return False
    probe.unlink(missing_ok=True)  # a process of that number on another host may do the same
    return True


def space_needed(asked: Asked) -> int:
    """Bytes that are still to come; none where nothing is to do."""
    return bytes_needed(asked.unfinished, asked.base) if asked.starts else 0


def _refusal(loaded: LoadedStudy, error: StudyError) -> StudyError:
    key = error.place.key
    place = loaded.locate(key) if key.startswith(("env.", "resources.")) else error.place
    return StudyError(replace(place, key=key), error.message, exit_code=Exit.PREFLIGHT_REFUSED)


SOURCES: Mapping[str, Callable[[Asked], Iterable[StudyError]]] = {
    "packages": package_problems,
    "torchvision": torchvision_problems,
    "optional parts": part_problems,
    "results folder": lambda asked: folder_problems(asked.folder.root, space_needed(asked)),
    "images": image_problems,
    "lock": lambda asked: locked_problems(asked.loaded) if asked.unfinished else (),
    "hub": lambda asked: model_problems(asked.loaded) if asked.unfinished and asked.is_local else (),
    "metrics": lambda asked: metric_problems(asked) if asked.unfinished else (),
    "trackers": lambda asked: tracker_problems(
        asked.unfinished, asked.study.env, here=asked.resources.uses_this_python
    ),
    "env": lambda asked: (*environment_problems(asked.study.env), *more_environment_problems(asked.resources)),
    "executor": lambda asked: slurm_problems(asked.resources),
    "hosts": host_problems,
}
"""Everything that `run` refuses for, by the point of `check` that tells it: what stands here is asked by both."""
