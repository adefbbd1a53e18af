"""`tunestudy check`: the checklist of everything that a study needs, each point asked for, none believed.

What `run` refuses for (`checks.SOURCES`) is among it by construction; to each source that refuses nothing, and beside
them all, come points that `run` does not ask for. Everything is asked side by side.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.preflight import folders, gpus, inputs, neighbours, packages, trackers
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.checks import (
    SOURCES,
    fetched_datasets,
    is_drawn,
    needs_bitsandbytes,
    refusals,
    space_needed,
)
from tunestudy.preflight.hosts import PATIENCE_S as HOSTS_PATIENCE_S
from tunestudy.preflight.metrics import PATIENCE_S as METRICS_PATIENCE_S
from tunestudy.preflight.metrics import metric_points
from tunestudy.preflight.points import Point, answer, ask_all, not_needed, ok, refusal, some
from tunestudy.preflight.slurm import PATIENCE_S as SLURM_PATIENCE_S
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy

LONGER_S = {
    "hosts": HOSTS_PATIENCE_S + 10,
    "executor": 2 * SLURM_PATIENCE_S + 10,
    "torchvision": 60.0,
    "metrics": 2 * METRICS_PATIENCE_S + 10,
}
"""What is waited for longer, since `run` waits for it: a host, a controller, an import from a slow file server."""


def readiness(loaded: LoadedStudy, unfinished: Sequence[Job] | None, folder: StudyDir) -> list[Point]:
    """All points, in the order in which a study gets ready. Nothing is written but probes that are removed at once.

    `unfinished`: None where the study has no plan; then what does not depend on one is asked all the same.
    """
    asked = Asked(loaded, unfinished or (), folder, starts=unfinished is None or bool(unfinished), draws=True)
    probes = {name: partial(points_of, name, asked) for name in (*FURTHER, *SOURCES)}
    return ask_all(probes, longer_s=LONGER_S)


def points_of(name: str, asked: Asked) -> list[Point]:
    """What `run` would refuse under this name; where it is nothing, or other hosts are beside, the further points."""
    found = [_refused(name, error) for error in refusals(name, asked)] if name in SOURCES else []
    if name not in FURTHER:
        return found or [ok(name, "nothing stands in the way")]
    if found and name not in _BESIDE:
        return found
    return list(dict.fromkeys([*found, *answer(name, lambda: list(_further(name, asked)))]))


def _further(name: str, asked: Asked) -> Iterator[Point]:
    try:
        yield from FURTHER[name](asked)
    except StudyError as error:
        yield _refused(name, error)


def _refused(name: str, error: StudyError) -> Point:
    where = f"{error.place.key}: " if error.place.key else ""
    return refusal(name, where + error.message)


def _packages(asked: Asked) -> Iterator[Point]:
    extras = packages.extras_needed(asked.study, asked.unfinished)
    return packages.package_points(extras, trackers.stages_by_tracker(asked.unfinished))


def _torch(asked: Asked) -> Iterator[Point]:
    """The point of torch itself, and whether it suits the GPUs where they are this machine's."""
    if not asked.starts_here:
        yield not_needed("torch build", _why_not_here(asked))
    else:
        yield packages.torch_point(len(gpus.look().gpus) if asked.is_local and not gpus.are_hidden() else None)


def _gpus(asked: Asked) -> Iterable[Point]:
    if not asked.starts:
        return [not_needed("GPUs", inputs.NOTHING_TO_DO)]
    return gpus.gpu_points(asked.study, asked.unfinished)


def _torchvision(asked: Asked) -> Iterator[Point]:
    yield packages.torchvision_point() if asked.starts_here else not_needed("torchvision", _why_not_here(asked))


def _attention(asked: Asked) -> Iterator[Point]:
    yield packages.attention_point(asked.study) if asked.starts_here else not_needed("flash-attn", _why_not_here(asked))


def _why_not_here(asked: Asked) -> str:
    return f"jobs run with {asked.resources.slurm.python}" if asked.starts else inputs.NOTHING_TO_DO


def _parts(asked: Asked) -> Iterator[Point]:
    """bitsandbytes, diffusers, deepspeed and a compiler, where a stage asks for them."""
    if not asked.starts_here:
        yield not_needed("optional parts", _why_not_here(asked))
        return
    settings = [job.training for job in asked.unfinished if job.training is not None]
    wanted = {
        "bitsandbytes": any(map(needs_bitsandbytes, asked.unfinished)),
        "deepspeed": any(one.engine == "deepspeed" for one in settings),
        "diffusers": any(one.world is not None for one in settings),
        "a C++ compiler": any(one.torch_compile for one in settings),
    }
    there = [name for name in wanted if wanted[name]]
    absent = [name for name in wanted if not wanted[name]]
    if there:
        yield ok("optional parts", f"{', '.join(there)}: there")
    if absent:
        yield not_needed("other parts", f"no stage asks for {', '.join(absent)}")


def _room(asked: Asked) -> Iterator[Point]:
    present = folders.nearest_folder(asked.folder.root)
    yield folders.files_point(present)
    yield folders.quota_point(present, space_needed(asked))


def _images(asked: Asked) -> Iterator[Point]:
    named = fetched_datasets(asked.unfinished)
    drawn = sorted(name for name, one in named.items() if is_drawn(one))
    fetched = sorted(named.keys() - set(drawn))
    told = [f"{some(fetched)}: fetched"] * bool(fetched) + [f"{some(drawn)}: drawn here by `run`"] * bool(drawn)
    yield ok("images", "; ".join(told)) if named else not_needed("images", "none by URL")


def _lock(asked: Asked) -> Iterator[Point]:
    locking = asked.loaded.locking
    if locking is None or locking.lock is None or not locking.named:
        yield not_needed("lock", "none" if locking and locking.named else "the study names nothing of the hub")
    elif not asked.unfinished:
        yield not_needed("lock", inputs.NOTHING_TO_DO)
    else:
        yield ok("lock", f"{locking.path.name} holds all that is named, and its files are here")


def _env(asked: Asked) -> Iterator[Point]:
    yield ok("env", f"{len(asked.study.env)} variables in the study, no secrets among them")


FURTHER: Mapping[str, Callable[[Asked], Iterable[Point]]] = {
    "python": lambda _: [packages.python_point()],
    "packages": _packages,
    "torch build": _torch,
    "torchvision": _torchvision,
    "flash-attn": _attention,
    "optional parts": _parts,
    "GPUs": _gpus,
    "results folder": lambda asked: folders.folder_points(asked.folder.root, space_needed(asked)),
    "room": _room,
    "limits": lambda asked: folders.limit_points(asked.resources),
    "model": inputs.model_points,
    "data": lambda asked: inputs.data_points(asked.loaded),
    "images": _images,
    "lock": _lock,
    "hub": inputs.hub_points,
    "metrics": metric_points,
    "token": lambda asked: [inputs.token_point(asked.loaded)],
    "trackers": lambda asked: trackers.tracker_points(asked.unfinished, asked.study.env),
    "env": _env,
    "executor": neighbours.executor_points,
    "hosts": neighbours.host_points,
    "network": lambda asked: [neighbours.network_point(asked.folder, asked.resources)],
    "other runs": lambda asked: [neighbours.launcher_point(asked.folder)],
}
"""Points by name, in the order in which they are told; those of a source's name only where that refuses nothing."""
_BESIDE = ("hosts",)
"""Where some may be refused and others well."""
