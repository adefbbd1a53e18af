"""Adapters in study files: each kind's own options, kinds over a matrix, and what no training can carry out."""

from collections.abc import Callable
from typing import Any

import pytest

from tunestudy.config.adapter import LoraAdapter, SoraAdapter
from tunestudy.config.stage import TrainStage
from tunestudy.study.adapter_options import KINDS, quantisation_mistakes, rank_mistakes

Folder = Any
Edit = Callable[..., str]
SIZES = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2}


def adapt(edited: Edit, settings: str) -> str:
    return edited(("adapt: {data: rotated,", f"adapt: {{data: rotated, {settings},"))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ("{sparse_lambda: 0.1}", "`sparse_lambda` belongs to sora and sdora; this adapter is lora"),
        ("{type: dora, target_sparsity: 0.5}", "`target_sparsity` belongs to sora and sdora; this adapter is dora"),
        (
            "{type: sora, target_sparsity: 0.5, dropout_on: adapter}",
            "`dropout_on` belongs to dora and sdora; this adapter is sora",
        ),
        (
            "{type: dora, init_lora_weights: gaussian}",
            "`init_lora_weights` belongs only to lora; this adapter is dora",
        ),
        ("{init_lora_weights: pissa}, quantization: {load_in_4bit: true}", "pissa needs the weights' own factors"),
        ("{init_lora_weights: olora, target_parameters: [experts.up]}", "olora starts from linear modules"),
        ("{type: sora, sparse_lamda: 0.1}", "did you mean `sparse_lambda`?"),
        ("{type: sorra}", "there is no type `sorra`; did you mean `sora`?"),
        ("{type: sora}", "needs sparse_lambda, sparse_lambda_schedule or target_sparsity"),
        ("{type: sora, sparse_lambda: -1}", "must be at least 0, got the number -1"),
        ("{type: sora, target_sparsity: 1.0}", "must be less than 1"),
    ],
)
def test_an_option_of_another_kind_is_told_with_its_owners(
    folder: Folder, edited: Edit, adapter: str, message: str
) -> None:
    told = folder.error(adapt(edited, f"adapter: {adapter}"))
    assert message in told
    assert told.startswith("study.yaml:17: stages.adapt.adapter")


def test_a_matrix_over_the_type_keeps_what_the_kinds_share(folder: Folder, edited: Edit) -> None:
    text = adapt(edited, "adapter: {lora_r: 8, lora_alpha: 12, init_lora_weights: gaussian}")
    text += (
        '  "{kind}":\n    matrix: {kind: [lora, dora]}\n    stages: [base, adapt]\n'
        '    overrides: {adapt.adapter.type: "{kind}"}\n'
        '  "{kind}_{share}":\n    matrix: {kind: [sora, sdora], share: [0.25, 0.5]}\n    stages: [base, adapt]\n'
        '    overrides: {adapt.adapter: {type: "{kind}", target_sparsity: "{share}"}}\n'
    )
    variants = folder.load(text).study.variants
    kinds = {name: variants[name].stages["adapt"].adapter for name in variants if name[:4] in ("lora", "dora", "sora")}
    assert {adapter.lora_alpha for adapter in kinds.values()} == {12}
    assert variants["lora"].stages["adapt"].adapter.init_lora_weights == "gaussian"
    assert variants["sdora_0.25"].stages["adapt"].adapter.target_sparsity == 0.25
    assert [variants[name].stages["adapt"].adapter.type for name in ("dora", "sora_0.5", "sdora_0.5")] == [
        "dora",
        "sora",
        "sdora",
    ]


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ("{lora_r: 4}", "{lora_r: 4, lora_dropout: 0.1}", ""),
        ("{lora_r: 4}", "{type: dora, lora_r: 4}", "type lora → dora"),
        ("{lora_r: 4}", "{lora_r: 4, target: language_model}", "target None → language_model"),
        ("{lora_r: 4}", "{lora_r: 4, rank_pattern: {q_proj: 2}}", "rank_pattern {} → {'q_proj': 2}"),
        ("{lora_r: 4}", "{lora_r: 4, alpha_pattern: {q_proj: 2}}", "alpha_pattern"),
        ("{lora_r: 4}", "{lora_r: 4, target_parameters: [up]}", "target_parameters () → ('up',)"),
        ("{lora_r: 4, use_rslora: true}", "{lora_r: 4}", "use_rslora True → False"),
        ("{type: dora, lora_r: 4}", "{type: dora, lora_r: 4, dropout_on: adapter}", ""),
        (
            "{type: sora, lora_r: 4, target_sparsity: 0.5}",
            "{type: sora, lora_r: 4, target_sparsity: 0.75, lora_dropout: 0.1}",
            "",
        ),
    ],
)
def test_continue_compares_what_decides_the_weights(
    folder: Folder, edited: Edit, first: str, then: str, said: str
) -> None:
    text = edited(
        ("base: {data: upright, max_steps: 300}", f"base: {{data: upright, max_steps: 300, adapter: {first}}}"),
        ("adapt: {data: rotated,", f"adapt: {{data: rotated, init: continue, adapter: {then},"),
    ).split('  lora_r{r}:')[0]  # fmt: skip
    if said:
        assert said in folder.error(text)
    else:
        assert folder.load(text)


