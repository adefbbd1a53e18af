"""Parts of a model on devices of their own. Here every device is the CPU; the hooks that move tensors are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from alike import equal_logs, equal_models
from tinyjob import ADAPTER, make_job, run, tiny_model
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.config.errors import StudyError
from tunestudy.models.placement import place

BY_PART = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}


def small() -> Any:
    return AutoModelForCausalLM.from_config(
        Qwen3Config(**tiny_model(tie_word_embeddings=False)["config"], vocab_size=32)
    )


@pytest.mark.parametrize(
    "device_map", ["auto", "balanced", "balanced_low_0", "sequential", {**BY_PART, "lm_head": "cpu"}]
)
def test_parts_are_moved_to_by_hooks_and_give_the_same(device_map: Any) -> None:
    model = small().eval()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        placed = place(model, device_map)
        assert torch.equal(placed(input_ids=ids).logits, expected)
    assert any(hasattr(module, "_hf_hook") for module in placed.modules())


@pytest.mark.parametrize(
    ("device_map", "said"),
    [
        ({"model.embed": "cpu"}, "has no module model.embed"),
        ({"model.embed_tokens": "cpu"}, "model.layers"),
        ({**BY_PART, "lm_head": "disk"}, "would stay off the GPUs"),
        ({"": "cuda:77"}, "77|CUDA|cuda"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(device_map: Any, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        place(small(), device_map)


@pytest.mark.parametrize("settings", [{}, {"adapter": ADAPTER, "activation_checkpointing": True}])
def test_a_stage_with_a_map_learns_what_it_learns_without(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = {"model": tiny_model(tie_word_embeddings=False), "max_steps": 4, **settings}
    one = make_job(tmp_path, "one", **settings)
    two = make_job(tmp_path, "two", device_map="auto", **settings)
    assert run(one) and run(two)
    equal_logs(one, two)
    equal_models(one, two)
