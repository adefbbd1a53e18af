"""`matrix:` and `from:`."""

from collections.abc import Callable
from typing import Any

import pytest

Folder = Any
Edit = Callable[..., str]
LORA = (
    "lora_r{r}:\n    matrix: {r: [4, 16]}\n    stages: [base, adapt]\n"
    '    overrides:\n      adapt.adapter.lora_r: "{r}"\n'
)


class TestMatrix:
    def test_every_combination_in_order_without_the_excluded(self, folder: Folder, edited: Edit) -> None:
        text = edited(
            (
                LORA,
                '"r{r}_{mode}":\n    matrix: {r: [4, 16], mode: [linear, cosine]}\n'
                "    exclude: [{r: 16, mode: linear}]\n"
                '    stages: [base, adapt]\n    description: rank {r}, {mode}\n    priority: "{r}"\n'
                '    overrides: {adapt: {lr_scheduler_type: "{mode}", adapter: {lora_r: "{r}"}}}\n',
            )
        )
        variants = folder.load(text).study.variants
        assert list(variants) == ["untrained", "full", "r4_linear", "r4_cosine", "r16_cosine"]
        assert variants["r16_cosine"].description == "rank 16, cosine"
        assert variants["r16_cosine"].priority == 16
        assert variants["r4_linear"].stages["adapt"].lr_scheduler_type == "linear"

    @pytest.mark.parametrize(
        ("values", "key", "expected"),
        [
            ("[true, false]", "adapter.use_rslora", [True, False]),
            ("[1e-3, 2]", "learning_rate", [0.001, 2.0]),
            ("[null, 1.0]", "max_grad_norm", [None, 1.0]),
        ],
    )
    def test_a_lone_placeholder_keeps_the_type(
        self, folder: Folder, edited: Edit, values: str, key: str, expected: list[Any]
    ) -> None:
        text = edited(
            (
                LORA,
                f"v{{x}}:\n    matrix: {{x: {values}}}\n    stages: [base, adapt]\n"
                f"    overrides: {{adapt.{key}: '{{x}}'}}\n",
            )
        )
        found = [
            variant.stages["adapt"] for name, variant in folder.load(text).study.variants.items() if name[0] == "v"
        ]
        assert [getattr(stage.adapter if "." in key else stage, key.rpartition(".")[2]) for stage in found] == expected

    def test_placeholders_in_from_and_stage_names(self, folder: Folder, edited: Edit) -> None:
        text = edited((LORA, LORA + "  more_r{r}:\n    matrix: {r: [4, 16]}\n    from: lora_r{r}@adapt\n"))
        variants = folder.load(text).study.variants
        assert variants["more_r16"].stages == variants["lora_r16"].stages

    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            ("{r: 4}", "must be a list of values"),
            ("{r: []}", "must be a list of values"),
            ("{r: [[1]]}", "single numbers, words or true/false"),
            ("[4, 16]", "must map names to lists"),
            ("{r: [4, 4]}", "gives a variant `lora_r4`, as line 21 does"),
            ("{r: [4], s: [1]}", "the variant's name needs `{s}`"),
            ("{s: [4]}", "the variant's name needs `{s}`"),
        ],
    )
    def test_mistakes(self, folder: Folder, edited: Edit, matrix: str, message: str) -> None:
        told = folder.error(edited(("matrix: {r: [4, 16]}", f"matrix: {matrix}")))
        assert message in told
        assert told.startswith(("study.yaml:21", "study.yaml:22"))

    def test_placeholder_without_a_list(self, folder: Folder, edited: Edit) -> None:
        assert "`{s}` has no list under `matrix:`" in folder.error(edited(('lora_r: "{r}"', 'lora_r: "{s}"')))
        assert "in the name has no list" in folder.error(edited(("    matrix: {r: [4, 16]}\n", "")))

    def test_exclusion_of_nothing(self, folder: Folder, edited: Edit) -> None:
        told = folder.error(edited(("matrix: {r: [4, 16]}", "matrix: {r: [4, 16]}\n    exclude: [{r: 5}]")))
        assert told.startswith("study.yaml:23: variants.lora_r{r}.exclude.0: `r: 5` excludes nothing; `r` takes 4, 16")


class TestFrom:
    def test_prefix_up_to_a_stage_with_its_overrides(self, folder: Folder, edited: Edit) -> None:
        text = edited(
            ("stages:\n  base", "stages:\n  more: {data: upright, max_steps: 5, init: merge_then_new}\n  base"),
            ("full: {stages", "full: {overrides: {base: {max_steps: 7}}, stages"),
            (
                LORA,
                LORA + "  a: {from: full@base, stages: [more], overrides: {more.max_steps: 6}}\n"
                "  b: {from: a}\n  c: {from: lora_r4, stages: [more]}\n",
            ),
        )
        variants = folder.load(text.replace("init: merge_then_new", "init: base")).study.variants
        steps = {name: {stage: of.max_steps for stage, of in variants[name].stages.items()} for name in "abc"}
        assert steps == {
            "a": {"base": 7, "more": 6},
            "b": {"base": 7, "more": 6},
            "c": {"base": 300, "adapt": 200, "more": 5},
        }

    def test_prefix_belongs_to_the_other_variant(self, folder: Folder, edited: Edit) -> None:
        text = edited((LORA, LORA + "  a: {from: full@base, stages: [adapt], overrides: {base: {max_steps: 7}}}\n"))
        assert "`base` comes from `full@base` and is shared with it; override it there" in folder.error(text)
