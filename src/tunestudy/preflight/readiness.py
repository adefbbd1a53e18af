"""`tunestudy check`: the checklist of everything that a study needs, each point asked for, none believed.

What `run` refuses for is among it, by the same functions (`checks.py`). Everything is asked side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.preflight import gpus, inputs, neighbours, packages
from tunestudy.preflight.checks import (
    bytes_needed,
    environment_problems,
    font_problems,
    image_problems,
    installation_problems,
    more_environment_problems,
    needs_bitsandbytes,
)
from tunestudy.preflight.folders import folder_points, limit_points
from tunestudy.preflight.points import Point, Probe, ask_all, not_needed, ok, refusal
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy


def readiness(loaded: LoadedStudy, unfinished: Sequence[Job], folder: StudyDir) -> list[Point]:
    """All points, in the order in which a study gets ready. Nothing is written but probes that are removed at once."""
    return ask_all(_probes(loaded, unfinished, folder), longer_s={"hosts": neighbours.HOSTS_PATIENCE_S})


def _probes(loaded: LoadedStudy, unfinished: Sequence[Job], folder: StudyDir) -> Mapping[str, Probe]:
    study, base = loaded.study, loaded.path.parent
    return {
        "python": lambda: [packages.python_point()],
        "packages": lambda: list(packages.package_points(packages.extras_needed(study, unfinished))),
        "torch build": lambda: [packages.torch_point(len(gpus.look().gpus))],
        "torchvision": lambda: [packages.torchvision_point()],
        "flash-attn": lambda: [packages.attention_point(study)],
        "optional parts": lambda: list(_parts(unfinished if study.resources.uses_this_python else ())),
        "GPUs": lambda: list(gpus.gpu_points(study, unfinished)),
        "results folder": lambda: list(folder_points(folder.root, bytes_needed(unfinished, base))),
        "limits": lambda: list(limit_points(study.resources)),
        "model": lambda: list(inputs.model_points(loaded)),
        "data": lambda: list(inputs.data_points(loaded)),
        "images": lambda: list(_images(unfinished, base, folder)),
        "hub": lambda: list(inputs.hub_points(loaded)),
        "tokens": lambda: list(inputs.token_points(loaded)),
        "env": lambda: list(_env(loaded)),
        "executor": lambda: list(neighbours.executor_points(study.resources)),
        "hosts": lambda: list(neighbours.host_points(loaded, folder)),
        "network": lambda: [neighbours.network_point(folder, study.resources)],
        "other runs": lambda: [neighbours.launcher_point(folder)],
    }


def _parts(unfinished: Sequence[Job]) -> Iterator[Point]:
    """bitsandbytes, diffusers, deepspeed, a compiler and fonts, where a stage asks for them."""
    # a broken torchvision and missing packages have points of their own
    found = [one for one in installation_problems(unfinished, torchvision=False) if one.place.key != "installation"]
    found += font_problems(unfinished)
    yield from (_refused("optional parts", error) for error in found)
    if not found:
        settings = [job.training for job in unfinished if job.training is not None]
        asked = {
            "bitsandbytes": any(map(needs_bitsandbytes, unfinished)),
            "deepspeed": any(one.engine == "deepspeed" for one in settings),
            "diffusers": any(one.world is not None for one in settings),
            "a C++ compiler": any(one.torch_compile for one in settings),
        }
        there = [name for name, wanted in asked.items() if wanted]
        absent = [name for name, wanted in asked.items() if not wanted]
        if there:
            yield ok("optional parts", f"{', '.join(there)}: there")
        if absent:
            yield not_needed("other parts", f"no stage asks for {', '.join(absent)}")


def _images(unfinished: Sequence[Job], base: Path, folder: StudyDir) -> Iterator[Point]:
    named = {
        name
        for job in unfinished
        for name, dataset in job.datasets.items()
        if getattr(dataset, "fetch", None) is not None
    }
    problems = list(image_problems(unfinished, base, folder))
    yield from (_refused("images", error) for error in problems)
    if not problems:
        yield ok("images", f"{', '.join(sorted(named))}: fetched") if named else not_needed("images", "none by URL")


def _env(loaded: LoadedStudy) -> Iterator[Point]:
    problems = [*environment_problems(loaded.study.env), *more_environment_problems(loaded.study.resources)]
    yield from (_refused("env", error) for error in problems)
    if not problems:
        yield ok("env", f"{len(loaded.study.env)} variables in the study, no secrets among them")


def _refused(check: str, error: StudyError) -> Point:
    where = f"{error.place.key}: " if error.place.key else ""
    return refusal(check, where + error.message)
