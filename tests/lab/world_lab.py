"""Tiny models of the architectures that take a world part, and a tiny autoencoder."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from tunestudy.config.model import CharacterTokenizer
from tunestudy.config.world import WorldSettings
from tunestudy.models.tokenizer import character_tokenizer

TOKENIZER = CharacterTokenizer(alphabet="0123456789abcdefghij\n=")
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {**TEXT, "tie_word_embeddings": True},
    "gemma3": {
        "text_config": TEXT,
        "vision_config": {**VISION, "patch_size": 7, "vision_use_head": False},
        "mm_tokens_per_image": 4,
    },
    "internvl": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {**VISION, "image_size": [28, 28], "patch_size": [7, 7]},
    },
    "qwen3_vl": {"text_config": {**TEXT, "rope_parameters": ROPE}, "vision_config": QWEN_VISION},
}
WAN: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [0.5, 1.0, 2.0, 1.5],
}
COSMOS: dict[str, Any] = {
    "encoder_block_out_channels": [8, 16, 16, 16],
    "decode_block_out_channels": [8, 16, 16, 16],
    "num_layers": 1,
    "attention_resolutions": [8],
    "resolution": 32,
    "latent_channels": 4,
}


def world_settings(**options: Any) -> WorldSettings:
    """32 pixels → 4 × 4 latent cells → 2 × 2 tokens per frame."""
    encoder = {"type": "wan", "config": WAN}
    return WorldSettings.model_validate({"encoder": encoder, "image_size": 32, "tokens": 4, **options})


def build(architecture: str = "qwen3", reserve: int = 0) -> tuple[Any, Any]:
    """A random model and its tokenizer; `reserve`: rows of its embedding beyond the tokenizer's tokens."""
    torch.manual_seed(0)
    tokenizer = character_tokenizer(TOKENIZER)
    values = {**CONFIGS[architecture]}
    size = {"vocab_size": len(tokenizer) + reserve, "pad_token_id": 0, "initializer_range": 0.2}
    if "text_config" in values:
        values["text_config"] = {**values["text_config"], **size}
        auto: Any = AutoModelForImageTextToText
    else:
        values, auto = {**values, **size}, AutoModelForCausalLM
    return auto.from_config(CONFIG_MAPPING[architecture](**values)).eval(), tokenizer


def pixels(count: int, seed: int = 0, side: int = 32) -> torch.Tensor:
    """(N, 3, S, S) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
