"""Components in study files: short forms, overrides of variants, and what no lineage can carry."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from tunestudy.config.components import CAbstractor, Pyramid, Rope2d, VisionComponents
from tunestudy.study.variants import laid_over

Folder = Any
Edit = Callable[..., str]

INTERNVL = ("architecture: qwen3\n  config: {hidden_size: 32, num_hidden_layers: 2}", "architecture: internvl")


def in_base(edited: Edit, components: str, *more: tuple[str, str]) -> str:
    return edited(INTERNVL, ("base: {data: upright,", f"base: {{data: upright, components: {components},"), *more)


def components_of(folder: Folder, text: str, variant: str = "full", stage: str = "base") -> VisionComponents | None:
    found: VisionComponents | None = folder.load(text).study.variants[variant].stages[stage].components
    return found


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{rope2d: true}", VisionComponents(rope2d=Rope2d())),
        ("{rope2d: {}, pyramid: false}", VisionComponents(rope2d=Rope2d())),
        ("{pyramid: {levels: [2, 4], how: fpn}}", VisionComponents(pyramid=Pyramid(levels=(2, 4), how="fpn"))),
        ("{c_abstractor: {num_queries: 256}}", VisionComponents(c_abstractor=CAbstractor(num_queries=256))),
        ("{rope2d: null, c_abstractor: false}", None),
        ("{}", None),
        ("null", None),
    ],
)
def test_short_forms(folder: Folder, edited: Edit, written: str, expected: VisionComponents | None) -> None:
    assert components_of(folder, in_base(edited, written)) == expected


def test_variants_switch_them_on(folder: Folder, edited: Edit) -> None:
    text = in_base(edited, "{c_abstractor: {num_queries: 64, depth: 2}}")
    text += (
        "  more: {stages: [base], overrides: {base: {components: {rope2d: true, c_abstractor: {depth: 1}}}}}\n"
        "  other: {stages: [base], overrides: {base.components: {c_abstractor: false, pyramid: true}}}\n"
        '  "q{q}":\n    matrix: {q: [16, 36]}\n    stages: [base]\n'
        '    overrides: {base.components.c_abstractor.num_queries: "{q}"}\n'
    )
    expected = {
        "full": {"c_abstractor": CAbstractor(num_queries=64, depth=2)},
        "more": {"rope2d": Rope2d(), "c_abstractor": CAbstractor(num_queries=64, depth=1)},
        "other": {"pyramid": Pyramid()},
        "q16": {"c_abstractor": CAbstractor(num_queries=16, depth=2)},
        "q36": {"c_abstractor": CAbstractor(num_queries=36, depth=2)},
    }
    for variant, parts in expected.items():
        assert components_of(folder, text, variant) == VisionComponents(**parts)


def test_true_over_options_keeps_them() -> None:
    below = {"components": {"rope2d": {"theta": 50.0}, "pyramid": True}}
    above = {"components": {"rope2d": True, "pyramid": {"how": "fpn"}}}
    assert laid_over(below, above)["components"] == {"rope2d": {"theta": 50.0}, "pyramid": {"how": "fpn"}}


def test_spellings_of_the_same_are_the_same_job(folder: Folder, edited: Edit) -> None:
    def fingerprint(components: str) -> str:
        text = in_base(edited, components)
        return str(next(job for job in folder.plan(text).jobs if job.job.stage == "base").job.fingerprint)

    plain = fingerprint("null")
    assert fingerprint("{rope2d: true}") == fingerprint("{rope2d: {theta: 10000}}") != plain
    assert fingerprint("{}") == fingerprint("{pyramid: false}") == plain
    assert fingerprint("{rope2d: {theta: 9000}}") != fingerprint("{rope2d: true}")


@pytest.mark.parametrize(
    ("components", "key", "message"),
    [
        ("{rope3d: true}", "components.rope3d", "did you mean `rope2d`?"),
        ("{rope2d: {thetta: 1}}", "components.rope2d.thetta", "did you mean `theta`?"),
        ("{rope2d: {theta: 0}}", "components.rope2d.theta", "greater than 0"),
        ("{rope2d: 7}", "components.rope2d", "must be a mapping of keys, got the number 7"),
        ("{c_abstractor: {num_queries: 150}}", "components.c_abstractor.num_queries", "is no square: use 144 and 169"),
        ("{pyramid: {levels: [3, 2]}}", "components.pyramid.levels", "ascending order"),
        ("{pyramid: {levels: [0, 2]}}", "components.pyramid.levels", "count layers from 1"),
        ("{num_queries: 144}", "components.num_queries", "under `components.c_abstractor:`"),
    ],
)
def test_mistakes_stand_at_their_key(folder: Folder, edited: Edit, components: str, key: str, message: str) -> None:
    told = folder.error(in_base(edited, components))
    assert told.startswith(f"study.yaml:15: stages.base.{key}")
    assert message in told


class TestLineage:
    ADAPT = "adapt: {data: rotated,"

    def error(self, folder: Folder, edited: Edit, base: str, adapt: str) -> str:
        text = edited(
            INTERNVL,
            ("base: {data: upright,", f"base: {{data: upright, {base}"),
            (self.ADAPT, f"{self.ADAPT} {adapt}"),
        )
        return str(folder.error(text))

    def test_other_ones_in_a_later_stage(self, folder: Folder, edited: Edit) -> None:
        told = self.error(folder, edited, "components: {rope2d: true},", "components: {c_abstractor: {depth: 2}},")
        assert told.startswith("study.yaml:16: stages.adapt.components")
        assert "`base` before it added others (rope2d; here c_abstractor {'depth': 2})" in told

    def test_the_same_or_from_the_beginning(self, folder: Folder, edited: Edit) -> None:
        for adapt in ("components: {rope2d: {}},", "init: base, components: {pyramid: true},"):
            text = in_base(edited, "{rope2d: true}", (self.ADAPT, f"{self.ADAPT} {adapt}"))
            assert components_of(folder, text, stage="adapt") is not None

    def test_below_an_adapter(self, folder: Folder, edited: Edit) -> None:
        adapter = "adapter: {lora_r: 4, target_modules: [q_proj]},"
        told = self.error(folder, edited, adapter, f"{adapter} init: stack, components: {{rope2d: true}},")
        assert "cannot be added below an adapter that was trained without them (init: stack)" in told
        assert told.startswith("study.yaml:16: stages.adapt.components")

    def test_a_model_that_is_no_internvl(self, folder: Folder, edited: Edit) -> None:
        told = folder.error(edited(("base: {data: upright,", "base: {data: upright, components: {rope2d: true},")))
        assert told.startswith("study.yaml:16: stages.base.components: only InternVL has them")
        assert told.endswith("this study's model is qwen3")

    def test_a_folder_that_is_no_internvl(self, folder: Folder, edited: Edit) -> None:
        (folder.root / "mine").mkdir()
        (folder.root / "mine" / "config.json").write_text('{"model_type": "gemma3"}')
        text = in_base(edited, "{rope2d: true}").replace("architecture: internvl", "model_name_or_path: mine")
        assert folder.error(text).endswith("this study's model is gemma3")


def test_queries_must_be_a_square() -> None:
    with pytest.raises(ValidationError, match="2 is no square: use 1 and 4"):
        CAbstractor(num_queries=2)
    assert CAbstractor(num_queries=1).num_queries == 1
