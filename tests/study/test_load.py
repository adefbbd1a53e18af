"""From YAML to settings: defaults, overrides, starts, batches."""

from collections.abc import Callable
from typing import Any

import pytest

from tunestudy.config.stage import TrainStage
from tunestudy.study.batch import BatchError, solve_batch

Folder = Any
Edit = Callable[..., str]


def stage(loaded: Any, variant: str, name: str = "adapt") -> TrainStage:
    found = loaded.study.variants[variant].stages[name]
    assert isinstance(found, TrainStage)
    return found


class TestLayers:
    def test_override_over_stage_over_defaults(self, folder: Folder, edited: Edit) -> None:
        text = edited(
            ("defaults:\n", "defaults:\n  weight_decay: 0.1\n  warmup_steps: 5\n"),
            ("adapt: {data: rotated,", "adapt: {data: rotated, warmup_steps: 6, weight_decay: 0.2,"),
            ("full: {stages", "full: {overrides: {adapt: {weight_decay: 0.3}}, stages"),
        )
        loaded = folder.load(text)
        assert (stage(loaded, "full").weight_decay, stage(loaded, "full").warmup_steps) == (0.3, 6)
        assert stage(loaded, "full", "base").weight_decay == 0.1
        assert stage(loaded, "lora_r4").weight_decay == 0.2

    def test_adapter_is_merged_key_by_key_and_null_takes_it_away(self, folder: Folder, edited: Edit) -> None:
        text = edited(
            ("adapt: {data", "adapt: {adapter: {lora_r: 8, lora_alpha: 64, lora_dropout: 0.1}, data"),
            ("full: {stages", "full: {overrides: {adapt: {adapter: null}}, stages"),
        )
        loaded = folder.load(text)
        adapter = stage(loaded, "lora_r4").adapter
        assert adapter is not None
        assert (adapter.lora_r, adapter.lora_alpha, adapter.lora_dropout) == (4, 64, 0.1)
        assert stage(loaded, "full").adapter is None

    def test_dotted_and_nested_overrides_are_the_same(self, folder: Folder, edited: Edit) -> None:
        dotted = folder.load(
            edited(('adapt.adapter.lora_r: "{r}"', "adapt: {adapter.lora_r: 4, adapter.lora_alpha: 8}"))
        )
        nested = folder.load(edited(('adapt.adapter.lora_r: "{r}"', "adapt: {adapter: {lora_r: 4, lora_alpha: 8}}")))
        assert dotted.study == nested.study

    def test_places_lead_to_the_layer_that_says_so(self, folder: Folder) -> None:
        loaded = folder.load()
        key = "variants.lora_r4.stages.adapt."
        assert [loaded.locate(key + name).line for name in ("adapter.lora_r", "data", "learning_rate")] == [25, 17, 13]
        assert loaded.locate("study").line == 1

    def test_unused_stage_is_a_warning_and_still_checked(self, folder: Folder, edited: Edit) -> None:
        loaded = folder.load(edited(("stages:\n  base", "stages:\n  spare: {data: upright}\n  base")))
        assert len(loaded.warnings) == 1
        assert "no variant uses this stage" in loaded.warnings[0]
        assert "must be at least 1" in folder.error(
            edited(("stages:\n  base", "stages:\n  spare: {max_steps: 0}\n  base"))
        )


class TestCommandLine:
    def test_sets_what_the_file_says_and_what_it_does_not(self, folder: Folder, edited: Edit) -> None:
        loaded = folder.load(
            edited(),
            "seeds=[7]",
            "defaults.learning_rate=1e-4",
            "variants.full.overrides.adapt.max_steps=5",
            "model.config.hidden_size=64",
            "resources.ranks=2",
        )
        assert loaded.study.seeds == (7,)
        assert stage(loaded, "full").learning_rate == 1e-4
        assert stage(loaded, "full").max_steps == 5
        assert loaded.study.model.config["hidden_size"] == 64
        assert stage(loaded, "full").per_device_train_batch_size == 8
        assert stage(loaded, "full").gradient_accumulation_steps == 2

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("defaults.learnig_rate=1", "command line: defaults.learnig_rate: there is no key"),
            ("defaults.learning_rate=fast", "command line: defaults.learning_rate: must be a number"),
            ("stages.adept.max_steps=1", "`stages` has no `adept`; did you mean `adapt`?"),
            ("seed", "an override is written key.path=value"),
            ("seeds=[1", "is not a YAML value"),
            ("seeds.9=1", "`seeds` is a list of 3"),
            ("study.name=x", "which has no keys"),
        ],
    )
    def test_mistakes_name_the_command_line(self, folder: Folder, edited: Edit, override: str, message: str) -> None:
        told = folder.error(edited(), override)
        assert told.startswith("command line: ")
        assert message in told

    def test_item_of_a_list(self, folder: Folder, edited: Edit) -> None:
        assert folder.load(edited(), "seeds.1=9").study.seeds == (1, 9, 3)


