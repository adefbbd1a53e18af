"""The words after `tunestudy eval`, sorted: `--benchmarks a b c` leaves b and c among the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunestudy.config.errors import StudyError

if TYPE_CHECKING:
    from tunestudy.launch.without_study.evaluate_model import Wanted

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Asked:
    """What is to be evaluated."""

    study: Path | None
    """None: the model of `--model`."""
    overrides: tuple[str, ...]
    benchmarks: tuple[str, ...]
    options: Mapping[str, Any]
    num_gpus: int = 1

    def wanted(self, *, tiny: bool) -> "Wanted":
        """How a model without a study is scored."""
        from tunestudy.launch.without_study.evaluate_model import Wanted

        return Wanted(benchmarks=self.benchmarks, tiny=tiny, num_gpus=self.num_gpus, **self.options)


def sorted_out(
    words: Sequence[str], benchmarks: Sequence[str], *, model: str, options: Mapping[str, Any], num_gpus: int
) -> Asked:
    """With a model, all words are names of benchmarks; else one is the study file and those with `=` are overrides.

    Raises StudyError for what belongs to the other form.
    """
    if model:
        if wrong := next((word for word in words if "=" in word or _is_study(word)), None):
            cure = "leave it out, or leave --model out to evaluate a study"
            raise StudyError(COMMAND_LINE, f"`{wrong}` is no benchmark, and --model needs no study file; {cure}")
        return Asked(None, (), (*benchmarks, *words), options, num_gpus)
    files = [word for word in words if _is_study(word)] or [word for word in words if "=" not in word]
    if not files:
        raise StudyError(COMMAND_LINE, "give a study file, or --model PATH --benchmarks A B --output results.csv")
    given = [name for name, value in options.items() if value is not None] + ["num_gpus"] * (num_gpus > 1)
    if given:
        cure = (
            "set it in the study (`benchmarks:`, `datasets:`, `resources.ranks`), or on the command line as key=value"
        )
        raise StudyError(f"--{given[0]}", f"goes with --model; {cure}")
    rest = [word for word in words if word != files[0]]
    named = [word for word in rest if "=" not in word]
    if named and not benchmarks:
        raise StudyError(COMMAND_LINE, f"`{named[0]}` is no key.path=value; benchmarks are named after --benchmarks")
    names = tuple(name for text in (*benchmarks, *named) for name in text.split(",") if name)
    return Asked(Path(files[0]), tuple(word for word in rest if "=" in word), names, options, num_gpus)


def _is_study(word: str) -> bool:
    return "=" not in word and (word.endswith((".yaml", ".yml")) or Path(word).is_file())
