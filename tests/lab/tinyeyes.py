"""Tiny vision-language models of three architectures, with images and questions made by seed."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tunestudy.config.data import DataSettings
from tunestudy.config.model import ModelConfig
from tunestudy.data.corpus import Corpus, CorpusWriter, open_corpus
from tunestudy.data.example import Example
from tunestudy.data.images import ImageBytes, ImagePlaces, decode
from tunestudy.data.pictured import with_images
from tunestudy.data.rejected import Rejected
from tunestudy.data.store import ImageStore
from tunestudy.data.tokenize import Sample, Tokenize
from tunestudy.data.vision import Eyes
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.origin import load_processor, load_tokenizer, random_weights

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 ?.\n"
DECODER = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "internvl": {
        "text_config": {"model_type": "qwen2", "num_hidden_layers": 2, **DECODER},
        "vision_config": {"image_size": [28, 28], "patch_size": [7, 7], **TOWER},
        "image_seq_length": 4,
        "downsample_ratio": 0.5,
    },
    "gemma3": {
        "text_config": {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            **DECODER,
        },
        "vision_config": {"image_size": 28, "patch_size": 7, "vision_use_head": False, **TOWER},
        "mm_tokens_per_image": 4,
    },
    "qwen3_vl": {
        "text_config": {
            "num_hidden_layers": 2,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            **DECODER,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    },
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "internvl": {"max_patches": 4},
    "gemma3": {},
    "qwen3_vl": {"min_pixels": 256, "max_pixels": 4096},
}


def model_settings(architecture: str, alphabet: str = ALPHABET) -> dict[str, Any]:
    """The `model:` of a study with random weights."""
    return {
        "architecture": architecture,
        "config": CONFIGS[architecture],
        "tokenizer": {"type": "characters", "alphabet": alphabet},
        "image_processor": PROCESSORS[architecture],
    }


def tiny(architecture: str, *, seed: int = 0, alphabet: str = ALPHABET) -> LoadedModel:
    """Random weights, large enough that a wrong mask shows; Gemma's projector, which begins at zero, is filled."""
    settings = ModelConfig.model_validate(model_settings(architecture, alphabet))
    tokenizer = load_tokenizer(settings, Path())
    model = random_weights(settings, tokenizer, seed=seed, device="cpu")
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= 5
            if not parameter.any():
                parameter.data.normal_(0, 0.1, generator=random)
    return LoadedModel(model, tokenizer, {}, processor=load_processor(settings, Path(), model))


def picture(seed: int, size: tuple[int, int] = (28, 28)) -> bytes:
    """A PNG of coloured noise, as large as said (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def example(seed: int, *sizes: tuple[int, int]) -> Example:
    """A question of random length about images of these sizes, one of them in the middle of the text."""
    random = np.random.default_rng(seed)
    letters = "".join(random.choice(list("abcdefgh "), int(random.integers(4, 20))))
    asked = "<image>" * (len(sizes) - 1) + letters[:3] + ("<image>" if sizes else "") + letters[3:]
    images = tuple(ImageBytes(data=picture(seed * 10 + i, size)) for i, size in enumerate(sizes))
    return with_images(Example(prompt=asked, completion=str(random.integers(0, 10**6))), images)


def eyes_of(loaded: LoadedModel, folder: Path) -> Eyes:
    """The model's vision over a store in `folder`."""
    assert loaded.vision is not None
    return Eyes(loaded.vision, ImagePlaces(folder, ImageStore(folder / "images")))


def corpus_of_examples(examples: list[Example], loaded: LoadedModel, folder: Path, **settings: Any) -> Corpus:
    """Tokenised, written and opened again."""
    tokenize = Tokenize(loaded.tokenizer, DataSettings(**settings), eyes_of(loaded, folder))
    with CorpusWriter(folder / "corpus", ("d",)) as writer:
        for number, sample in enumerate(tokenize(examples)):
            assert not isinstance(sample, Rejected), sample
            assert isinstance(sample, Sample)
            writer.add(sample.ids, sample.is_target, sample.images, source=0, sample_id=str(number), content=number)
    return open_corpus(folder / "corpus")


def stock_arguments(loaded: LoadedModel, corpus: Corpus, eyes: Eyes, sample: int) -> dict[str, Any]:
    """What transformers' own processor would hand over for one sample: ids, pixels, types of tokens; no positions."""
    ids = torch.from_numpy(corpus.ids[corpus.offsets[sample] : corpus.offsets[sample + 1]].astype("int64"))[None]
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kind = loaded.model.config.model_type
    types = (ids == loaded.model.config.image_token_id).long()
    assert corpus.images is not None
    if images := [decode(eyes.places.read(fact)) for fact in corpus.images.of(sample)]:
        found = loaded.processor(images=images, return_tensors="pt")
        arguments |= {name: found[name] for name in ("pixel_values", "image_grid_thw") if name in found}
        arguments |= {"mm_token_type_ids": types} if kind == "qwen3_vl" else {}
    if kind == "gemma3":
        arguments["token_type_ids"] = types
    return arguments
