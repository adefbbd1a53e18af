"""From a configuration of another program to a study file, with what became of every key.

Reads top to bottom: which program, whether it can be a study, key by key through the program's table, the program's
defaults where they differ from tunestudy's, and the check that the result loads and plans.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunestudy.config.errors import StudyError, at
from tunestudy.records.redact import is_secret_name
from tunestudy.study.importing.draft import ConflictError, Draft, is_default, shown, shown_path
from tunestudy.study.importing.programs import ENV, PROGRAMS, chosen
from tunestudy.study.importing.reading import BLOT, Given
from tunestudy.study.importing.rules import Entry, ImpossibleError, NotNeededError, Program, Rule, View
from tunestudy.study.nearest import nearest

Fate = Literal["carried", "translated", "not needed", "impossible"]


@dataclass(frozen=True)
class Outcome:
    """What became of one key."""

    key: str
    line: int
    fate: Fate
    words: str
    """What it became, or why it did not."""


@dataclass
class Imported:
    """A draft and everything there is to tell about it."""

    program: Program
    evidence: str
    gpus: int
    draft: Draft
    outcomes: list[Outcome] = field(default_factory=list)
    written_out: list[str] = field(default_factory=list)
    """Defaults of the program that differ from tunestudy's."""
    told: list[str] = field(default_factory=list)
    """What is done another way here, and what to look at."""

    def of(self, fate: Fate) -> list[Outcome]:
        return [one for one in self.outcomes if one.fate == fate]


SECRETS = frozenset(
    [
        "hub_token",
        "hf_token",
        "hf_hub_token",
        "ms_hub_token",
        "om_hub_token",
        "swanlab_api_key",
        "swanlab_token",
        "swanlab_secret",
        "swanlab_lark_secret",
        "swanlab_lark_webhook_url",
        "swanlab_webhook_url",
        "comet_api_key",
        "wandb_api_key",
        "push_to_hub_token",
    ]
)
_SECRET = "holds a secret, which no study file may: give it through the environment (HF_TOKEN, WANDB_API_KEY)"


def convert(given: Given, *, wanted: str | None, gpus: int | None, target: Path, name: str) -> Imported:
    """The draft of a study; `target`: the folder that it will lie in. Raises StudyError for what cannot be one."""
    program, evidence = chosen(given, wanted)
    keys = _flattened(given)
    view = View(
        program=program,
        given={key: value for key, value in keys.items() if value not in (None, "") and not _is_secret(key, value)},
        gpus=gpus or _gpus_of(given),
        home=given.path.parent,
        target=target,
    )
    if reason := program.refusal(view):
        raise StudyError(at("", file=str(given.path)), reason)
    made = Imported(program, evidence, view.gpus, Draft(name, []))
    for key, value in keys.items():
        made.outcomes.append(_judged(key, value, made, view, given))
    _write_defaults(made, view)
    _write_resources(made, view, asked=gpus is not None)
    _require(made, given)
    return made


def _flattened(given: Given) -> dict[str, Any]:
    """The file's keys, and variables of the environment as `env.NAME`."""
    env = {f"env.{key}": value for key, value in given.env.items()}
    if isinstance(of_file := given.values.get("env"), dict):
        env |= {f"env.{key}": value for key, value in of_file.items()}
    return {**({"command": given.command} if given.command else {}), **given.values, **env}


def _gpus_of(given: Given) -> int:
    """GPUs as far as the file tells; 1 where it does not."""
    texts = {"NPROC_PER_NODE": given.env.get("NPROC_PER_NODE"), "NNODES": given.env.get("NNODES", "1")}
    counts = {key: int(text) for key, text in texts.items() if text and text.isdigit()}
    if "NPROC_PER_NODE" in counts:
        return counts["NPROC_PER_NODE"] * counts.get("NNODES", 1)
    for key in ("num_processes", "nproc_per_node", "ray_num_workers"):
        if isinstance(given.values.get(key), int) and given.values[key] > 0:
            return int(given.values[key])
    visible = given.env.get("CUDA_VISIBLE_DEVICES", "")
    every = given.command.startswith(("llamafactory", "lmf"))  # it starts torchrun over what it sees
    return given.gpus or (len(visible.split(",")) if visible and every else 1)


