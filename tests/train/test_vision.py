"""Stages on images: exact over threads, kills, ranks and engines; results that stock classes load."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from tinyeyes import ALPHABET, CONFIGS, model_settings
from tinyjob import facts_of, make_job, rows_of, run
from tinyranks import start

from tunestudy.config.errors import StudyError
from tunestudy.data import loader
from tunestudy.models.results import load_result
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest
from tunestudy.train import loop

torch.set_num_threads(1)

LOSS_LIMIT, WEIGHT_LIMIT = 1e-5, 3e-5


def job(root: Path, name: str, architecture: str = "internvl", **settings: Any) -> JobDir:
    model = model_settings(architecture)
    model["tokenizer"] = {"type": "characters", "alphabet": ALPHABET + "="}
    return make_job(root, name, pictured=True, **{"model": model, "max_length": 96, "num_records": 24, **settings})


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("packing", [False, True])
def test_a_stage_learns_and_its_result_is_stock(architecture: str, packing: bool, tmp_path: Path) -> None:
    folder = job(tmp_path, "see", architecture, packing=packing, max_images_per_pack=4, num_train_epochs=4)
    assert run(folder)
    losses = [float(row["train_loss"]) for row in rows_of(folder.loss_log)]
    assert losses[-1] < losses[0] - 0.2
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

    loaded = load_result(folder, "cpu")
    assert loaded.vision is not None
    stock, info = AutoModelForImageTextToText.from_pretrained(folder.model, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, stock.state_dict()[name]), name
    processor = AutoImageProcessor.from_pretrained(folder.model)
    assert processor.to_dict().items() >= {"size": loaded.processor.to_dict()["size"]}.items()
    named = json.loads((folder.model / "preprocessor_config.json").read_text())["processor_class"]
    assert AutoConfig.from_pretrained(folder.model).model_type == architecture
    assert (
        named
        == {"internvl": "InternVLProcessor", "gemma3": "Gemma3Processor", "qwen3_vl": "Qwen3VLProcessor"}[architecture]
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_change_nothing(workers: int, tmp_path: Path) -> None:
    facts = []
    for name, count in (("a", 2), ("b", workers)):
        (tmp_path / name).mkdir()
        folder = job(tmp_path / name, "see", dataloader_num_workers=count, packing=True)
        assert run(folder)
        facts.append(facts_of(folder))
    assert facts[0] == facts[1]


def test_batches_are_made_ahead_and_never_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = loader.batch_of

    def counted(corpus: Any, share: Any, layout: Any, **options: Any) -> Any:
        made.append(len(share))
        return real(corpus, share, layout, **options)

    monkeypatch.setattr(loader, "batch_of", counted)
    folder = job(tmp_path, "see", per_device_train_batch_size=2, eval_on_epoch_end=False, num_train_epochs=1)
    assert run(folder)
    used = json.loads(folder.result_json.read_text())["steps"] * 4
    assert used <= len(made) <= used + 2 * loader.AHEAD + 1


def test_a_step_that_is_left_out_or_looked_at_again_does_not_shift_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = loop.agree, []

    def agree(run: loop.Run, shares: list) -> tuple[int, bool]:
        seen.append(sum(share.num_targets for share in shares))
        return (0, False) if run.state.step == 1 else real(run, shares)

    monkeypatch.setattr(loop, "agree", agree)
    folder = job(tmp_path, "see", per_device_train_batch_size=2)
    assert run(folder)
    rows = rows_of(folder.loss_log)
    assert rows[1]["train_loss"] == ""
    assert sum(seen) - seen[1] == json.loads(folder.result_json.read_text())["target_tokens"]


@pytest.mark.parametrize("stop_after", [1, 4])
def test_stopped_and_run_again_it_ends_the_same(stop_after: int, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = job(tmp_path / "a", "see", packing=True, max_steps=7)
    assert run(whole)
    folder = job(tmp_path / "b", "see", packing=True, max_steps=7)
    stop = StopRequest()
    real = loop.save_if_due

    def save_if_due(running: loop.Run, evaluated: Any) -> None:
        real(running, evaluated)
        stop.wanted = stop.wanted or running.state.step == stop_after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_if_due", save_if_due)
        assert not run(folder, stop=stop)
    assert run(folder)
    assert facts_of(whole) == facts_of(folder)


ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "ddp"},
    "fsdp2": {"engine": "fsdp2"},
    "deepspeed 3": {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": 3}}},
}


@pytest.mark.slow
@pytest.mark.parametrize("words", ENGINES)
def test_two_ranks_learn_what_one_does(words: str, tmp_path: Path) -> None:
    """One of the steps has an image on one rank only, so that the other goes through the tower for nothing."""
    from safetensors.torch import load_file

    settings = {"effective_batch_size": 4, "per_device_train_batch_size": 1, "max_steps": 5, "save_steps": None}
    one = job(tmp_path, "one", **settings)
    assert run(one)
    two = job(tmp_path, "two", **settings, **ENGINES[words])
    assert start(two, ranks=2).wait(timeout=300) == 0
    for left, right in zip(rows_of(one.loss_log), rows_of(two.loss_log), strict=True):
        assert float(right["train_loss"]) == pytest.approx(float(left["train_loss"]), rel=LOSS_LIMIT)
    ours, theirs = (load_file(folder.model / "model.safetensors") for folder in (one, two))
    for name, tensor in ours.items():
        assert (theirs[name] - tensor).norm() <= WEIGHT_LIMIT * tensor.norm().clamp_min(1e-3), name


ROLES: dict[str, dict[str, Any]] = {
    "projector": {"train": ["projector"]},
    "vision and projector": {"train": ["vision_tower", "projector"], "learning_rates": {"projector": 5e-3}},
    "adapter on the language model": {"adapter": {"type": "lora", "lora_r": 4, "target": "language_model"}},
    "adapter and projector": {
        "adapter": {"type": "dora", "lora_r": 4, "target": "language_model"},
        "train": ["projector"],
    },
}


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("roles", ROLES)
def test_stages_train_just_their_roles(architecture: str, roles: str, tmp_path: Path) -> None:
    first = job(tmp_path, "first", architecture, num_train_epochs=1, num_records=16)
    assert run(first)
    before = load_result(first, "cpu").model.state_dict()
    folder = job(tmp_path, "second", architecture, after=first, num_records=16, max_steps=2, **ROLES[roles])
    assert run(folder)
    from tunestudy.models.roles import role_of

    result = load_result(folder, "cpu")
    wanted = set(ROLES[roles].get("train", ()))
    base = result.model.get_base_model() if hasattr(result.model, "get_base_model") else result.model
    moved = {
        role_of(name)
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name
        and ".original_module." not in name
        and not torch.equal(tensor, before[name.replace(".base_layer", "").replace(".modules_to_save.default", "")])
    }
    assert moved == wanted
    table = {row["role"]: row for row in json.loads(folder.result_json.read_text())["roles"]}
    adapted = {"language_model"} if "adapter" in ROLES[roles] else set()
    assert {role for role, row in table.items() if row["trainable"]} == wanted | adapted


def test_a_model_without_eyes_refuses_images(tmp_path: Path) -> None:
    folder = make_job(tmp_path, pictured=True, max_length=96)
    with pytest.raises(StudyError, match="images: the stage's model takes none"):
        run(folder)


def test_image_tokens_alone_above_the_limit_are_told(tmp_path: Path) -> None:
    folder = job(tmp_path, "see", max_length=16)
    with pytest.raises(StudyError, match=r"tokens, \d+ of them of its images, max_length is 16"):
        run(folder)


def test_an_unknown_option_of_the_processor_gets_the_nearest(tmp_path: Path) -> None:
    model = {**model_settings("internvl"), "image_processor": {"max_patch": 3}}
    with pytest.raises(StudyError, match="no such option; did you mean max_patches"):
        run(job(tmp_path, "see", model=model))


def test_components_see_images_through_stages(tmp_path: Path) -> None:
    """All three of them, and a prompt whose number of image tokens follows the projector's queries."""
    first = job(
        tmp_path,
        "first",
        components={"rope2d": {}, "pyramid": {}, "c_abstractor": {"num_queries": 9, "hidden_size": 16, "depth": 1}},
        packing=True,
        num_train_epochs=3,
    )
    assert run(first)
    losses = [float(row["train_loss"]) for row in rows_of(first.loss_log)]
    assert losses[-1] < losses[0]
    second = job(tmp_path, "second", after=first, adapter={"type": "lora", "target": "language_model"}, max_steps=2)
    assert run(second)
    vision = load_result(second, "cpu").vision
    assert vision is not None
    assert vision.num_tokens((28, 28)) == 9
    assert vision.num_tokens((56, 28)) == 27  # two tiles and their thumbnail


