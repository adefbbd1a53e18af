"""A tiny InternVL of transformers' own class, and components of its size."""

from typing import Any

import torch

IMAGE_TOKEN = 7
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": [28, 28],
    "patch_size": [7, 7],
}
INTERNVL: dict[str, Any] = {
    "text_config": TEXT,
    "vision_config": VISION,
    "image_token_id": IMAGE_TOKEN,
    "image_seq_length": 4,
    "downsample_ratio": 0.5,
    "tie_word_embeddings": False,
}
ALL = {
    "rope2d": {},
    "pyramid": {"how": "fpn", "hidden_size": 8},
    "c_abstractor": {"num_queries": 9, "depth": 1, "hidden_size": 16},
}


def build(**vision: Any) -> Any:
    """4 layers and 4×4 patches per tile, the same weights each time and none of them zero."""
    from transformers import AutoModelForImageTextToText, InternVLConfig

    config = InternVLConfig(**{**INTERNVL, "vision_config": {**VISION, **vision}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) * 0.1
    return model.eval()
