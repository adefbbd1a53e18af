"""Which files of a repository are fetched."""

import pytest

from tunestudy.data.hub.choose import NoFilesError, configs_of, dataset_files, model_files, subset_files

CONFIGS = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "merges.txt",
    "vocab.json",
]
OTHERS = [
    *("README.md", ".gitattributes", "LICENSE", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"),
    *("flax_model.msgpack", "onnx/model.onnx", "onnx/config.json", "q4.gguf", "consolidated.safetensors"),
    *("original/params.json", "params.json", "model.fp16.safetensors", "requirements.txt"),
]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
CODE = ["modeling_x.py"]


@pytest.mark.parametrize(
    ("weights", "parts", "chosen"),
    [
        (["model.safetensors"], ("weights", "tokenizer"), ["model.safetensors"]),
        (SHARDS, ("weights", "tokenizer"), SHARDS),
        ([*SHARDS, "preprocessor_config.json", "chat_template.jinja"], ("tokenizer",), None),
        (["model.safetensors"], ("weights", "tokenizer", "code"), ["model.safetensors", *CODE]),
    ],
)
def test_weights_once_and_nothing_that_is_not_read(weights, parts, chosen) -> None:
    if chosen is None:  # without weights: but what describes them is small, and comes
        chosen = ["model.safetensors.index.json", "preprocessor_config.json", "chat_template.jinja"]
    assert model_files([*CONFIGS, *OTHERS, *weights, *CODE], parts) == sorted([*CONFIGS, *chosen])


def test_a_folder_inside_a_pipeline() -> None:
    names = ["model_index.json", "unet/config.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert model_files(names, ["vae/"]) == names[2:]
    with pytest.raises(NoFilesError, match=r"has no vea/config\.json"):
        model_files(names, ["vea/"])
    assert model_files(["config.json", "diffusion_pytorch_model.safetensors"], ["/"]) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


def test_pickled_weights_alone_are_refused() -> None:
    with pytest.raises(NoFilesError, match=r"has weights as \.bin alone.*convert them"):
        model_files([*CONFIGS, "pytorch_model.bin"], ["weights"])
    with pytest.raises(NoFilesError, match="has no weights"):
        model_files(CONFIGS, ["weights"])


CARD = """---
license: mit
configs:
- config_name: en
  data_files: [{split: train, path: "en/train-*"}, {split: test, path: ["en/test-*"]}]
- config_name: ko
  data_dir: ko
---
# A data set
"""
DATA = ["en/train-0.parquet", "en/train-1.parquet", "en/test-0.parquet", "ko/all.jsonl", "ko/deep/more.jsonl"]


def test_one_subset_of_several() -> None:
    configs = configs_of(CARD)
    names = ["README.md", "load.py", ".gitattributes", *DATA]
    assert dataset_files(names, ["en"], configs) == ["README.md", *sorted(DATA[:3])]
    assert dataset_files(names, ["en", "ko"], configs) == ["README.md", *sorted(DATA)]
    assert subset_files(DATA, "en", configs) == {"train": DATA[:2], "test": DATA[2:3]}
    with pytest.raises(NoFilesError, match="no subset `fr`; it has en, ko"):
        dataset_files(names, ["fr"], configs)
    with pytest.raises(NoFilesError, match="several subsets; name one of en, ko as `subset`"):
        dataset_files(names, ["default"], configs)
    assert dataset_files(names, ["default"], configs_of(CARD.replace("data_dir: ko", "data_dir: ko\n  default: true")))


def test_files_by_a_pattern() -> None:
    names = ["README.md", "0a.parquet", "deep/1b.parquet", "0a.npz", "en/train-0.parquet"]
    assert dataset_files(names, ["*.parquet"], {}) == ["0a.parquet", "deep/1b.parquet", "en/train-0.parquet"]
    assert dataset_files(["README.md", *DATA], ["deep/*", "ko/*", "en"], configs_of(CARD)) == [
        "README.md",
        *sorted(DATA),
    ]
    with pytest.raises(NoFilesError, match=r"holds no \*\.parquet"):
        dataset_files(["README.md", "0a.npz"], ["*.parquet"], {})


@pytest.mark.parametrize("card", [None, "", "# no head", "---\n: [\n---\n", "---\n- a list\n---\n"])
def test_a_card_without_subsets_means_all_data(card) -> None:
    assert dataset_files(["README.md", "a.csv", "deep/b.csv"], ["default"], configs_of(card))[1:] == [
        "a.csv",
        "deep/b.csv",
    ]


def test_a_script_is_no_data() -> None:
    with pytest.raises(NoFilesError, match="no data files, only a script"):
        dataset_files(["README.md", "squad.py"], ["default"], {})