def _is_secret(key: str, value: Any) -> bool:
    name = key.removeprefix("env.")
    by_name = name in SECRETS or (key != name and is_secret_name(name))
    return value not in (None, "", False) and (by_name or BLOT in str(value))


def _judged(key: str, value: Any, made: Imported, view: View, given: Given) -> Outcome:
    """What becomes of one key; the draft is written to."""
    line = given.line_of(key)
    if key == "command":
        return Outcome(key, 1, "not needed", f"{value}: `tunestudy run` starts a study")
    if _is_secret(key, value):
        return Outcome(key, line, "impossible", _SECRET)
    if value is None or value == "":
        return Outcome(key, line, "not needed", "left empty")
    rule = _env_rule(key) if key.startswith("env.") else view.program.rule_of(key)
    if rule is None:
        return Outcome(key, line, "impossible", _unknown(key, view.program))
    if isinstance(value, str) and "$" in value and given.path.suffix not in (".yaml", ".yml", ".json"):
        return Outcome(key, line, "impossible", f"{value} is computed by the shell; write what it comes to")
    try:
        written = rule(value, view)
    except NotNeededError as reason:
        return Outcome(key, line, "not needed", str(reason))
    except ImpossibleError as reason:
        return Outcome(key, line, "impossible", f"{_brief(value)}{reason}")
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        return Outcome(key, line, "impossible", f"{_brief(value)}is not of the kind that {view.program.title} takes")
    return _written(key, value, written, made, given)


def _written(key: str, value: Any, written: Mapping[str, Any], made: Imported, given: Given) -> Outcome:
    line = given.line_of(key)
    origin = f"{key}, line {line}" if key in given.lines else key
    for path, one in written.items():
        if path == "impossible":
            made.outcomes.append(Outcome(key, line, "impossible", one))
            continue
        if path in ("data", "eval_data"):
            _take_entries(path, one, origin, line, made)
            continue
        try:
            made.draft.put(path, one, origin)
        except ConflictError as conflict:
            return Outcome(key, line, "impossible", f"{_brief(value)}{conflict}; keep one of the two")
    same = list(written.values()) == [value] and next(iter(written)).rpartition(".")[2] == key
    return Outcome(key, line, "carried" if same else "translated", _became(value, written))


def _take_entries(path: str, entries: tuple[Entry, ...], origin: str, line: int, made: Imported) -> None:
    (made.draft.data if path == "data" else made.draft.eval_data).extend((entry, origin) for entry in entries)
    for entry in entries:
        made.told += [f"datasets.{entry.name}: {words}" for words in entry.told]
        made.outcomes += [Outcome(key, line, "impossible", words) for key, words in entry.impossible]


def _became(value: Any, written: Mapping[str, Any]) -> str:
    """`value → key: value, …` for people."""
    parts = [
        f"{path}: [{', '.join(entry.name for entry in one)}]"
        if path in ("data", "eval_data")
        else f"{shown_path(path)}: {shown(one)}"
        for path, one in written.items()
        if path != "impossible"
    ]
    return f"{_brief(value).removesuffix(': ')} → {', '.join(parts) or 'nothing to write, it is the default'}"


def _brief(value: Any) -> str:
    """A value in front of words about it; long ones are cut."""
    text = shown(value)
    return (text if len(text) <= 60 else f"{text[:57]}…") + ": "


def _env_rule(key: str) -> Rule:
    name = key.removeprefix("env.")
    return ENV.get(name, lambda value, _view: {key: str(value)})


