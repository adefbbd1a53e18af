"""Which files of a repository a study needs: never the same weights twice in formats that nobody here reads."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import yaml

WHOLE = re.compile(r"(model|adapter_model|diffusion_pytorch_model)\.safetensors")
SHARD = re.compile(r"(model|diffusion_pytorch_model)-\d+-of-\d+\.safetensors")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".gguf", ".onnx")
DESCRIBING = re.compile(
    r".*\.(json|jinja|model|tiktoken|txt)|additional_chat_templates/.*\.jinja"
)  # of configuration, tokenizer and processor: in the root, and small
NOT_DESCRIBING = re.compile(
    r"(pytorch_model|flax_model|tf_model|consolidated).*|.*onnx.*|params\.json|requirements.*\.txt"
)
CARD = ("README.md", ".huggingface.yaml", "dataset_infos.json")
NO_DATA = re.compile(r"\..*|.*/\..*|LICENSE.*|.*\.(md|py|ipynb|gitattributes)|dataset_infos\.json")
DEFAULT = "default"


class NoFilesError(ValueError):
    """A repository lacks what is to be read of it; the message says what it has instead."""


def model_files(names: Sequence[str], parts: Iterable[str]) -> list[str]:
    """Of a model's repository. `parts` as in `records.locked.Named`. Raises NoFilesError."""
    chosen: set[str] = set()
    for part in parts:
        if part.endswith("/"):
            chosen |= _inside(names, part.lstrip("/"))
        elif part == "code":
            chosen |= {name for name in names if name.endswith(".py")}
        else:
            root = [name for name in names if "/" not in name or name.startswith("additional_chat_templates/")]
            chosen |= {name for name in root if DESCRIBING.fullmatch(name) and not NOT_DESCRIBING.fullmatch(name)}
            if part == "weights":
                chosen |= set(_weights(names, ""))
    return sorted(chosen)


def dataset_files(names: Sequence[str], subsets: Sequence[str], configs: Mapping[str, Any]) -> list[str]:
    """Of a data set's repository: its card and the files of these subsets, all splits. Raises NoFilesError.

    `configs`: what the card says of its subsets (`configs_of`); with at most one, all data are of that. A pattern such
    as `*.parquet` in place of a subset takes just the files that it matches, in all folders.
    """
    if patterns := [one for one in subsets if "*" in one]:
        matched = {name for name in names for pattern in patterns if fnmatchcase(name, pattern)}
        if not matched:
            raise NoFilesError(f"holds no {', '.join(patterns)}")
        others = [one for one in subsets if "*" not in one]
        return sorted({*matched, *(dataset_files(names, others, configs) if others else ())})
    data = [name for name in names if not NO_DATA.fullmatch(name)]
    if len(configs) > 1:
        wanted = [
            file for subset in subsets for files in subset_files(data, subset, configs).values() for file in files
        ]
        data = [name for name in data if name in set(wanted)]
    if not data:
        raise NoFilesError("holds no data files" + (", only a script, which `datasets` runs no more" * _script(names)))
    return sorted({*data, *(name for name in CARD if name in names)})


def subset_files(names: Sequence[str], subset: str, configs: Mapping[str, Any]) -> dict[str, list[str]]:
    """Files of each split of one subset, as the card's patterns choose them. Raises NoFilesError."""
    from datasets.data_files import sanitize_patterns

    config = configs.get(subset if subset != DEFAULT else default_subset(configs))
    if config is None:
        raise NoFilesError(f"has no subset `{subset}`; it has {', '.join(configs)}")
    base = str(config.get("data_dir") or "").strip("/")
    prefix = f"{base}/" if base else ""
    patterns = sanitize_patterns(config.get("data_files") or "**")
    found = {}
    for split, globs in patterns.items():
        matching = [regex for glob in globs for regex in (_regex(prefix + str(glob).removeprefix("./")),)]
        found[str(split)] = [name for name in names if any(regex.fullmatch(name) for regex in matching)]
    if not any(found.values()):
        raise NoFilesError(f"has no file of its subset `{subset}`")
    return found


def default_subset(configs: Mapping[str, Any]) -> str:
    """The subset that is read where none is named. NoFilesError where there is no such."""
    marked = [name for name, config in configs.items() if config.get("default")]
    if marked or DEFAULT in configs:
        return str(marked[0]) if marked else DEFAULT
    raise NoFilesError(f"has several subsets; name one of {', '.join(configs)} as `subset`")


def configs_of(card: str | None) -> dict[str, dict[str, Any]]:
    """Subset → options, as the head of a data set's README.md gives them; none without."""
    found = head_of(card or "").get("configs") or []
    return {str(one["config_name"]): dict(one) for one in found if isinstance(one, dict) and "config_name" in one}


def head_of(card: str) -> dict[str, Any]:
    """The YAML between the first two lines of `---`; empty where there is none that can be read."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}


def _weights(names: Sequence[str], prefix: str) -> list[str]:
    here = [name for name in names if name.startswith(prefix) and "/" not in name[len(prefix) :]]
    whole = [name for name in here if WHOLE.fullmatch(name[len(prefix) :])]
    if whole:
        return whole
    shards = [name for name in here if SHARD.fullmatch(name[len(prefix) :])]
    index = [name for name in here if name.endswith(".safetensors.index.json")]
    if shards and index:
        return [*shards, *index]
    pickled = sorted({PurePosixPath(name).suffix for name in here if name.endswith(PICKLED)})
    if pickled:
        raise NoFilesError(
            f"has weights as {', '.join(pickled)} alone, which are not loaded here; convert them to safetensors first"
        )
    raise NoFilesError("has no weights (model.safetensors, or its shards with their index)")


def _inside(names: Sequence[str], folder: str) -> set[str]:
    """A folder with a configuration and weights of its own, such as `vae/` of a pipeline."""
    config = f"{folder}config.json"
    if config not in names:
        raise NoFilesError(f"has no {config}")
    return {config, *_weights(names, folder)}


def _script(names: Sequence[str]) -> bool:
    return any(name.endswith(".py") for name in names)


def _regex(glob: str) -> re.Pattern[str]:
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(glob))
