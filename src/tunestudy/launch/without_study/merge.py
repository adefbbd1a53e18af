"""`tunestudy merge … --output OUT`: folders merged without a study file.

A small study is written for it and run like any other: one variant whose only stage merges. What it publishes is then
put at OUT, in one step.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.run import run_study
from tunestudy.launch.torchrun import Command
from tunestudy.launch.without_study.found_model import FoundModel, find_model, seen_from
from tunestudy.launch.without_study.merge_words import Asked
from tunestudy.launch.without_study.written import study_text
from tunestudy.records.atomic import (
    is_disk_full,
    publish,
    read_json,
    read_object,
    remove_tree,
    temporary_beside,
    write_text,
)
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.manifest import problems, read_manifest, seal
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan
from tunestudy.study.problems import CombinedError, raise_all
from tunestudy.study.weights import folder_mistake, is_adapter

STAGE = "merged"
ADAPTER_CONFIG = "adapter_config.json"
LINKED = ".safetensors"
"""Files with this ending are linked where the file system can; all others are small, and are copied."""


def merge_models(asked: Asked, *, command: Command | None = None) -> Exit:
    """Merge and publish at `asked.output`, and print what the models have in common.

    Again with the same inputs: what is merged already is only put there. Raises StudyError for what cannot be merged,
    before anything is read but small files.
    """
    folders = _folders(asked)
    _check_output(asked.output, folders)
    found = _underlying(asked, folders)
    name = f"merge-{_digest([asked.settings, asked.entries, asked.seed, {k: str(v) for k, v in folders.items()}])}"
    study = StudyDir(asked.results / name)
    is_new = not study.root.exists()
    write_text(study.study_yaml, study_text(_study(name, asked, folders, found, study.root)))
    try:
        loaded = load_study(study.study_yaml)
    except StudyError as error:
        if is_new:
            remove_tree(study.root)
        raise _in_words_of_the_command(error) from None
    job = study.job(make_plan(loaded, asked.results).jobs[0].job.id)
    _forget_damaged(job)
    code = run_study(loaded, asked.results, quiet=asked.quiet, command=command, report=False)
    if code != Exit.DONE:
        return code
    try:
        put_at(job.model, asked.output)
    except OSError as error:
        full = isinstance(error, shutil.Error) or is_disk_full(error)  # of a copied tree, whose causes are words
        why = "the disk is full, or it cannot be written to" if full else error.strerror or str(error)
        message = f"`{asked.output}` could not be made: {why}; the merged result is whole at `{job.model}`"
        raise StudyError("--output", message, exit_code=Exit.PREFLIGHT_REFUSED) from error
    if not asked.quiet:
        print("\n".join([*report_lines(read_object(job.merge_report)), f"merged: {asked.output}"]))
    return code


def _forget_damaged(job: JobDir) -> None:
    """Let a result be made anew that is no more as it was published: who wrote to a linked output wrote to it, too."""
    if job.result_json.is_file() and problems(job.model):
        job.result_json.unlink()
        remove_tree(job.model)


def _folders(asked: Asked) -> dict[str, Path]:
    """Name → folder of the models and of the base, checked."""
    into_adapter = asked.settings.get("into") == "adapter"
    given = {"--base": asked.base} if asked.base is not None else {}
    mistakes = [
        StudyError(option, message)
        for option, written in given.items()
        if (message := folder_mistake(Path(written), written))
    ]
    mistakes += [
        StudyError(f"--models {name}", message)
        for name, written in asked.models.items()
        if (message := folder_mistake(Path(written), written, needs_adapter=into_adapter))
    ]
    raise_all(mistakes)
    folders = {name: Path(written).resolve() for name, written in asked.models.items()}
    if "base" in folders:
        raise StudyError("--models", "`base` is the name of what differences are taken to; call the model otherwise")
    if asked.base is not None:
        folders["base"] = Path(asked.base).resolve()
        if is_adapter(folders["base"]):
            raise StudyError("--base", f"`{asked.base}` is an adapter; give the model that it sits on")
    seen: dict[Path, str] = {}
    for name, folder in reversed(folders.items()):
        if folder in seen:
            what = "the base: its difference is empty" if "base" in (name, seen[folder]) else f"`{seen[folder]}`, too"
            raise StudyError(f"--models {name}", f"`{folder}` is {what}")
        seen[folder] = name
    return folders


def _check_output(output: Path, folders: dict[str, Path]) -> None:
    if output.is_file():
        raise StudyError("--output", f"`{output}` is a file; give a new folder")
    if output.is_dir() and any(output.iterdir()):
        raise StudyError("--output", f"`{output}` is there and not empty; give a new folder, or remove it first")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir():
        raise StudyError("--output", f"`{output}` cannot be made: `{above.name}` is a file; give another folder")
    if not os.access(above, os.W_OK):
        raise StudyError("--output", f"`{output}` cannot be made: nothing can be written in `{above}`")
    whole = output.resolve()
    for name, folder in folders.items():
        if whole.is_relative_to(folder) or folder.is_relative_to(whole):
            raise StudyError(
                "--output", f"`{output}` and what is merged (`{name}`) lie in one another; give another folder"
            )


def _underlying(asked: Asked, folders: dict[str, Path]) -> FoundModel:
    """The study's model: the base, or without one the first model, of an adapter what it sits on."""
    first = folders.get("base") or folders[next(iter(asked.models))]
    found = find_model(str(first))
    name = str(found.settings["model_name_or_path"]) if "model_name_or_path" in found.settings else "/"
    if is_adapter(first) and "/" not in name:
        cure = "write its path, as seen from the adapter's folder, into adapter_config.json"
        message = f"names `{name}` as its base, and no such folder lies in the adapter's; {cure}"
        raise StudyError(f"--models {next(iter(asked.models))}", message)
    kept = {key: value for key, value in found.settings.items() if key != "weights"}
    return replace(found, settings=kept)


