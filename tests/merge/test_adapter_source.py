"""Adapters read as folded models, against PEFT's own folding."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunestudy.config.errors import StudyError
from tunestudy.merge.adapter_source import BLOCK_VALUES, AdapterSource
from tunestudy.merge.source import FolderSource
from tunestudy.models.tensorfiles import TensorFiles

LLAMA = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
}


def llama(**config: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **config}))


def internvl() -> Any:
    from tinyvision import build

    return build()


def adapted(model: Any, folder: Path, **options: Any) -> Any:
    """The model with a disturbed adapter on it; both are saved, as `base` and `adapter`."""
    from peft import LoraConfig, get_peft_model

    model.save_pretrained(folder / "base")
    peft = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 5, **options}))
    torch.manual_seed(1)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    peft.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return peft


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": (llama, {"target_modules": "all-linear"}),
    "rslora": (llama, {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "k_proj"],
            "rank_pattern": {"k_proj": 5},
            "alpha_pattern": {"1.self_attn.q_proj": 9},
        },
    ),
    "embeddings": (llama, {"target_modules": ["embed_tokens", "v_proj"]}),
    "dora": (llama, {"target_modules": "all-linear", "use_dora": True}),
    "saved": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "biases": (llama, {"target_modules": ["q_proj"], "bias": "all"}),
    "internvl lora": (internvl, {"target_modules": "all-linear"}),
    "internvl dora": (
        internvl,
        {"target_modules": ["q_proj", "fc1"], "use_dora": True, "modules_to_save": ["linear_2"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_folded_as_peft_folds(case: str, tmp_path: Path) -> None:
    make, options = CASES[case]
    model = make() if case != "biases" else llama(attention_bias=True)
    peft = adapted(model, tmp_path, **options)
    merged = peft.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    expected = TensorFiles(tmp_path / "merged")
    base = FolderSource(tmp_path / "base")
    source = AdapterSource(base, tmp_path / "adapter")
    assert set(source.tensors) == set(expected.tensors)
    touched = [name for name in source.tensors if not source.is_untouched(name)]
    assert touched
    for name in source.tensors:
        torch.testing.assert_close(source.read(name), expected.read(name), atol=1e-6, rtol=0)
        difference = expected.read(name) - base.read(name)
        torch.testing.assert_close(source.difference(base, name), difference, atol=1e-6, rtol=0)
        assert (difference != 0).any() == (name in touched), name


@pytest.mark.parametrize("trusted", [True, False])
def test_a_base_of_code_of_its_own_is_asked_for_names_only_if_it_is_trusted(tmp_path: Path, trusted: bool) -> None:
    """Of a person nothing is asked: transformers would, and wait."""
    adapted(llama(), tmp_path, target_modules=["q_proj"])
    folder = tmp_path / "base"
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    stored = load_file(folder / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in stored.items()}  # as of a model without its head
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    if not trusted:
        with pytest.raises(
            StudyError, match=r"only the class of its base can tell; .* set model.trust_remote_code: true"
        ):
            AdapterSource(FolderSource(folder), tmp_path / "adapter")
        return
    source = AdapterSource(FolderSource(folder), tmp_path / "adapter", trust_remote_code=True)
    assert not source.is_untouched("layers.0.self_attn.q_proj.weight")


def test_any_slice_has_the_bits_of_the_whole(tmp_path: Path) -> None:
    model = llama(hidden_size=96, intermediate_size=BLOCK_VALUES // 96 * 2 + 7)
    adapted(model, tmp_path, target_modules=["up_proj", "down_proj"], use_dora=True)
    base = FolderSource(tmp_path / "base")
    source = AdapterSource(base, tmp_path / "adapter")
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        whole, read = source.difference(base, name), source.read(name)
        for start, stop in ((0, 1), (5, 5), (95, 97), (BLOCK_VALUES - 3, BLOCK_VALUES + 200), (1000, len(whole))):
            assert torch.equal(source.difference(base, name, start, stop), whole[start:stop])
            assert torch.equal(source.read(name, start, stop), read[start:stop])


def test_difference_to_another_base_holds_both_ways(tmp_path: Path) -> None:
    """Of an adapter on a fine-tuned model, to the model before: what both changed."""
    adapted(llama(), tmp_path, target_modules=["q_proj"])
    weights = load_file(tmp_path / "base" / "model.safetensors")
    before = tmp_path / "before"
    before.mkdir()
    save_file({name: tensor + 0.5 for name, tensor in weights.items()}, before / "model.safetensors")
    base, older = FolderSource(tmp_path / "base"), FolderSource(before)
    source = AdapterSource(base, tmp_path / "adapter", same_base=False)
    for name in source.tensors:
        assert not source.is_untouched(name)
        expected = source.read(name) - older.read(name)
        torch.testing.assert_close(source.difference(older, name), expected, atol=1e-6, rtol=0)


def test_bfloat16_base_keeps_small_differences(tmp_path: Path) -> None:
    """A difference is not what is left of it after rounding to the base's type."""
    model = llama().to(torch.bfloat16)
    adapted(model, tmp_path, target_modules=["q_proj"])
    base = FolderSource(tmp_path / "base")
    source = AdapterSource(base, tmp_path / "adapter")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    exact = tensors[f"{key}B.weight"].double() @ tensors[f"{key}A.weight"].double() * (5 / 3)
    torch.testing.assert_close(source.difference(base, name).double(), exact.flatten(), atol=1e-6, rtol=0)
    assert source.read(name).dtype is torch.bfloat16


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    adapted(llama(), folder, target_modules=["q_proj"])
    return folder


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"peft_type": "IA3"}, "type IA3"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "save_merged"),
        ({"init_lora_weights": "pissa_niter_4"}, "base's own weights"),
        ({"use_qalora": True}, "use_qalora"),
        ({"lora_alpha": None}, "no lora_alpha"),
    ],
)
def test_what_cannot_be_folded_is_refused(values: dict[str, Any], told: str, plain: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(plain / "adapter", tmp_path / "adapter")
    change_config(folder, **values)
    if values.get("lora_alpha", 0) is None:
        config = json.loads((folder / "adapter_config.json").read_text())
        del config["lora_alpha"]
        (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(StudyError, match=told):
        AdapterSource(FolderSource(plain / "base"), folder)


@pytest.mark.parametrize(
    ("rename", "told"),
    [
        (("q_proj.lora_B", "q_proj.lora_C"), "no part of a LoRA"),
        (("0.self_attn.q_proj", "7.self_attn.q_proj"), "does not hold under any name"),
        (("0.self_attn.q_proj", "0.self_attn.k_proj"), "is made for"),
        (("q_proj.lora_B.weight", "q_proj.lora_magnitude_vector"), "only one of the two"),
    ],
)
def test_tensors_without_a_place_are_refused(rename: tuple[str, str], told: str, plain: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(plain / "adapter", tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    save_file({name.replace(*rename): tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(StudyError, match=told):
        AdapterSource(FolderSource(plain / "base"), folder)
