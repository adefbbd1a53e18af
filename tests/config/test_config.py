"""Rules that every settings class keeps."""

import inspect
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

from tunestudy.config import adapter, benchmark, data, job, model, stage, study
from tunestudy.config.base import Config
from tunestudy.config.data import MixturePart, samples_per_epoch
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import TrainStage
from tunestudy.config.trackers import TrackerSettings


def classes() -> Iterator[type[Config]]:
    for module in (adapter, benchmark, data, job, model, stage, study):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if issubclass(found, Config) and found.__module__ == module.__name__:
                yield found


@pytest.mark.parametrize("config", list(classes()), ids=lambda config: config.__name__)
def test_strict_frozen_and_explained(config: type[Config]) -> None:
    assert config.model_config["extra"] == "forbid"
    assert config.model_config["frozen"] is True
    assert config.__doc__


def test_names_become_parts() -> None:
    made = TrainStage.model_validate({"data": ["a", {"dataset": "b", "weight": 2}], "learning_rate": 1})
    assert made.data == (MixturePart(dataset="a"), MixturePart(dataset="b", weight=2))
    assert TrainStage.model_validate({"data": "a", "learning_rate": 1}).data == (MixturePart(dataset="a"),)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("none", ()),
        (["none"], ()),
        ("wandb", ("wandb",)),
        (["wandb", "trackio", "wandb"], ("wandb", "trackio")),
        ("all", ("tensorboard", "wandb", "trackio")),
    ],
)
def test_trackers_as_others_spell_them(value: object, meant: tuple[str, ...]) -> None:
    made = TrainStage.model_validate({"data": "a", "learning_rate": 1, "report_to": value})
    assert made.report_to == meant


def test_names_of_runs_are_filled_in_from_what_is_known() -> None:
    with pytest.raises(ValidationError, match=r"has no \{sede\}; known are \{study\}"):
        TrackerSettings.model_validate({"run_name": "{sede}"})
    with pytest.raises(ValidationError, match="is no template"):
        TrackerSettings.model_validate({"run_name": "{seed"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": []},
        {"bf16": True, "fp16": True},
        {"order": "length_grouped", "packing": True},
        {"effective_batch_size": 0},
        {"warmup_steps": -1},
    ],
)
def test_contradictions_of_a_stage(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainStage.model_validate({"data": "a", "learning_rate": 1, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"model_name_or_path": "a/b", "architecture": "qwen3"},
        {"architecture": "qwen3"},
        {"model_name_or_path": "a/b", "config": {"x": 1}},
    ],
)
def test_a_model_has_one_origin(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig.model_validate(wrong)


def test_mixture_without_weights_is_everything_once() -> None:
    parts = [MixturePart(dataset="a"), MixturePart(dataset="b", max_samples=5)]
    assert samples_per_epoch([10, 20], parts) == [10, 5]


def test_error_prints_place_and_message() -> None:
    error = StudyError(at("stages.a.data"), "is wrong")
    assert str(error) == "stages.a.data: is wrong"
    assert error.exit_code == Exit.STUDY_WRONG


def test_a_copy_is_pydantics() -> None:
    made = TrainStage.model_validate({"data": ({"dataset": "a"},), "max_steps": 3, "learning_rate": 0.1})
    copied = made.model_copy(update={"max_steps": 4})
    assert copied.max_steps == 4 and made.max_steps == 3 and copied.data is made.data
    assert copied.model_fields_set == made.model_fields_set and copied != made
    assert copied.model_copy(update={"max_steps": 3}) == made == BaseModel.__copy__(made)