def _study(name: str, asked: Asked, folders: dict[str, Path], found: FoundModel, root: Path) -> dict[str, Any]:
    """The study file's values; paths are relative to its folder, so that results name no place of this machine."""
    models = {one: {"path": seen_from(root, str(folders[one])), **asked.entries[one]} for one in asked.models}
    base = {"base": "model"} if asked.base is not None else {}
    return {
        "study": name,
        "description": f"{asked.settings['method']} of {', '.join(asked.models)}",
        "seeds": [asked.seed],
        "model": found.relative_to(root),
        "stages": {STAGE: {"type": "merge", **asked.settings, **base, "models": models}},
        "variants": {STAGE: {"stages": [STAGE]}},
        "resources": {"ranks": 1, "slots": 1},
    }


def put_at(model: Path, output: Path) -> None:
    """A published folder at another place, whole or not at all: weights as links where they can be, the rest copied.

    An adapter names its base by a path from its own folder; that is written anew, and so is the manifest.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    prepared = temporary_beside(output)
    remove_tree(prepared)
    try:
        shutil.copytree(model, prepared, copy_function=_linked, symlinks=True)
        if output.is_dir():
            output.rmdir()
        if _moves_its_base(model, output, prepared):
            facts = {key: value for key, value in (read_manifest(model) or {}).items() if key != "files"}
            seal(prepared, output, facts)
        else:
            publish(prepared, output)
    except BaseException:
        remove_tree(prepared)
        raise


def _linked(source: str, target: str) -> None:
    if source.endswith(LINKED):
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another file system, or one without links
    shutil.copy2(source, target)


def _moves_its_base(model: Path, output: Path, prepared: Path) -> bool:
    file = prepared / ADAPTER_CONFIG
    config = read_json(file) if file.is_file() else None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or Path(base).is_absolute() or not (near := (model / base).resolve()).is_dir():
        return False
    assert isinstance(config, dict)
    config["base_model_name_or_path"] = os.path.relpath(near, output.resolve())
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return True


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """What merge_report.json says, by role: how much of each difference is zero, and how alike differences are."""
    for role, facts in (report.get("roles") or {}).items():
        parts = [f"{facts['tensors']} tensors, {facts['parameters']:,} parameters"]
        for name, one in (facts.get("models") or {}).items():
            parts.append(f"{name}: {one['zero_share']:.1%} unchanged, moved by {one['relative_norm']:.2%}")
        parts += [f"cosine {pair.replace('|', '/')} {value:.3f}" for pair, value in (facts.get("cosine") or {}).items()]
        yield f"{role}: {'; '.join(parts)}"
    absent = report.get("absent") or {}
    if absent.get("tensors"):
        yield f"{absent['tensors']} tensors that the base lacks: {absent['policy']} ({', '.join(absent['names'])})"
    yield from (f"warning: {line}" for line in report.get("warnings") or ())


_WHERE = {"models": "--models", "base": "--base"}


def _in_words_of_the_command(error: StudyError) -> StudyError:
    """A mistake in the study file that was written, told of the option it comes from."""
    errors = error.errors if isinstance(error, CombinedError) else (error,)
    told = [StudyError(_option(one.place.key), one.message, exit_code=one.exit_code) for one in errors]
    return told[0] if len(told) == 1 else CombinedError(told)


def _option(key: str) -> str:
    """`stages.merged.models.en.density` → `--models en density`."""
    _, marker, inner = key.partition(f"stages.{STAGE}")
    parts = inner.strip(".").split(".") if marker and inner.strip(".") else []
    if not parts:
        return "merge"
    return " ".join([_WHERE.get(parts[0], f"--{parts[0]}"), *parts[1:]])


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
