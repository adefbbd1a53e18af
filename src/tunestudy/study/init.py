"""`tunestudy init`: a few questions, and a commented study file that validates."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from tunestudy.config.errors import StudyError, at
from tunestudy.records.atomic import write_text
from tunestudy.study.adapter_options import KINDS
from tunestudy.study.load import load_study
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.problems import CombinedError, raise_all

Ask = Callable[[str, str], str]
"""(question, default) → answer."""


@dataclass(frozen=True)
class Answers:
    """What `init` asks; each field is a question with its default."""

    model: str = "Qwen/Qwen3-0.6B"
    data: str = "train.jsonl"
    adapters: str = "lora"
    """Kinds of adapters, each at every rank; none for full fine-tuning alone."""
    ranks: str = "8, 32"
    """Ranks of the adapters; none for full fine-tuning alone."""
    seeds: str = "1, 2, 3"
    gpus: str = "1"


_QUESTIONS = {
    "model": "Model to start from (a hub id or a folder)",
    "data": "Training data (json, jsonl, csv, parquet, or a hub id)",
    "adapters": f"Adapters to compare with full fine-tuning: any of {', '.join(KINDS)} (or `none`)",
    "ranks": "Their ranks (comma-separated, or `none`)",
    "seeds": "Seeds (three or more let the report say how sure it is)",
    "gpus": "GPUs per training job",
}


def write_new_study(path: Path, *, ask: bool) -> None:
    """Write a study file to `path` and say what to do next; asks on the terminal unless `ask` is False.

    Raises StudyError when the file exists, or the answers make no valid study (then nothing is left behind).
    """
    if path.exists():
        raise StudyError(at("", file=str(path)), "is already there; give another name, or delete it first")
    if not path.parent.is_dir():
        raise StudyError(at("", file=str(path)), f"there is no folder `{path.parent}`")
    answers = ask_all(_terminal) if ask else Answers()
    try:
        write_text(path, study_text(path.stem, answers))
    except OSError as error:
        raise StudyError(at("", file=str(path)), f"cannot be written: {error.strerror}") from None
    mistakes = [error for error in _mistakes(path) if error.place.key != "datasets.train.path"]
    if mistakes:
        path.unlink()
        raise_all(mistakes)
    data = path.parent / answers.data
    if _is_path(answers.data) and not data.exists():
        print(f"{path} is written; put your data at {data}, then: tunestudy plan {path}")
    else:
        print(f"{path} is written and valid; next: tunestudy plan {path}")


def _mistakes(path: Path) -> Sequence[StudyError]:
    try:
        load_study(path)
    except CombinedError as error:
        return error.errors
    except StudyError as error:
        return [error]
    return []


def ask_all(ask: Ask) -> Answers:
    """Every question in turn; an empty answer takes the default.

    An answer that cannot be is told at once: on a terminal the question comes again, else it raises StudyError.
    """
    return Answers(**{field.name: _answer(ask, field.name, str(field.default)) for field in fields(Answers)})


def _answer(ask: Ask, name: str, default: str) -> str:
    while True:
        answer = ask(_QUESTIONS[name], default).strip() or default
        try:
            _judge(name, answer)
        except StudyError as error:
            if not sys.stdin.isatty():
                raise
            print(error, file=sys.stderr)
        else:
            return answer


def _judge(name: str, answer: str) -> None:
    """Raises StudyError for what the study file could not say; models and data may come later."""
    if name == "adapters":
        _kinds(answer)
    elif name == "seeds":
        seeds = _numbers("seeds", answer)
        if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise StudyError("seeds", f"must be different numbers from 0 on, got `{answer}`")
    elif name == "gpus" or (name == "ranks" and answer.lower() not in _NONE):
        numbers = _numbers("GPUs" if name == "gpus" else name, answer)
        if not numbers or min(numbers) < 1:
            raise StudyError("GPUs" if name == "gpus" else name, f"must be at least 1, got `{answer}`")
        if name == "gpus" and len(numbers) > 1:
            raise StudyError("GPUs", f"must be one number, got `{answer}`")


def study_text(name: str, answers: Answers) -> str:
    """The study file for some answers."""
    kinds = _kinds(answers.adapters)
    ranks = _numbers("ranks", answers.ranks) if kinds and answers.ranks.lower() not in _NONE else []
    seeds = _numbers("seeds", answers.seeds)
    gpus = _numbers("GPUs", answers.gpus)
    return _TEMPLATE.format(
        name="".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).lstrip("._-")
        or "study",
        seeds=seeds,
        model=_quoted(answers.model),
        data_key="path" if _is_path(answers.data) else "name",
        data=_quoted(answers.data),
        adapters=_adapter_variants(kinds, ranks) if ranks else "",
        gpus=gpus[0] if gpus else 1,
    )


def _terminal(question: str, default: str) -> str:
    import typer

    try:
        return str(typer.prompt(question, default=default))
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        print()
        raise StudyError("init", "the answers ended before the questions; --yes takes every default") from None


def _is_path(data: str) -> bool:
    """A hub id has one slash and no file ending; everything else is a path."""
    endings = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
    return data.count("/") != 1 or data.startswith((".", "/", "~")) or data.endswith(endings) or Path(data).exists()


def _kinds(text: str) -> list[str]:
    kinds = [] if text.lower() in _NONE else text.lower().replace(",", " ").split()
    for kind in kinds:
        if kind not in KINDS:
            raise StudyError("adapters", f"there is no adapter `{kind}`; {did_you_mean(kind, KINDS)}")
    return list(dict.fromkeys(kinds))


def _adapter_variants(kinds: Sequence[str], ranks: Sequence[int]) -> str:
    """One matrix for adapters without gates, one for those with: only they have a sparsity."""
    gated = [kind for kind in kinds if "target_sparsity" in KINDS[kind].model_fields]
    plain = [kind for kind in kinds if kind not in gated]
    text = _PLAIN.format(kinds=", ".join(plain), ranks=ranks) if plain else ""
    return text + (_GATED.format(kinds=", ".join(gated), ranks=ranks) if gated else "")


def _numbers(what: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise StudyError(what, f"must be whole numbers with commas between, got `{text}`") from None


def _quoted(text: str) -> str:
    """As YAML reads it back, whatever is in it: a JSON string is one."""
    plain = all(letter.isalnum() or letter in "._-/" for letter in text) and text[:1].isalpha()
    return text if plain else json.dumps(text, ensure_ascii=False)


_NONE = ("none", "no", "-")

_PLAIN = """\
  "{{kind}}_r{{r}}":             # one variant for each combination in the matrix
    matrix: {{kind: [{kinds}], r: {ranks}}}
    stages: [tune]
    overrides:
      tune:
        learning_rate: 2e-4    # adapters want a higher rate than all weights
        adapter: {{type: "{{kind}}", lora_r: "{{r}}", lora_alpha: 32, target_modules: all-linear}}
