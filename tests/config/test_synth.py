"""What cannot be drawn is refused before anything is."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tunestudy.config.data import SynthDataset
from tunestudy.config.definition import definition, names
from tunestudy.config.synth import OUTPUT_SHAPES, SynthSettings, SynthShape


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "chart", "tasks": ("colour",)}, "chart has no colour; it has value, argmax"),
        ({"kind": "chart", "image_size": 40}, "a chart needs at least 56 pixels"),
        ({"kind": "document", "tasks": ("field",), "image_size": 56}, "field needs at least 112 pixels"),
        ({"kind": "chart", "charts": ("pie",), "image_size": 56}, "pie chart needs at least 112"),
        ({"kind": "table", "charts": ("bar",)}, "for `kind: chart` alone"),
        ({"kind": "chart", "print_values": False, "image_size": 56}, "an axis that can be read"),
        ({"kind": "chart", "image_size": 56, "max_items": 5}, "max_items: 5 is too many: .* holds at most 4"),
        ({"kind": "shapes", "min_items": 5, "max_items": 4}, "min_items: 5 is more than max_items"),
        ({"kind": "shapes", "image_size": 28, "min_items": 9}, "min_items: 9 is too many"),
        ({"kind": "table", "tasks": ("statement",), "answer_form": "choice"}, "cannot be asked with choices"),
        ({"kind": "chart", "image_size": 27}, "greater than or equal to 28"),
    ],
)
def test_what_cannot_be_drawn(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SynthSettings(count=1, **options)


def test_every_benchmark_has_a_generated_set_that_can_be_drawn() -> None:
    for name in names():
        options = definition(name).tiny
        dataset = SynthDataset(**options)
        assert dataset.shape in OUTPUT_SHAPES and dataset.kind in OUTPUT_SHAPES[dataset.shape].kinds
        assert SynthDataset.model_validate_json(dataset.model_dump_json(), strict=True) == dataset


def test_the_shapes_that_can_be_named_are_those_that_are_made() -> None:
    assert set(get_args(SynthShape)) == set(OUTPUT_SHAPES)


@pytest.mark.parametrize("kind", ["chart", "document", "table", "shapes"])
@pytest.mark.parametrize("size", [28, 56, 112, 224, 896])
@pytest.mark.parametrize("form", ["open", "choice"])
def test_defaults_fit_every_size_that_a_kind_has(kind: Any, size: int, form: Any) -> None:
    try:
        settings = SynthSettings(kind=kind, count=1, image_size=size, answer_form=form)
    except ValidationError as error:
        assert size < 112 and "needs at least" in str(error)
        return
    fewest, most = settings.items
    assert 2 <= fewest <= most and settings.chosen_tasks
