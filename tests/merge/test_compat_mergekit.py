"""Equal to mergekit 0.1.5, whose results tests/golden/make_merge.py stored."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tunestudy.config.merge import MergeStage
from tunestudy.merge import compat_mergekit, one_stream
from tunestudy.models.roles import role_of

FILE = Path(__file__).parents[1] / "golden" / "merge.safetensors"

with safe_open(FILE, "pt") as golden:
    FACTS = golden.metadata()
    HELD: dict[str, Tensor] = {name: golden.get_tensor(name) for name in golden.keys()}  # noqa: SIM118 - no mapping
CASES = json.loads(FACTS["cases"])
SEEDS = json.loads(FACTS["seeds"])


def tensors(name: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    found = {key.removeprefix(f"{name}/"): one for key, one in HELD.items() if key.startswith(f"{name}/")}
    return found if dtype is None else {key: one.to(dtype) for key, one in found.items()}


def merged(name: str, seed: int | None = None) -> dict[str, Tensor]:
    settings = MergeStage.model_validate(CASES[name])
    dtype = getattr(torch, CASES[name]["dtype"])
    base = tensors("base", dtype) if settings.base else {}
    models = {one: tensors(one, dtype) for one in settings.models}
    one_stream.begin(SEEDS[name] if seed is None else seed)
    return {
        key: compat_mergekit.merge_tensor(
            key, base.get(key), {one: held[key] for one, held in models.items()}, settings, role_of(key)
        )
        for key in sorted(tensors("base"))
    }


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_mergekits_to_the_bit(name: str) -> None:
    mine, theirs = merged(name), tensors(name)
    assert mine.keys() == theirs.keys()
    same_sums = torch.backends.cpu.get_cpu_capability() == FACTS["cpu"]
    for key, tensor in theirs.items():
        assert mine[key].dtype is tensor.dtype, key
        if same_sums:
            assert torch.equal(mine[key], tensor), key
        else:  # sums of many values have other last bits where vectors have another width
            torch.testing.assert_close(mine[key], tensor, rtol=2e-6 if "float32" in name else 1e-2, atol=1e-7)


def test_the_seed_decides_what_is_dropped() -> None:
    name = "float32.dare_ties"
    assert not torch.equal(merged(name, seed=1)["lm_head.weight"], merged(name, seed=2)["lm_head.weight"])


def test_torchs_own_stream_is_neither_read_nor_moved() -> None:
    name, key = "float32.dare_linear", "lm_head.weight"
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(merged(name)[key])
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*found)


def test_a_difference_of_nothing_but_zeros_adds_nothing() -> None:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    models = {"en": {"path": "en", "density": 0.2}, "ko": {"path": "ko", "density": 0.5}}
    for method in ("ties", "dare_linear", "dare_ties"):
        settings = MergeStage.model_validate(
            {"method": method, "models": models, "base": "model", "compat": "mergekit"}
        )
        one_stream.begin(1)
        found = compat_mergekit.merge_tensor("w", base, {"en": base, "ko": base}, settings, "language_model")
        assert torch.equal(found, base), method