"""

_GATED = """\
  "{{kind}}_r{{r}}_{{share}}":     # gates shut ranks until this share of them is gone
    matrix: {{kind: [{kinds}], r: {ranks}, share: [0.25, 0.5]}}
    stages: [tune]
    overrides:
      tune:
        learning_rate: 2e-4
        adapter: {{type: "{{kind}}", lora_r: "{{r}}", lora_alpha: 32, target_sparsity: "{{share}}", gate_init: ones}}
"""

_TEMPLATE = """\
# A study: what is compared with what, on which data, how often.
#   tunestudy plan FILE    what would run          tunestudy run FILE    runs it, or what is missing of it
# Your editor completes and checks the keys when given the output of `tunestudy schema`.

study: {name}                  # results go to results/{name}/
seeds: {seeds}

model:
  model_name_or_path: {model}
  dtype: bfloat16              # of frozen weights; what is trained is held in float32

datasets:
  train:
    {data_key}: {data}
    held_out: 0.05             # share kept from training, for the losses in the report

# benchmarks:                  # scored on rows that were never trained on
#   answers: {{type: exact_match, dataset: train@held_out}}

defaults:                      # settings of every stage
  effective_batch_size: 16     # samples per step whatever the hardware; accumulation is solved from it
  max_length: 1024
  num_train_epochs: 1
  lr_scheduler_type: cosine
  warmup_steps: 0.03           # below 1: a share of all steps
  bf16: true

stages:
  tune:
    data: train
    learning_rate: 2e-5

variants:                      # rows of the final table
  untouched:
    description: the model as it comes
    stages: []
  full:
    stages: [tune]
{adapters}
resources:
  ranks: {gpus}                     # GPUs per job

report:
  baseline: untouched
"""
