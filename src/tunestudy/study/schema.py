"""The JSON schema of study files, for editors: completion, hover texts and red lines while typing.

It describes the YAML form (`defaults:`, `stages:`, `overrides:`, `matrix:`), not the validated one. What a schema
cannot say (names that must exist, numbers that must divide) `tunestudy validate` says.
"""

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from tunestudy.config.base import Config
from tunestudy.config.benchmark import KINDS
from tunestudy.config.definition import names
from tunestudy.config.merge import MergeStage
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study, Variant
from tunestudy.config.trackers import TRACKERS
from tunestudy.study.tiny import LAID_OVER, REPLACED

Schema = dict[str, Any]

_PLACEHOLDER: Schema = {
    "type": "string",
    "pattern": r"\{[A-Za-z_]\w*\}",
    "description": "A value of the variant's `matrix:`.",
}
_NAME = r"^[^/\s]+$"


def study_schema() -> Schema:
    """JSON schema (draft 2020-12) of a study file."""
    study = _explained(Study)
    definitions: Schema = study.pop("$defs")
    stage = _explained(TrainStage)
    definitions |= stage.pop("$defs")
    settings = _settings(stage)
    merge = _explained(MergeStage)
    definitions |= merge.pop("$defs")
    merging = _merging(merge)
    definitions |= {
        "Variant": _variant(),
        "StageSettings": settings,
        "StageOverride": _override(settings),
        "MergeSettings": {**merging, "required": ["type"]},
        "MergeOverride": _override(merging),
        "MergeInputOverride": _override(definitions["MergeInput"]),
        "AdapterOverride": _override(_all_adapters(definitions)),
        "ComponentsOverride": _override(definitions["VisionComponents"]),
    }
    definitions["StageOverride"]["properties"]["adapter"]["anyOf"].append(_ref("AdapterOverride"))
    entry: Schema = {"anyOf": [_ref("MergeInputOverride"), {"type": "string"}]}
    any_model: Schema = {"type": "object", "additionalProperties": entry}
    definitions["MergeOverride"]["properties"]["models"]["anyOf"].append(any_model)
    definitions["StageOverride"]["properties"]["components"]["anyOf"].append(_ref("ComponentsOverride"))
    definitions.pop("TrainStage", None)
    definitions.pop("MergeStage", None)
    _name_experts(definitions)
    _require_types(definitions)
    _name_benchmarks(definitions)
    properties: Schema = study["properties"]
    properties["variants"] = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": _ref("Variant"),
        **_description(properties["variants"]),
    }
    properties["defaults"] = {
        **_ref("StageSettings"),
        "description": "Settings of every stage that does not say otherwise.",
    }
    properties["stages"] = {
        "type": "object",
        "propertyNames": {"pattern": _NAME},
        "additionalProperties": {"anyOf": [_ref("StageSettings"), _ref("MergeSettings"), {"type": "null"}]},
        "description": "Settings by stage name, laid over `defaults`.",
    }
    properties["benchmarks"] = _listed(properties["benchmarks"])
    expected = properties["expect"]["additionalProperties"]
    properties["expect"]["additionalProperties"] = {"anyOf": [_ref("Band"), expected]}
    properties["tiny"] = _tiny(properties)
    whole = {**study, "description": "A tunestudy study file.", "title": "study", "$defs": definitions}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_tidy(whole)}


def _tiny(properties: Schema) -> Schema:
    """The small form: parts of the study again, of which none is required."""
    parts = {name: properties[name] for name in (*REPLACED, *LAID_OVER) if name != "variants"}
    overrides = {"type": "object", "additionalProperties": False, "properties": {"overrides": {"type": "object"}}}
    return {
        "type": "object",
        "additionalProperties": False,
        "description": (
            "A rehearsal: what `--tiny`, on any command, lays over the rest of the file, such as a tiny random model "
            "and fewer steps. The jobs stay the same; results go to `<study>-tiny`."
        ),
        "properties": {**parts, "variants": {"type": "object", "additionalProperties": overrides}},
    }


def _listed(benchmarks: Schema) -> Schema:
    """The mapping, or the short form: a list of names."""
    mapping = {key: value for key, value in benchmarks.items() if key not in ("default", "description")}
    return {"anyOf": [mapping, {"type": "array", "items": {"enum": names()}}], **_description(benchmarks)}


def _explained(config: type[Config]) -> Schema:
    """Pydantic's schema of a class, with the docstring below each field as its description."""
    schema = config.model_json_schema()
    targets = {config.__name__: schema, **schema.get("$defs", {})}
    for part in _with_subclasses(Config):
        properties = targets.get(part.__name__, {}).get("properties", {})
        for name, text in _docstrings(part).items() if properties else ():
            properties[name]["description"] = text
    return schema


def _with_subclasses(config: type[Config]) -> Iterator[type[Config]]:
    yield config
    for subclass in config.__subclasses__():
        yield from _with_subclasses(subclass)


