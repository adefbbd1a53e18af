"""The words after `tunestudy merge`.

    tunestudy merge --method dare_ties --base DIR --models en=DIR ko=DIR --weights en=0.6 ko=0.4 --density 0.1 \\
        --output OUT

Options take several words, and so do their foreign spellings (`--model_en DIR --lambda_en 0.6 --dare_drop_rate 0.9`),
which is why they are sorted here and not by the command line's own parser.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import MethodName
from tunestudy.study.nearest import did_you_mean

COMMAND_LINE = "command line"
_EACH = re.compile(r"--(model|lambda|weight|density)[_-]([^=]+)(?:=(.*))?", re.DOTALL)
"""`--model_en DIR`: an option that ends with the model's name."""
_OF_EACH = {"model": "--models", "lambda": "--weights", "weight": "--weights", "density": "--densities"}
_OTHER = {
    "--lambda": "--scale",
    "--model": "--models",
    "--weight": "--weights",
    "--output-dir": "--output",
    "--out": "--output",
    "--merge-method": "--method",
    "--base-model": "--base",
}


@dataclass(frozen=True)
class Asked:
    """What is to be merged, as settings of a merging stage but for its origins."""

    models: dict[str, str]
    """Name → folder."""
    base: str | None
    entries: dict[str, dict[str, float]]
    """Name → weight and density, where they are given."""
    settings: dict[str, Any]
    """Of the stage: method, compat, …"""
    output: Path
    seed: int = 0
    results: Path = Path("results")
    quiet: bool = False


def sorted_out(words: Sequence[str]) -> Asked:
    """What the words ask for. StudyError for words that mean nothing; `--help` prints and leaves."""
    given = vars(_parser().parse_args(_in_our_words(words)))
    method = given.pop("method").replace("-", "_")
    if method not in get_args(MethodName):
        raise StudyError("--method", f"there is no method `{method}`; {did_you_mean(method, get_args(MethodName))}")
    models = _models(given.pop("models"))
    weights = _by_model("--weights", given.pop("weights"), list(models), for_all=False)
    density, drop_rate = given.pop("density"), given.pop("dare_drop_rate")
    if density and drop_rate is not None:
        raise StudyError("--dare_drop_rate", "is 1 − density, which is given, too; keep one of the two")
    if drop_rate is not None:
        print(f"understood --dare_drop_rate: {drop_rate:g} → --density {round(1 - drop_rate, 12):g}", file=sys.stderr)
        density = [str(round(1 - drop_rate, 12))]
    densities = _by_model("--density", [*density, *given.pop("densities")], list(models), for_all=True)
    entries = {name: {} for name in models}  # type: dict[str, dict[str, float]]
    for option, values in (("weight", weights), ("density", densities)):
        for name, value in values.items():
            entries[name][option] = value
    apart = {key: given.pop(key) for key in ("output", "seed", "results", "quiet", "base")}
    settings = {"method": method} | {key: value for key, value in given.items() if value is not None}
    return Asked(models, apart.pop("base"), entries, settings, **apart)


class _Parser(argparse.ArgumentParser):
    """Mistakes are told as all others are."""

    def error(self, message: str) -> NoReturn:
        raise StudyError(COMMAND_LINE, f"{message}; `tunestudy merge --help` shows what there is")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tunestudy merge",
        description="Merge model folders or LoRA adapters into one, without a study file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--method", required=True, help=", ".join(get_args(MethodName)))
    add("--models", required=True, action="extend", nargs="+", metavar="NAME=DIR", help="what is merged, in order")
    add("--base", metavar="DIR", help="what differences are taken to; linear and slerp need none")
    add("--weights", action="extend", nargs="+", default=[], metavar="NAME=X", help="default: 1 each")
    add("--density", action="extend", nargs="+", default=[], metavar="X", help="share of each difference that is kept")
    add("--densities", action="extend", nargs="+", default=[], metavar="NAME=X", help="the same for single models")
    add("--dare_drop_rate", "--dare-drop-rate", type=_finite, metavar="X", help="1 − density")
    add("--compat", help="paper (default), mergekit or peft")
    add("--scale", type=_finite, help="what the merged difference is multiplied with")
    add("--normalize", action=argparse.BooleanOptionalAction, help="divide by the sum of the weights that took part")
    add("--t", type=_finite, help="of slerp: 0 is the first model, 1 the second")
    add("--absent", help="tensors that the base lacks: error (default), average, zero_base or take:NAME")
    add("--vocabulary", help="base (default) or union")
    add("--into", help="model (default) or adapter")
    add("--result_rank", "--result-rank", type=int, help="of --into adapter")
    add("--dtype", help="float32, bfloat16 or float16; default: each tensor's own in the base")
    add("--max_shard_size", "--max-shard-size", metavar="5GB", help="of a file of the result")
    add("--threads", type=int, help="default: one per core; they change no byte of the result")
    add("--seed", type=int, default=0, help="of what is chosen at random")
    add("--output", type=Path, required=True, metavar="OUT", help="a new folder")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where the job's folder goes")
    add("--quiet", action="store_true", help="print only what went wrong")
    return parser


def _in_our_words(words: Sequence[str]) -> list[str]:
    """Foreign spellings replaced, each told; `_` and `-` are one in options."""
    found: list[str] = []
    waiting: str | None = None
    for word in words:
        if waiting is not None:
            found, waiting = [*found, f"{waiting}={word}"], None
            continue
        each = _EACH.fullmatch(word)
        if each is not None and word.partition("=")[0] not in _known_options():
            option, name, value = each.groups()
            print(f"understood --{option}_{name} → {_OF_EACH[option]} {name}=…", file=sys.stderr)
            found.append(_OF_EACH[option])
            if value is None:
                waiting = name
            else:
                found.append(f"{name}={value}")
            continue
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        ours = _OTHER.get(option.replace("_", "-")) if word.startswith("--") else None
        if ours is not None:
            print(f"understood {option} → {ours}", file=sys.stderr)
        found.append(f"{ours or option}{equals}{value}")
    return [*found, *([waiting] if waiting else [])]


def _known_options() -> set[str]:
    return {string for action in _parser()._actions for string in action.option_strings}


def _models(words: Sequence[str]) -> dict[str, str]:
    models: dict[str, str] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not name or not folder:
            raise StudyError("--models", f"`{word}` must be NAME=DIR, e.g. en={word if not equals else 'DIR'}")
        if name in models:
            raise StudyError("--models", f"there are two models `{name}`; call one otherwise")
        models[name] = folder
    return models


def _by_model(option: str, words: Sequence[str], names: list[str], *, for_all: bool) -> dict[str, float]:
    """NAME=X, numbers in the order of the models, or one number for all of them."""
    plain = [word for word in words if "=" not in word]
    found: dict[str, float] = {}
    if plain and len(plain) not in ({1, len(names)} if for_all else {len(names)}):
        raise StudyError(option, f"gives {len(plain)} numbers for {len(names)} models; write NAME=X")
    if plain:
        numbers = plain * len(names) if len(plain) == 1 else plain
        found = {name: _number(option, number) for name, number in zip(names, numbers, strict=True)}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name not in names:
            raise StudyError(option, f"there is no model `{name}`; {did_you_mean(name, names)}")
        if equals:
            found[name] = _number(option, value)
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
    return number


def _number(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise StudyError(option, f"must be a number, got `{text}`") from None
    if not math.isfinite(number):
        raise StudyError(option, f"must be a finite number, got `{text}`")
    return number