class TestStarts:
    def test_made_explicit(self, folder: Folder) -> None:
        loaded = folder.load()
        assert [stage(loaded, "full", name).init for name in ("base", "adapt")] == ["base", "continue"]
        assert [stage(loaded, name).train for name in ("full", "lora_r4")] == ["all", "none"]

    @pytest.fixture
    def after_adapter(self, edited: Edit) -> Callable[[str], str]:
        """A third stage after the adapter, begun as told."""
        return lambda settings: edited(
            ("stages:\n  base", f"stages:\n  more: {{data: rotated, max_steps: 9, {settings}}}\n  base"),
            ("    stages: [base, adapt]\n", "    stages: [base, adapt, more]\n"),
        )

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ("adapter: {lora_r: 4}", "`adapt` before it leaves an adapter; say how it starts: `continue`"),
            ("init: continue, adapter: {lora_r: 5}", "it differs here: lora_r 4 → 5"),
            ("init: stack", "`stack` after `adapt` needs an `adapter:`"),
            ("init: continue", "needs an `adapter:`; to train in full, use `merge_then_new`"),
        ],
    )
    def test_after_an_adapter_it_must_be_said(
        self, folder: Folder, after_adapter: Callable[[str], str], settings: str, message: str
    ) -> None:
        told = folder.error(after_adapter(settings))
        assert message in told
        assert "study.yaml:16: stages.more" in told

    def test_an_adapter_that_began_at_the_weights_own_factors_ends(
        self, folder: Folder, after_adapter: Callable[[str], str]
    ) -> None:
        text = after_adapter("init: continue, adapter: {lora_r: 4, init_lora_weights: pissa}")
        text += "      adapt.adapter.init_lora_weights: pissa\n"
        assert "`adapt` publishes its start beside its adapter; use `merge_then_new` or `stack`" in folder.error(text)

    @pytest.mark.parametrize(
        "settings",
        [
            "init: merge_then_new",
            "init: stack, adapter: {lora_r: 2}",
            "init: base, adapter: {lora_r: 2}",
            "init: merge_then_new, adapter: {}",
        ],
    )
    def test_every_way_that_makes_sense(
        self, folder: Folder, after_adapter: Callable[[str], str], settings: str
    ) -> None:
        loaded = folder.load(after_adapter(settings))
        assert stage(loaded, "lora_r4", "more").init == settings.split(",")[0].removeprefix("init: ")

    def test_first_stage_has_nothing_to_continue(self, folder: Folder, edited: Edit) -> None:
        told = folder.error(edited(("base: {data", "base: {init: continue, data")))
        assert "`continue` needs a stage before it" in told

    @pytest.mark.parametrize("init", ["merge_then_new", "stack"])
    def test_no_adapter_before(self, folder: Folder, edited: Edit, init: str) -> None:
        told = folder.error(edited(("adapt: {data", f"adapt: {{init: {init}, data")))
        assert f"`{init}` needs an adapter from the stage before, `base` has none" in told


class TestBatch:
    @pytest.mark.parametrize(
        ("given", "solved"),
        [
            ((None, None, None, 1), (8, 8, 1)),
            ((None, None, None, 4), (8, 2, 1)),
            ((32, None, None, 1), (32, 8, 4)),
            ((32, None, None, 4), (32, 8, 1)),
            ((30, None, None, 1), (30, 6, 5)),
            ((7, None, None, 1), (7, 7, 1)),
            ((22, None, None, 2), (22, 1, 11)),
            ((32, 4, None, 2), (32, 4, 4)),
            ((32, None, 4, 2), (32, 4, 4)),
            ((32, 4, 4, 2), (32, 4, 4)),
            ((None, 4, 2, 3), (24, 4, 2)),
            ((None, 4, None, 1), (4, 4, 1)),
            ((None, None, 2, 1), (16, 8, 2)),
        ],
    )
    def test_any_that_are_known_give_the_rest(
        self, given: tuple[int | None, int | None, int | None, int], solved: tuple[int, int, int]
    ) -> None:
        effective, per_device, accumulation, ranks = given
        batch = solve_batch(effective=effective, per_device=per_device, accumulation=accumulation, ranks=ranks)
        assert (batch.effective, batch.per_device, batch.accumulation) == solved
        assert batch.effective == batch.per_device * batch.accumulation * ranks

    @pytest.mark.parametrize(
        ("effective", "per_device", "accumulation", "ranks", "message"),
        [
            (30, 8, None, 1, "30 does not divide by 8 per device × 1 rank; nearest that do: 24, 32"),
            (4, None, None, 8, "4 does not divide by 8 ranks; nearest that do: 8"),
            (10, None, 4, 2, "10 does not divide by 4 accumulation steps × 2 ranks; nearest that do: 8, 16"),
            (32, 4, 4, 1, "32 is not 4 per device × 4 accumulation steps × 1 rank = 16"),
        ],
    )
    def test_contradictions_name_the_nearest(
        self, effective: int, per_device: int | None, accumulation: int | None, ranks: int, message: str
    ) -> None:
        with pytest.raises(BatchError, match=message.replace("×", ".")):
            solve_batch(effective=effective, per_device=per_device, accumulation=accumulation, ranks=ranks)

    def test_hardware_does_not_change_the_effective_batch(self, folder: Folder, edited: Edit) -> None:
        sizes = {
            stage(folder.load(edited(), f"resources.ranks={ranks}"), "full").effective_batch_size
            for ranks in (1, 2, 4, 32)
        }
        assert sizes == {32}