OPTIONS = {
    "internvl": [{"size": {"height": 56, "width": 56}}, {"max_patches": "6"}, {"size": {"shortest_edge": 28}}],
    "gemma3": [{"size": {"height": 56, "width": 56}}, {"do_resize": False}],
    "qwen3_vl": [{"do_resize": False}, {"temporal_patch_size": 1}, {"size": {"longest_edge": 4096}}],
}


@pytest.mark.parametrize(
    ("architecture", "options"), [(name, options) for name in OPTIONS for options in OPTIONS[name]]
)
def test_options_that_do_not_fit_the_model_are_refused(architecture: str, options: Any, tmp_path: Path) -> None:
    model = {**model_settings(architecture), "image_processor": options}
    with pytest.raises(StudyError) as told:
        run(job(tmp_path, "see", architecture, model=model))
    assert "image_processor" in str(told.value.place)


def test_later_tokens_never_reach_earlier_ones_in_gemma(tmp_path: Path) -> None:
    """In every implementation of attention that is let through, with images and packed."""
    from tinyeyes import corpus_of_examples, example, eyes_of, tiny

    from tunestudy.data.batch import batch_of
    from tunestudy.models.decoder import forward_arguments

    loaded = tiny("gemma3")
    examples = [example(seed, (28, 28)) for seed in range(2)]
    batch = batch_of(corpus_of_examples(examples, loaded, tmp_path), [(0, 1)], "right", eyes=eyes_of(loaded, tmp_path))
    later = batch.input_ids.clone()
    later[0, -2] = (later[0, -2] + 1) % 30
    for kind in ("sdpa", "eager"):
        loaded.model.set_attn_implementation(kind)
        with torch.no_grad():
            one, two = (
                loaded.model(**{**forward_arguments(loaded.model, batch), "input_ids": ids}).logits
                for ids in (batch.input_ids, later)
            )
        assert torch.equal(one[0, :-2], two[0, :-2]), kind
        assert not torch.equal(one[0, -2:], two[0, -2:])
    loaded.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(StudyError, match="takes no such masks"):
        forward_arguments(loaded.model, batch)


def test_threads_end_with_the_run(tmp_path: Path) -> None:
    import threading

    assert run(job(tmp_path, "see", dataloader_num_workers=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images")]
