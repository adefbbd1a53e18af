"""Options of a merging stage that are no numbers, no sizes, or mean nothing to its method."""

from pathlib import Path
from typing import Any

import pytest

Folder = Any  # the class of conftest.py

STUDY = """\
study: two
seeds: [1]
model: {model_name_or_path: ./base}
stages:
  merged:
    type: merge
    method: METHOD
    base: model
    models: {en: {path: en}, ko: {path: ko}}
    OPTION
variants:
  only: {stages: [merged]}
"""
MISTAKES = {
    "a weight that is none": ("linear", "lambda_en: .nan", "must be a finite number"),
    "a role's weight that is none": ("linear", "weights: {en: .inf}", "must be a finite number"),
    "a scale that is none": ("task_arithmetic", "scale: .inf", "must be a finite number"),
    "a size that is none": ("linear", "max_shard_size: 5XB", "must be a whole number with B, KB, MB or GB"),
    "a policy that there is none of": ("linear", "absent: skip", "must be error, average, zero_base, or take:"),
    "scale of linear": ("linear", "scale: 2", "linear has the models' weights"),
    "scale of slerp": ("slerp", "scale: 2", "slerp has t"),
    "weights of slerp": ("slerp", "weights: [0.6, 0.4]", "slerp has no weights"),
    "slerp divided": ("slerp", "normalize: true", "divides by no weights"),
    "weights that cancel": ("linear", "weights: [1, -1]", "the weights sum up to 0, and linear divides"),
    "PEFT's division": ("task_arithmetic", "{normalize: true, compat: peft}", "PEFT's merges have no such option"),
    "slerp into an adapter": ("slerp", "into: adapter", "which no low rank holds"),
    "mergekit's adapters": ("linear", "{into: adapter, compat: mergekit}", "mergekit merges no adapters"),
    "PEFT's arithmetic": ("task_arithmetic", "{into: adapter, compat: peft}", "has no task_arithmetic"),
    "PEFT's ranks": ("linear", "{into: adapter, compat: peft, result_rank: 2}", "keeps the adapters' own rank"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_refused_by_the_plan(folder: Folder, name: str) -> None:
    method, option, message = MISTAKES[name]
    lines = "\n    ".join(option.strip("{}").split(", ")) if option.startswith("{") else option
    for model in ("base", "en", "ko"):
        _folder(folder.root / model, adapter="into: adapter" in lines and model != "base")
    told = folder.error(STUDY.replace("METHOD", method).replace("OPTION", lines))
    assert message in told, told
    assert "study.yaml:" in told and "Traceback" not in told and "pydantic" not in told


def _folder(path: Path, *, adapter: bool) -> None:
    path.mkdir()
    names = ("adapter_config.json", "adapter_model.safetensors") if adapter else ("config.json", "model.safetensors")
    for name in names:
        (path / name).write_text("{}")


def test_a_stages_result_has_no_revision(folder: Folder) -> None:
    given = STUDY.replace("METHOD", "task_arithmetic").replace("    OPTION\n", "")
    told = folder.error(given.replace("base: model", "base: {stage: model, base_revision: v1}"))
    assert "study.yaml:8: " in told and "base_revision is that of an adapter in `path`" in told