@pytest.mark.parametrize(
    ("adapter", "names"),
    [
        (LoraAdapter(lora_r=32), []),
        (LoraAdapter(lora_r=33), ["k_proj"]),
        (LoraAdapter(lora_r=64, target_modules=("q_proj", "up_proj")), []),
        (LoraAdapter(lora_r=65, target_modules=("q_proj", "up_proj")), ["q_proj"]),
        (LoraAdapter(lora_r=200, target_modules=".*q_proj"), []),
        (LoraAdapter(lora_r=16, rank_pattern={"layers.0.self_attn.v_proj": 40}), ["v_proj"]),
        (SoraAdapter(lora_r=33, target_sparsity=0.5), ["k_proj"]),
    ],
)
def test_a_rank_above_the_smallest_matrix(adapter: LoraAdapter | SoraAdapter, names: list[str]) -> None:
    told = [message for _, message in rank_mistakes(adapter, SIZES)]
    assert len(told) == len(names)
    assert all(f"`{name}` of this model has rank" in message for name, message in zip(names, told, strict=True))
    assert list(rank_mistakes(adapter, {})) == [], "a model whose sizes are not known is the worker's to judge"


def test_a_rank_too_large_is_told_at_its_line(folder: Folder, edited: Edit) -> None:
    told = folder.error(
        adapt(edited, "adapter: {lora_r: 99}").replace("hidden_size: 32", "hidden_size: 32, num_attention_heads: 4")
    )
    assert told.startswith("study.yaml:17: stages.adapt.adapter")
    assert "rank 99 is larger than the matrix: `q_proj` of this model has rank 32 at most" in told


@pytest.mark.parametrize(
    ("engine", "options", "wrong"),
    [
        ("single", {}, False),
        ("ddp", {}, False),
        ("fsdp2", {}, True),
        ("fsdp2", {"fsdp2": {"shard": "gradients"}}, False),
    ],
)
@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_few_bits_and_slices(engine: str, options: dict[str, Any], wrong: bool, bits: str) -> None:
    few = {"quantization": {bits: True}, "adapter": {"type": "lora"}}
    stage = TrainStage(data=("digits",), learning_rate=1e-3, **few, **options)
    assert [path[-1] for path, _ in quantisation_mistakes(stage, engine=engine)] == ["quantization"] * wrong


@pytest.mark.parametrize(
    ("resources", "stage", "said"),
    [
        ("ranks: 2", "engine: single", "single is one rank, and resources.ranks is 2"),
        ("ranks: 2", "engine: fsdp2, adapter: {lora_r: 4}, quantization: {load_in_4bit: true}", "cannot slice weights"),
        ("ranks: 1", "engine: fsdp2, adapter: {lora_r: 4}, quantization: {load_in_4bit: true}", ""),
        ("ranks: 2", "engine: fsdp2", ""),
        ("ranks: 2", "engine: fsdp", "did you mean"),
    ],
)
def test_engines_are_checked_with_the_ranks_that_they_get(
    folder: Folder, edited: Edit, resources: str, stage: str, said: str
) -> None:
    text = adapt(edited, stage) + f"resources: {{{resources}}}\n"
    if said:
        assert said in folder.error(text)
    else:
        assert folder.load(text)


def test_every_kind_is_known() -> None:
    assert {name: adapter.model_fields["type"].default for name, adapter in KINDS.items()} == {
        name: name for name in ("lora", "dora", "sora", "sdora", "mole")
    }
