"""Mixtures of experts in a study file: what they cannot be beside, names of experts, and stages that go on with one."""

from typing import Any

import pytest

from tunestudy.study.merges import merge_warnings

Folder = Any  # the class of conftest.py

STUDY = """\
study: two
seeds: [1]
model:
  architecture: qwen3
  config: {hidden_size: 32, num_hidden_layers: 2}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg"}
datasets:
  digits: {type: digits, held_out: 0.2}
defaults: {learning_rate: 1e-3, max_steps: 4}
stages:
  base: {data: digits}
  english: {data: digits, adapter: {lora_r: 4}}
  korean: {data: digits, after: base, adapter: {lora_r: 4, lora_alpha: 8}}
  mix:
    data: digits
    after: base
    adapter:
      type: mole
      experts: {en: {stage: english, use: factors}, ko: {stage: korean, use: factors}}
      gate: token
variants:
  mixture: {stages: [base, english, korean, mix]}
"""
MORE = """\
  more:
    data: digits
    init: continue
    adapter:
      type: mole
      experts: {en: {stage: english, use: factors}, ko: {stage: korean, use: factors}}
      gate: token
"""
MIX = "    after: base\n    adapter"
FIRST = "experts: {en: {stage: english"


def written(*changes: tuple[str, str]) -> str:
    found = STUDY
    for old, new in changes:
        assert old in found, old
        found = found.replace(old, new, 1)
    return found


def beside(key: str) -> tuple[str, str]:
    return MIX, f"    {key}\n{MIX}"


MISTAKES: dict[str, tuple[tuple[str, str], str, str]] = {
    "roles": (beside("train: [language_model]"), "train", "leave train out beside it"),
    "compiling": (beside("torch_compile: true"), "torch_compile", "which compiling would repeat"),
    "merged form": (beside("save_merged: true"), "save_merged", "cannot be folded into weights"),
    "fsdp2 on one rank": (beside("engine: fsdp2"), "engine", "fsdp2 cannot slice a mixture"),
    "ZeRO-3 on one rank": (
        beside("deepspeed: {zero_optimization: {stage: 3}}\n    engine: deepspeed"),
        "engine",
        "ZeRO stage 3 cannot slice a mixture",
    ),
    "a column of the log": ((FIRST, "experts: {step: {stage: english"), "adapter.experts.step", "mole_log.csv"),
    "no name": ((FIRST, 'experts: {"": {stage: english'), "adapter.experts.", "it may not be empty"),
    "a name of two lines": ((FIRST, 'experts: {"a\\nb": {stage: english'), "adapter.experts.a", "line breaks"),
    "the same twice": (
        ("ko: {stage: korean", "ko: {stage: english"),
        "adapter.experts.ko",
        "`english` is `en` already",
    ),
    "one alone": (
        (", ko: {stage: korean, use: factors}}", "}"),
        "adapter.experts",
        "needs 2 entries at least",
    ),
    "gates that learn nothing": (
        ("      gate: token", "      gate: token\n      top_k: 1\n      balance: none"),
        "adapter.top_k",
        "no gate would learn",
    ),
    "another role": (
        ("      gate: token", "      gate: token\n      target: vision_tower"),
        "adapter.target",
        "use target: language_model",
    ),
    "the output head": (
        ("      gate: token", "      gate: token\n      target_modules: [q_proj, lm_head]"),
        "adapter.target_modules",
        "lm_head lies outside of the decoder's blocks",
    ),
    "a name that nothing resembles": (
        ("ko: {stage: korean", "ko: {stage: zzz"),
        "adapter.experts.ko.stage",
        "known are: base, english, korean, model. Stages of other variants",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(folder: Folder, name: str) -> None:
    change, key, message = MISTAKES[name]
    told = folder.error(written(change))
    assert f"stages.mix.{key}" in told and message in told, told


def test_gates_that_only_their_balance_moves_are_told(folder: Folder) -> None:
    study = folder.load(written(("      gate: token", "      gate: token\n      top_k: 1"))).study
    assert [line for line in merge_warnings(study) if "`mix`: with top_k: 1" in line]
    assert not merge_warnings(folder.load(STUDY).study)


def with_more(stage: str = MORE, *changes: tuple[str, str]) -> str:
    return written(("variants:", f"{stage}variants:"), ("korean, mix]", "korean, mix, more]"), *changes)


def test_a_stage_goes_on_with_the_mixture_before(folder: Folder) -> None:
    stages = folder.load(with_more()).study.variants["mixture"].training
    assert stages["more"].init == "continue"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (MORE.replace("gate: token", "gate: layer"), "gate token → layer; keep it alike, or use `base`"),
        ("  more: {data: digits, init: continue, adapter: {lora_r: 16}}\n", "type mole → lora; keep it alike"),
        (
            MORE.replace("en: {stage: english, use: factors}", "en: english"),
            "experts {en: english (factors), ko: korean (factors)} → {en: english, ko: korean (factors)}",
        ),
    ],
)
def test_what_goes_on_is_the_same_mixture(folder: Folder, stage: str, message: str) -> None:
    assert message in folder.error(with_more(stage))


def test_a_mixture_is_not_stacked_on_one_that_folds(folder: Folder) -> None:
    stacked = MORE.replace("init: continue", "init: stack")
    told = folder.error(with_more(stacked, ("      gate: token", "      gate: layer")))
    assert "a mixture of experts sits on a whole model" in told
