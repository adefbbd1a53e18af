"""`tunestudy import-config`: the draft is checked by loading and planning it, written, and told about."""

from collections.abc import Iterator
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.records.atomic import temporary_beside, write_text
from tunestudy.study.importing.convert import Imported, Outcome, convert
from tunestudy.study.importing.draft import Draft
from tunestudy.study.importing.reading import read_given
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan
from tunestudy.study.problems import CombinedError

_NEEDED = ("model.model_name_or_path", "stages.tune.learning_rate", "stages.tune.data")
_MAX_ROUNDS = 60


def import_config(
    path: Path,
    arguments: list[str],
    *,
    program: str | None,
    output: Path,
    gpus: int | None,
    force: bool,
    strict: bool,
) -> Exit:
    """Read a configuration, write a study file and say what became of every key. Raises StudyError."""
    if output.exists() and not force:
        raise StudyError(at("", file=str(output)), "is already there; give another name with --output, or --force")
    if not output.parent.is_dir():
        raise StudyError(at("", file=str(output)), f"there is no folder `{output.parent}`")
    given = read_given(path, arguments)
    if output.exists() and output.samefile(path):
        raise StudyError(at("", file=str(output)), "is what is read; give another name with --output")
    made = convert(given, wanted=program, gpus=gpus, target=output.parent, name=_study_name(path))
    try:
        num_jobs = _settle(made, output, path)
        write_text(output, _finished(made, path))
    except OSError as error:
        raise StudyError(at("", file=str(output)), f"cannot be written: {error.strerror}") from None
    print("\n".join(lines_about(made, path, output, num_jobs)))
    return Exit.STUDY_WRONG if strict and made.of("impossible") else Exit.DONE


def _study_name(path: Path) -> str:
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in path.stem).lstrip("._-")
    return name if name.isascii() and name else "imported"


def _settle(made: Imported, output: Path, path: Path) -> int | None:
    """Take out what tunestudy refuses, as impossible, until the study loads and plans; the number of its jobs.

    None: data or a model that the file names are not there yet, so nothing can be planned.
    """
    for _ in range(_MAX_ROUNDS):
        mistakes, num_jobs = _tried(made.draft, output)
        missing = [error for error in mistakes if _is_absence(error)]
        if len(missing) == len(mistakes):
            made.told += [f"{error.place.key}: {error.message}" for error in missing]
            return None if missing else num_jobs
        _give_up(next(error for error in mistakes if error not in missing), made, path)
    raise AssertionError("what is refused was taken out, and still is refused")


def _tried(draft: Draft, output: Path) -> tuple[list[StudyError], int | None]:
    """Mistakes in a draft, and its number of jobs where there are none."""
    trial = temporary_beside(output)
    trial = trial.with_name(f"{trial.name}.yaml")
    write_text(trial, draft.text())
    try:
        loaded = load_study(trial)
        return [], len(make_plan(loaded, trial.with_name(f"{trial.name}.results")).jobs)
    except CombinedError as errors:
        return list(errors.errors), None
    except StudyError as error:
        return [error], None
    finally:
        trial.unlink()


def _is_absence(error: StudyError) -> bool:
    """Whether only a file or folder is not there."""
    absent = error.message.startswith(("there is no file", "there is no folder"))
    return absent and error.place.key.startswith(("datasets.", "model."))


def _give_up(error: StudyError, made: Imported, path: Path) -> None:
    """A setting that tunestudy refuses is taken out and told, with its words. Raises where a study needs it."""
    origins = None if error.place.key in _NEEDED else made.draft.take(error.place.key)
    if origins is None:
        name, _, number = made.draft.origin_of(error.place.key).partition(", line ")
        raise StudyError(
            at(name, file=str(path), line=int(number or 0)),
            f"the study that it makes is refused: {error.place.key}: {error.message}",
        )
    keys = [origin.partition(", line ")[0] for origin in origins]
    made.outcomes = [one for one in made.outcomes if one.key not in keys or one.fate == "impossible"]
    for key, origin in zip(keys, origins, strict=True):
        line = int(origin.partition(", line ")[2] or 0)
        made.outcomes.append(Outcome(key, line, "impossible", f"tunestudy refuses it: {error.message}"))


def _finished(made: Imported, path: Path) -> str:
    """The file's text, headed by where it is from and what is not in it."""
    header = [
        f"Made by `tunestudy import-config` from {path.name}, a configuration of {made.program.title}.",
        "Comments name the key and line that a setting came from. `tunestudy plan` shows what would run.",
    ]
    if left := made.of("impossible"):
        header += ["", "Not carried:", *(f"  {one.key}: {one.words}" for one in left)]
    made.draft.header = [line.replace("\n", " ") for line in header]
    return made.draft.text()


def lines_about(made: Imported, path: Path, output: Path, num_jobs: int | None) -> Iterator[str]:
    """What became of every key, for people."""
    yield f"{path}: {made.program.title} ({made.evidence})"
    counts = ", ".join(f"{len(made.of(fate))} {fate}" for fate in ("carried", "translated", "not needed", "impossible"))
    yield f"{len(made.outcomes)} keys: {counts}"
    if carried := made.of("carried"):
        yield f"carried: {', '.join(one.key for one in carried)}"
    if translated := made.of("translated"):
        yield "translated:"
        yield from (f"  {one.key}: {one.words}" for one in translated)
    if made.written_out:
        yield f"defaults of {made.program.title} that differ from tunestudy's, written out:"
        yield from (f"  {line}" for line in made.written_out)
    yield from _not_needed(made)
    if impossible := made.of("impossible"):
        yield "impossible:"
        yield from (f"  {f'line {one.line}: ' if one.line else ''}{one.key}: {one.words}" for one in impossible)
    if made.told:
        yield "look at:"
        yield from (f"  {line}" for line in dict.fromkeys(made.told))
    jobs = "" if num_jobs is None else f"; it plans: {num_jobs} job{'s' if num_jobs != 1 else ''}"
    yield f"wrote {output}{jobs}; next: tunestudy plan {output}"


def _not_needed(made: Imported) -> Iterator[str]:
    """Reasons with their keys: many keys share one."""
    by_reason: dict[str, list[str]] = {}
    for one in made.of("not needed"):
        by_reason.setdefault(one.words, []).append(one.key)
    if by_reason:
        yield "not needed:"
        yield from (f"  {', '.join(keys)}: {reason}" for reason, keys in by_reason.items())
