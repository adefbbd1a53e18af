"""The editor's schema says yes to what validates and no to what does not."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.base import Config
from tunestudy.config.stage import TrainStage
from tunestudy.study.schema import study_schema
from tunestudy.study.source import read_source

Folder = Any
the_schema = cache(study_schema)
STUDIES = Path(__file__).parents[2] / "studies"


MERGE = "{type: merge, method: ties, base: base, models: {a: {stage: base, density: 0.5}, b: {path: m, density: 1}}}"


def says_yes(path: Path) -> bool:
    schema = the_schema()
    return accepts(schema, read_source(path).values, schema)


@pytest.mark.parametrize("name", sorted(path.name for path in STUDIES.glob("*.yaml")))
def test_accepts_the_studies_that_ship(name: str) -> None:
    assert says_yes(STUDIES / name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data: upright,", "data: [upright, {dataset: rotated, weight: 2}],"),
        ("{type: digits, held_out: 0.2}", "{path: train.jsonl}"),
        ("{type: digits, held_out: 0.2}", "{name: org/data, split: train}"),
        ("{type: digits, held_out: 0.2}", "{type: synth, kind: chart, count: 9, tasks: [argmax], language: both}"),
        ("{type: digits, held_out: 0.2}", "{type: datacomp, path: meta, num_samples: 9, fetch: {min_side: 8}}"),
        ("{type: digits, held_out: 0.2}", "{type: datacomp, name: a/b, revision: c}"),
        ("{type: digits, held_out: 0.2}", "{type: datacomp, drawn: {count: 9}}"),
        ("{type: digits, held_out: 0.2}", "{path: train.jsonl, fetch: {}}"),
        ("full: {stages", "full: {from: untrained@base, priority: 2, intends: [steps], stages"),
        ("adapt.adapter.lora_r:", "adapt: {learning_rate: '{r}', adapter: {lora_r: '{r}'}}  #"),
        ("defaults:\n", "defaults:\n  report_to: tensorboard\n  max_grad_norm: null\n"),
        ("defaults:\n", "trackers: {project: p, tags: [a]}\ndefaults:\n  report_to: [wandb, trackio]\n"),
        ("defaults:\n", "alerts: {command: x}\nexpect: {train_loss: {below: 2}, grad_norm: [{below: 9}]}\ndefaults:\n"),
        ("  base: {data: upright, max_steps: 300}", "  base:"),
        ("adapt.adapter.lora_r:", "adapt.adapter.type: '{r}'\n      adapt.adapter.target_sparsity:"),
        ("data: rotated,", "data: rotated, adapter: {type: dora, dropout_on: adapter},"),
        ("data: rotated,", "data: rotated, adapter: {type: sora, sparse_lambda_schedule: [0, 1, 2.5]},"),
        ("data: rotated,", "data: rotated, adapter: {type: sdora, sparse_lambda: 0.3, target_sparsity: 0.5},"),
        ("data: rotated,", "data: rotated, adapter: {target: language_model, rank_pattern: {q_proj: 4}},"),
        ("data: rotated,", "data: rotated, adapter: {lora_r: 4}, quantization: {load_in_4bit: true},"),
        ("data: rotated,", "data: rotated, components: {rope2d: true, pyramid: {levels: [2], how: fpn}},"),
        ("data: rotated,", "data: rotated, components: {rope2d: null, c_abstractor: {num_queries: 64}},"),
        ("adapt.adapter.lora_r:", "adapt: {components: {rope2d: '{r}', pyramid: false}}  #"),
        ("data: rotated,", "data: rotated, order: as_given,"),
        ("{type: exact_match, dataset", "{checkpoints: all, type: exact_match, dataset"),
        ("{type: exact_match, dataset", "{checkpoints: [5, 10], type: exact_match, dataset"),
        ("data: rotated,", "data: rotated, order: {by: column, column: d, direction: descending, buckets: 3},"),
        ("data: rotated,", "data: rotated, order: {by: score, scorer: base, take: [0, 0.5]},"),
        ("data: rotated,", "data: rotated, order: {by: score, scorer: {model_name_or_path: o/m}},"),
        ("  adapt:", f"  merged: {MERGE}\n  adapt:"),
        ("  adapt:", "  merged: {type: merge, method: linear, models: {a: base, b: {path: m, weight: 2}}}\n  adapt:"),
        ("adapt.adapter.lora_r:", "merged: {method: ties, models: {a: {weight: '{r}'}}}\n      adapt.adapter.lora_r:"),
        ("data: rotated,", "data: rotated, after: base, adapter: {type: mole, experts: {a: base, b: null}},"),
        ("data: rotated,", "data: rotated, layer_lr_decay: 0.9, early_stopping_patience: 3, save_merged: true,"),
    ],
)
def test_accepts_every_form(folder: Folder, edited: Callable[..., str], old: str, new: str) -> None:
    assert says_yes(folder.write(edited((old, new))))


@pytest.mark.parametrize("short", ["[textvqa]", "{mine: {type: textvqa, compat: strict}}"])
def test_accepts_public_benchmarks(folder: Folder, edited: Callable[..., str], short: str) -> None:
    own = "\n  accuracy: {type: exact_match, dataset: rotated@held_out, max_new_tokens: 1}"
    assert says_yes(folder.write(edited((own, f" {short}"))))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learning_rate:", "learnig_rate:"),
        ("learning_rate: 1e-3", "learning_rate: fast"),
        ("learning_rate: 1e-3", "learning_rate: 0"),
        ("seeds: [1, 2, 3]", "seeds: []"),
        ("seeds: [1, 2, 3]", "seeds: 3"),
        ("type: digits, rotate", "type: digit, rotate"),
        ("{type: digits, held_out: 0.2}", "{path: train.jsonl, fetch: {retry: 1}}"),
        ("{type: digits, held_out: 0.2}", "{type: datacomp, num_samples: 9}"),
        ("{type: digits, held_out: 0.2}", "{type: datacomp, name: a/b, path: c}"),
        ("type: exact_match", "type: exact"),
        ("{type: exact_match, dataset", "{checkpoints: some, type: exact_match, dataset"),
        ("{type: exact_match, dataset: rotated@held_out, max_new_tokens: 1}", "{type: textva}"),
        ("{type: exact_match, dataset: rotated@held_out, max_new_tokens: 1}", "{type: textvqa, compat: own}"),
        ("type: digits, held_out: 0.2}", "held_out: 0.2}"),
        ("full: {stages: [base, adapt]}", "full: {priority: 1}"),
        ("matrix: {r: [4, 16]}", "matrix: {r: []}"),
        ("variants:", "variant:"),
        ("max_steps: 300", "max_steps: 1.5"),
        ("data: rotated,", "data: rotated, adapter: {type: sora, target_sparsity: 1.5},"),
        ("data: rotated,", "data: rotated, adapter: {type: dora, sparse_lambda: 0.1},"),
        ("data: rotated,", "data: rotated, adapter: {type: sora, dropout_on: adapter, sparse_lambda: 1},"),
        ("data: rotated,", "data: rotated, adapter: {prox: absolute, sparse_lambda: 1},"),
        ("data: rotated,", "data: rotated, quantization: {load_in_4bit: maybe},"),
        ("data: rotated,", "data: rotated, checkpoint_names: epoch,"),
        ("data: rotated,", "data: rotated, components: {rope3d: true},"),
        ("data: rotated,", "data: rotated, components: {rope2d: {gate: one}},"),
        ("data: rotated,", "data: rotated, order: shufle,"),
        ("data: rotated,", "data: rotated, order: {column: d},"),
        ("data: rotated,", "data: rotated, order: {by: column, column: d, scorer: base},"),
        ("data: rotated,", "data: rotated, order: {by: score, take: [0, 0.2, 0.5]},"),
        ("  adapt:", f"  merged: {MERGE}\n  adapt:".replace("method: ties", "method: tie")),
        ("  adapt:", f"  merged: {MERGE}\n  adapt:".replace("density: 0.5", "density: 1.5")),
        ("  adapt:", f"  merged: {MERGE}\n  adapt:".replace("base: base", "learning_rate: 1")),
        ("  adapt:", f"  merged: {MERGE}\n  adapt:".replace("type: merge", "type: merged")),
        ("data: rotated,", "data: rotated, adapter: {type: mole, experts: {a: base}},"),
        ("data: rotated,", "data: rotated, method: ties,"),
    ],
)
def test_refuses_what_validation_refuses(folder: Folder, edited: Callable[..., str], old: str, new: str) -> None:
    text = edited((old, new))
    assert not says_yes(folder.write(text))
    assert folder.error(text)


def test_every_key_of_a_stage_is_explained_or_speaks_for_itself() -> None:
    stage = study_schema()["$defs"]["StageSettings"]["properties"]
    assert stage.keys() == TrainStage.model_fields.keys()
    assert "Global norm" in stage["max_grad_norm"]["description"]


def test_every_key_is_explained() -> None:
    """All but the tags: what `type` and `by` mean, the section says."""
    schema = study_schema()
    sections = {"the file": schema, **schema["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, one in section.get("properties", {}).items()
        if "description" not in one and key != "type"
    ]
    assert not bare


def test_says_nothing_of_how_it_is_made() -> None:
    text = str(study_schema())
    assert "fingerprint" not in text
    assert issubclass(TrainStage, Config)


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_KNOWN = {
    *(
        "$schema",
        "$defs",
        "$ref",
        "title",
        "description",
        "default",
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "required",
    ),
    *("properties", "patternProperties", "additionalProperties", "propertyNames", "minProperties"),
    *("items", "prefixItems", "minItems", "maxItems"),
    *("pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


def accepts(schema: Any, value: Any, root: Any) -> bool:
    """Just enough of JSON Schema (draft 2020-12) to need no other dependency.

    Whether `value` is valid; an unknown keyword is an assertion, so none is ignored in silence."""
    if isinstance(schema, bool):
        return schema
    assert schema.keys() <= _KNOWN, schema.keys() - _KNOWN
    if "$ref" in schema and not accepts(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, root):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "anyOf" in schema and not any(accepts(part, value, root) for part in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(accepts(part, value, root) for part in schema["oneOf"]) != 1:
        return False
    types = schema.get("type", [])
    if types and not any(_is(value, name) for name in ([types] if isinstance(types, str) else types)):
        return False
    return _object(schema, value, root) and _array(schema, value, root) and _scalar(schema, value)


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _object(schema: Any, value: Any, root: Any) -> bool:
    if not isinstance(value, dict):
        return True
    if len(value) < schema.get("minProperties", 0) or not set(schema.get("required", ())) <= value.keys():
        return False
    return all(_property(schema, key, inner, root) for key, inner in value.items())


def _property(schema: Any, key: str, value: Any, root: Any) -> bool:
    if "propertyNames" in schema and not accepts(schema["propertyNames"], key, root):
        return False
    found = [schema["properties"][key]] if key in schema.get("properties", {}) else []
    found += [part for pattern, part in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
    return all(accepts(part, value, root) for part in found or [schema.get("additionalProperties", True)])


def _array(schema: Any, value: Any, root: Any) -> bool:
    if not isinstance(value, list):
        return True
    first = schema.get("prefixItems", [])
    parts = [*first, *[schema.get("items", True)] * (len(value) - len(first))]
    return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)) and all(
        accepts(part, item, root) for part, item in zip(parts, value, strict=False)
    )


def _scalar(schema: Any, value: Any) -> bool:
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0) and bool(re.search(schema.get("pattern", ""), value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (
            schema.get("minimum", value) <= value <= schema.get("maximum", value)
            and value > schema.get("exclusiveMinimum", value - 1)
            and value < schema.get("exclusiveMaximum", value + 1)
        )
    return True