def _docstrings(config: type[Config]) -> dict[str, str]:
    """Field → the string literal below it in the source, of the class and those it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed([owner for owner in config.__mro__ if issubclass(owner, Config)]):
        for above, below in itertools.pairwise(_classes(owner.__module__)[owner.__name__].body):
            match above, below:
                case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[field] = inspect.cleandoc(text)
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _variant() -> Schema:
    of_variant = _explained(Variant)["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "description": "One row of the final table.",
        "anyOf": [{"required": ["stages"]}, {"required": ["from"]}],
        "properties": {
            **{name: schema for name, schema in of_variant.items() if name != "stages"},
            "stages": {
                "type": ["array", "null"],
                "items": {"type": "string"},
                "description": "Names of stages in order; empty for the model as it comes.",
            },
            "from": {
                "type": "string",
                "description": "Begin with another variant's stages: `variant` or `variant@stage`.",
            },
            "overrides": {
                "type": ["object", "null"],
                "description": "Settings by stage, nested or dotted (`adapt.adapter.lora_r: 4`).",
                "patternProperties": {r"^[^.]+$": {"anyOf": [_ref("StageOverride"), _ref("MergeOverride")]}},
            },
            "matrix": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"type": "array", "minItems": 1},
                "description": "Lists of values; the variant is written once for each combination, `{name}` replaced.",
            },
            "exclude": {
                "type": "array",
                "items": {"type": "object", "minProperties": 1},
                "description": "Combinations left out.",
            },
        },
    }


def _settings(stage: Schema) -> Schema:
    """Stage settings of which none is required, since `defaults`, stage and overrides complete each other."""
    properties = {name: _short_forms(name, schema) for name, schema in stage["properties"].items()}
    section = properties["deepspeed"]
    properties["deepspeed"] = {"anyOf": [section, {"type": "string"}], "description": section["description"]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _merging(merge: Schema) -> Schema:
    """Settings of a stage that merges; what is missing may stand in an override. Names stand for entries."""
    properties: Schema = dict(merge["properties"])
    entry: Schema = {"anyOf": [_ref("MergeInput"), {"type": "string"}]}
    properties["models"] = {**properties["models"], "additionalProperties": entry}
    properties["base"] = {**properties["base"], "anyOf": [*properties["base"]["anyOf"], {"type": "string"}]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _name_experts(definitions: Schema) -> None:
    """A stage's name stands for an expert made of its result."""
    entry = definitions["MoleAdapter"]["properties"]["experts"]
    entry["additionalProperties"]["anyOf"] = [*entry["additionalProperties"]["anyOf"], {"type": "string"}]


def _all_adapters(definitions: Schema) -> Schema:
    """Options of all adapters together: an override need not repeat the type that tells them apart."""
    kinds = [definitions[kind] for kind in ("MoleAdapter", "SdoraAdapter", "SoraAdapter", "DoraAdapter", "LoraAdapter")]
    properties = {name: schema for kind in kinds for name, schema in kind["properties"].items()}
    return {"properties": {**properties, "type": {"enum": [kind["properties"]["type"]["const"] for kind in kinds]}}}


def _override(settings: Schema) -> Schema:
    """Settings in which a placeholder of the matrix may stand for any value, and keys may be dotted."""
    properties = {
        name: {"anyOf": [schema, _PLACEHOLDER], **_description(schema)}
        for name, schema in settings["properties"].items()
    }
    return {"type": "object", "additionalProperties": False, "properties": properties, "patternProperties": {r"\.": {}}}


def _short_forms(name: str, schema: Schema) -> Schema:
    """What validators turn into the full form: a data set's name, one tracker's name, an adapter that is half given."""
    if name in ("data", "eval_data"):
        part: Schema = {"anyOf": [{"type": "string"}, _ref("MixturePart")]}
        return {"anyOf": [*part["anyOf"], {"type": "array", "items": part}], **_description(schema)}
    if name == "order":
        return {"anyOf": [*schema["oneOf"], {"enum": ["random", "as_given"]}], **_description(schema)}
    if name == "report_to":
        full = {k: v for k, v in schema.items() if k != "default"}
        return {"anyOf": [full, {"enum": ["all", "none", *TRACKERS]}], **_description(schema)}
    return schema


def _require_types(definitions: Schema) -> None:
    """Pydantic fills in `type`; whoever writes a file must say it, except for files, hub data sets and LoRA."""
    datasets = ("DigitsDataset", "DatacompDataset", "SynthDataset")
    benchmarks = [kind.__name__ for kind in KINDS]
    for name in (*datasets, *benchmarks, "DoraAdapter", "SoraAdapter", "SdoraAdapter", "MoleAdapter"):
        definitions[name]["required"] = ["type", *definitions[name].get("required", [])]
    definitions["DatacompDataset"]["oneOf"] = [{"required": [origin]} for origin in ("name", "path", "drawn")]


def _name_benchmarks(definitions: Schema) -> None:
    """A public benchmark is named; what its name stands for, and what a judge is asked, is not written in a study."""
    public = definitions["PublicBenchmark"]["properties"]
    del public["definition"]
    definitions["PublicBenchmark"]["required"] = ["type"]
    for kind in definitions.values():
        if curve := kind.get("properties", {}).get("checkpoints"):
            curve["anyOf"] = [*curve["anyOf"], {"enum": ["all"]}]
    public["type"] = {"enum": names(), **_description(public["type"])}
    del definitions["Judge"]["properties"]["prompts"]
    definitions.pop("JudgePrompts", None)
    definitions.pop("Definition", None)
    definitions.pop("PublicData", None)


def _tidy(schema: Any) -> Any:
    """Without what only pydantic or tunestudy reads."""
    if isinstance(schema, dict):
        return {key: _tidy(value) for key, value in schema.items() if key not in ("discriminator", "fingerprint")}
    return [_tidy(item) for item in schema] if isinstance(schema, list) else schema


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _description(schema: Schema) -> Schema:
    return {"description": schema["description"]} if "description" in schema else {}
