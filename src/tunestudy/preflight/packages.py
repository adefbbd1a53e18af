"""Python and packages: versions held against the lower bounds that tunestudy itself declares. Nothing is imported."""

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunestudy.config.benchmark import LmEval
from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.preflight.checks import needs_bitsandbytes
from tunestudy.preflight.points import Point, not_needed, ok, refused, warning

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?\s*>=\s*([0-9.]+)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_CUDA = re.compile(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)
MINIMUM_PYTHON = (3, 11)


@dataclass(frozen=True)
class Requirement:
    """A package that one of our extras asks for, and its oldest version."""

    name: str
    minimum: str
    extra: str | None


def requirements() -> list[Requirement]:
    """What the installed package declares; extras for development are left out."""
    found = []
    for text in importlib.metadata.requires("tunestudy") or ():
        match, extra = _REQUIREMENT.match(text), _EXTRA.search(text)
        if match and (extra is None or extra[1] != "dev"):
            found.append(Requirement(match[1], match[2], extra[1] if extra else None))
    return found


def extras_needed(study: Study, unfinished: Sequence[Job]) -> set[str]:
    """Extras of this Python without which the jobs that are still to do cannot run."""
    if not study.resources.uses_this_python:
        return set()
    extras = {"train"} if unfinished else set()
    for job in unfinished:
        settings = job.training
        if any(isinstance(one.benchmark, LmEval) for one in job.evaluations.values()):
            extras.add("lm-eval")
        if settings is None:
            continue
        if needs_bitsandbytes(job):
            extras.add("quant")
        if settings.world is not None:
            extras.add("world")
        if settings.engine == "deepspeed":
            extras.add("deepspeed")
        if settings.report_to:
            extras.add("trackers")
    return extras | ({"ray"} if unfinished and study.resources.executor == "ray" else set())


def python_point() -> Point:
    """Python's own version."""
    where, here = Path(sys.prefix), Path.cwd()
    told = f"{platform.python_version()} in {where.relative_to(here) if where.is_relative_to(here) else where}"
    if sys.version_info[:2] < MINIMUM_PYTHON:
        return refused("python", told, "use Python 3.11 or newer")
    return ok("python", told)


def package_points(extras: Collection[str], trackers: Collection[str] = ()) -> Iterator[Point]:
    """A point for the base and for each extra that is needed; of trackers those that are told of jobs are."""
    declared = requirements()
    for extra in [None, *sorted(extras)]:
        wanted = [one for one in declared if one.extra == extra]
        yield _extra_point(extra, [one for one in wanted if extra != "trackers" or one.name in trackers])


def _extra_point(extra: str | None, wanted: Sequence[Requirement]) -> Point:
    check, cure = "packages", "pip install tunestudy"
    if extra is not None:
        check, cure = f"packages: {extra}", f"pip install 'tunestudy[{extra}]'"
    there = {one.name: _version(one.name) for one in wanted}
    absent = [one.name for one in wanted if there[one.name] is None]
    old = [
        f"{one.name} {there[one.name]} (at least {one.minimum})"
        for one in wanted
        if (version := there[one.name]) is not None and numbers(version) < numbers(one.minimum)
    ]
    if absent or old:
        told = [f"missing: {', '.join(absent)}"] if absent else []
        return refused(check, "; ".join([*told, *([f"too old: {', '.join(old)}"] if old else [])]), f"{cure} --upgrade")
    main = ("torch", "transformers", "peft") if extra == "train" else tuple(there)[:4]
    return ok(check, ", ".join(f"{name} {there[name]}" for name in main if there.get(name)))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cu128` → (2, 13): for comparing with a lower bound. Zeros at the end say nothing."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    found = [int(part) for part in match[0].split(".")] if match else []
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def torchvision_point() -> Point:
    """Not needed; where it is there, it was found to be importable (`checks.torchvision_problems`)."""
    check = "torchvision"
    if importlib.util.find_spec("torchvision") is None:
        return not_needed(check, "not installed: images are decoded by Pillow")
    return ok(check, f"{_version('torchvision')} can be imported")


def attention_point(study: Study) -> Point:
    """flash-attn is asked for by `attn_implementation` alone."""
    check, wanted = "flash-attn", study.model.attn_implementation
    version = _version("flash-attn")
    if wanted != "flash_attention_2":
        return not_needed(
            check, f"attention is PyTorch's own ({wanted})" + (f"; {version} is there" if version else "")
        )
    if importlib.util.find_spec("flash_attn") is not None:
        return ok(check, f"{version}; `check --deep` imports it")
    cure = "leave model.attn_implementation out (sdpa is as exact), or pip install flash-attn --no-build-isolation"
    return refused(check, "model.attn_implementation asks for it, and it is not installed", cure)


def cuda_of_torch() -> str | None:
    """The CUDA version that the installed torch was built for; None for a build without it, or no torch."""
    spec = importlib.util.find_spec("torch")
    folders = spec.submodule_search_locations if spec else None
    file = Path(next(iter(folders))) / "version.py" if folders else None
    if file is None or not file.is_file():
        return None
    match = _CUDA.search(file.read_text(encoding="utf-8"))
    return match[1] if match else None


def torch_point(num_gpus: int | None) -> Point:
    """Whether the installed torch can use this machine's GPUs at all; None: jobs run elsewhere, or want none."""
    check, version, cuda = "torch build", _version("torch"), cuda_of_torch()
    if version is None:
        return refused(check, "torch is not installed", "pip install 'tunestudy[train]'")
    if num_gpus and cuda is None and "rocm" not in version:
        cure = "install the build for CUDA: https://pytorch.org/get-started/locally"
        return refused(check, f"{version} is for CPUs, and this machine has {num_gpus} GPUs", cure)
    if num_gpus == 0 and cuda:
        return warning(check, f"{version} (CUDA {cuda}), and no GPU is visible", "jobs would train on the CPU")
    return ok(check, f"{version}, for {f'CUDA {cuda}' if cuda else 'CPUs'}")
