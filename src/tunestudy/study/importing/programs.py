"""The programs whose configurations are read, and how a file shows which of them it is for."""

from typing import Any

from tunestudy.config.errors import StudyError, at
from tunestudy.study.importing import axolotl, llamafactory, swift, trl
from tunestudy.study.importing.reading import Given
from tunestudy.study.importing.rules import Program, Rule, idle, to
from tunestudy.study.nearest import did_you_mean

PROGRAMS: dict[str, Program] = {one.PROGRAM.name: one.PROGRAM for one in (llamafactory, swift, axolotl, trl)}

_OTHER_NAMES = {"llama-factory": "llamafactory", "llama_factory": "llamafactory", "swift": "ms-swift"}
_COMMANDS = {"swift": "ms-swift", "megatron": "ms-swift", "llamafactory-cli": "llamafactory", "lmf": "llamafactory"}
_COMMANDS |= {"axolotl": "axolotl", "trl": "trl"}

_RANKS = "ranks are started by `run`"
_VIDEO = "is for video or audio, which no stage trains on"
ENV: dict[str, Rule] = {
    **dict.fromkeys(
        [
            "NPROC_PER_NODE",
            "NNODES",
            "NODE_RANK",
            "MASTER_ADDR",
            "MASTER_PORT",
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "FORCE_TORCHRUN",
        ],
        idle(_RANKS),
    ),
    **dict.fromkeys(
        ["FPS_MAX_FRAMES", "VIDEO_MAX_PIXELS", "FPS", "VIDEO_MAX_TOKEN_NUM", "ENABLE_AUDIO_OUTPUT"], idle(_VIDEO)
    ),
    **dict.fromkeys(["USE_HF", "USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB"], idle("told with the data sets")),
    "CUDA_VISIBLE_DEVICES": idle("a study uses the GPUs that `run` sees, at most resources.gpus"),
    "MAX_PIXELS": to("model.image_processor.max_pixels"),
    "MIN_PIXELS": to("model.image_processor.min_pixels"),
    "DISABLE_VERSION_CHECK": idle("of that program alone"),
}
"""Variables of the environment; others go into the study's `env:`."""


def chosen(given: Given, wanted: str | None) -> tuple[Program, str]:
    """The program that a file is for, and what shows it. Raises StudyError where that cannot be told."""
    where = at("", file=str(given.path))
    _refuse_studies(given)
    if wanted is not None:
        name = _OTHER_NAMES.get(wanted.lower(), wanted.lower())
        if name not in PROGRAMS:
            raise StudyError("--from", f"there is no `{wanted}`; {did_you_mean(wanted, PROGRAMS)}")
        return PROGRAMS[name], "--from says so"
    if by_command := _COMMANDS.get(given.command.partition(" ")[0]):
        return PROGRAMS[by_command], f"the command `{given.command}`"
    alone = {name: keys for name in PROGRAMS if (keys := _alone(name, given.values))}
    if len(alone) == 1:
        ((name, keys),) = alone.items()
        others = _not_of(name, given.values)
        if len(others) < len(keys):
            return PROGRAMS[name], f"only it has {_some(keys)}"
        owners = " or ".join(
            PROGRAMS[other].title for other in PROGRAMS if any(PROGRAMS[other].rules.get(k) for k in others)
        )
        evidence = f"{PROGRAMS[name].title}: {_lines(keys, given)}; {owners}: {_lines(others, given)}"
        raise StudyError(where, f"has keys of several programs ({evidence}); say which it is for: --from NAME")
    counts = {name: sum(program.rule_of(key) is not None for key in given.values) for name, program in PROGRAMS.items()}
    best = max(counts.values(), default=0)
    if alone:
        evidence = "; ".join(f"{PROGRAMS[name].title}: {_lines(keys, given)}" for name, keys in alone.items())
        raise StudyError(where, f"has keys of several programs ({evidence}); say which it is for: --from NAME")
    first = [name for name, count in counts.items() if count == best]
    if best and len(first) == 1:
        return PROGRAMS[first[0]], f"it knows {best} of its {len(given.values)} keys, more than others do"
    raise StudyError(where, f"nothing shows which program it is for; say it: --from {' | '.join(PROGRAMS)}")


def _refuse_studies(given: Given) -> None:
    values: dict[str, Any] = given.values
    if "variants" in values and ("stages" in values or "study" in values):
        raise StudyError(at("", file=str(given.path)), "is a study file already; `tunestudy plan` shows it")
    if "distributed_type" in values or "compute_environment" in values:
        raise StudyError(
            at("", file=str(given.path)),
            "is accelerate's own configuration: import the training's, and give the number of GPUs with --gpus",
        )


def _alone(name: str, values: dict[str, Any]) -> list[str]:
    """Keys that only this program has."""
    others = [program for other, program in PROGRAMS.items() if other != name]
    return [
        key for key in values if key in PROGRAMS[name].rules and all(other.rule_of(key) is None for other in others)
    ]


def _not_of(name: str, values: dict[str, Any]) -> list[str]:
    """Keys that this program does not have, and another has."""
    others = [program for other, program in PROGRAMS.items() if other != name]
    return [
        key for key in values if PROGRAMS[name].rule_of(key) is None and any(key in other.rules for other in others)
    ]


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more of its keys" if len(keys) > 3 else "")


def _lines(keys: list[str], given: Given) -> str:
    return ", ".join(f"{key} (line {given.line_of(key)})" for key in keys[:3]) + (", …" if len(keys) > 3 else "")