def _unknown(key: str, program: Program) -> str:
    """An unknown key, with the nearest that there is, or the program that has it."""
    others = [other for other in PROGRAMS.values() if other is not program and key in other.rules]
    close = nearest(key, program.rules)
    if close and not others:
        return f"{program.title} has no such key; did you mean `{close}`?"
    hint = f"; nearest is `{close}`" if close else ""
    owners = f"; it is {' and '.join(one.title for one in others)}'s" if others else ""
    return f"{program.title} has no such key{owners}{hint}"


def _write_defaults(made: Imported, view: View) -> None:
    """The program's own defaults and habits, where a study that is silent would do otherwise."""
    for key in made.program.defaults:
        rule = made.program.rule_of(key)
        if key in view.given or rule is None:
            continue
        for path, one in _of_default(key, rule, view):
            taken = path in made.draft.settings or path in ("data", "eval_data", "impossible")
            if not taken and not is_default(path, one):
                made.draft.put(path, one, f"{made.program.title}'s default of {key}")
                made.written_out.append(f"{shown_path(path)}: {shown(one)} ({key})")
    for path, (value, why) in made.program.habits.items():
        if path not in made.draft.settings:
            made.draft.put(path, value, f"{made.program.title} {why}")
            made.written_out.append(f"{shown_path(path)}: {shown(value)} ({made.program.title} {why})")


def _of_default(key: str, rule: Rule, view: View) -> Iterator[tuple[str, Any]]:
    """What a default writes; nothing where it follows from a key whose value is told to be impossible."""
    try:
        value = view[key]
        written = {} if value is None else rule(value, view)
    except (NotNeededError, ImpossibleError, TypeError, ValueError, ArithmeticError):
        return
    yield from written.items()


def _write_resources(made: Imported, view: View, *, asked: bool) -> None:
    told = (
        "--gpus" if asked else "as the file tells" if view.gpus > 1 else "nothing tells; --gpus N says another number"
    )
    made.draft.put("resources.ranks", view.gpus, f"GPUs: {told}")
    sizes = made.draft.settings.get("stage.effective_batch_size")
    if sizes is not None:
        gpus = f"{view.gpus} GPU{'s' if view.gpus > 1 else ''}"
        made.told.append(f"stages.tune.effective_batch_size: {sizes.value}, with {gpus} ({told})")
    made.told += [*made.program.notes(view), *_head_words(made)]
    if "save_total_limit" not in view.given and made.program.name != "axolotl":
        made.told.append(
            f"{made.program.title} keeps every checkpoint; save_total_limit keeps the last 2 here, and the best"
        )


def _head_words(made: Imported) -> Iterator[str]:
    """An output head of its own is a role of its own here, and elsewhere a part of the language model."""
    train = made.draft.settings.get("stage.train")
    if train is not None and "language_model" in train.value and "lm_head" not in train.value:
        yield (
            f"stages.tune.train: {made.program.title} trains the output head with the language model; here "
            "`language_model` holds it only where it shares the embedding's weight (tie_word_embeddings): add "
            "`lm_head` where it does not"
        )


def _require(made: Imported, given: Given) -> None:
    """A study without a model or without data is none."""
    where = at("", file=str(given.path))
    reasons = {one.key: one.words for one in made.of("impossible")}
    for path, keys in (("model.model_name_or_path", _MODEL), ("data", _DATA)):
        if path in made.draft.settings or (path == "data" and made.draft.data):
            continue
        why = next((f"`{key}`: {reasons[key]}" for key in keys if key in reasons), "")
        known = next((key for key in keys if key in made.program.rules), keys[0])
        what = "a model" if path != "data" else "data to train on"
        raise StudyError(
            where, f"names no {what.removeprefix('a ')} that a study can have: {why or f'`{known}` is missing'}"
        )


_MODEL = ("model_name_or_path", "base_model", "model")
_DATA = ("dataset", "dataset_name", "datasets", "dataset_mixture", "pretraining_dataset", "cached_dataset")
