"""Equal to the functions of the installed PEFT."""

from typing import Any

import pytest
import torch
from peft.utils import merge_utils
from torch import Tensor

from tunestudy.config.errors import StudyError
from tunestudy.config.merge import MergeStage
from tunestudy.merge import compat_peft, one_stream

DENSITY = 0.3


def stage(method: str, weights: dict[str, float], **more: Any) -> MergeStage:
    sparse = {} if method in ("linear", "task_arithmetic", "slerp") else {"density": DENSITY}
    models = {name: {"path": name, "weight": weight, **sparse} for name, weight in weights.items()}
    return MergeStage.model_validate({"method": method, "models": models, "base": "model", "compat": "peft", **more})


def drawn(shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(len(shape))
    return [torch.randn(shape, generator=random).to(dtype) for _ in range(count)]


def of_peft(method: str, differences: list[Tensor], weights: Tensor, seed: int) -> Tensor:
    """PEFT draws from torch's own stream."""
    options = {} if method == "task_arithmetic" else {"density": DENSITY}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(merge_utils, method)(differences, weights, **options)


@pytest.mark.parametrize("shape", [(24, 40), (7,), (3, 4, 5), (2,)])
@pytest.mark.parametrize("weights", [{"en": 0.6, "ko": 0.35}, {"en": 1.0, "ko": -0.5, "ja": 0.2}, {"en": 0.7}])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_the_merged_difference_is_pefts(method: str, weights: dict[str, float], shape: tuple[int, ...]) -> None:
    base, *models = drawn(shape, 1 + len(weights))
    one_stream.begin(11)
    mine = compat_peft.merge_tensor(
        "w", base, dict(zip(weights, models, strict=True)), stage(method, weights), "language_model"
    )
    theirs = of_peft(method, [model - base for model in models], torch.tensor(list(weights.values())), seed=11)
    torch.testing.assert_close(mine, base + theirs, rtol=0, atol=1e-6)
    assert mine.shape == base.shape


def test_random_numbers_go_on_from_tensor_to_tensor_and_begin_anew_with_the_seed() -> None:
    base, en = drawn((30, 30), 2)
    settings = stage("dare_linear", {"en": 1.0})
    one = lambda: compat_peft.merge_tensor("w", base, {"en": en}, settings, "language_model")  # noqa: E731
    one_stream.begin(3)
    first, second = one(), one()
    one_stream.begin(3)
    assert torch.equal(first, one())
    assert not torch.equal(first, second)


def test_torchs_own_stream_is_neither_read_nor_moved() -> None:
    base, en = drawn((8, 8), 2)
    before = torch.get_rng_state()
    one_stream.begin(3)
    compat_peft.merge_tensor("w", base, {"en": en}, stage("dare_ties", {"en": 1.0}), "language_model")
    assert torch.equal(before, torch.get_rng_state())


def test_weights_and_densities_of_a_role_win_and_scale_multiplies() -> None:
    base, en, ko = drawn((40, 50), 3)
    models = {
        "en": {"path": "en", "weight": 5.0, "weights": {"lm_head": 0.5}, "density": 0.9, "densities": {"lm_head": 0.2}},
        "ko": {"path": "ko", "weight": 2.0, "density": 0.4},
    }
    settings = MergeStage.model_validate(
        {"method": "ties", "models": models, "base": "model", "compat": "peft", "scale": 0.5}
    )
    kept = [
        merge_utils.prune(value - base, density, "magnitude")
        for value, density in zip((en, ko), (0.2, 0.4), strict=True)
    ]
    mask = merge_utils.calculate_majority_sign_mask(torch.stack(kept))
    theirs = merge_utils.disjoint_merge(torch.stack([0.5 * kept[0], 2.0 * kept[1]]), mask)
    mine = compat_peft.merge_tensor("lm_head.weight", base, {"en": en, "ko": ko}, settings, "lm_head")
    torch.testing.assert_close(mine, base + 0.5 * theirs, rtol=0, atol=1e-6)


def test_a_model_in_half_precision_is_summed_in_full_and_keeps_its_type() -> None:
    base, en, ko = drawn((16, 16), 3, torch.bfloat16)
    settings = stage("task_arithmetic", {"en": 0.3, "ko": 0.4})
    mine = compat_peft.merge_tensor("w", base, {"en": en, "ko": ko}, settings, "language_model")
    exact = base.double() + 0.3 * (en.double() - base.double()) + 0.4 * (ko.double() - base.double())
    assert mine.dtype is torch.bfloat16
    torch.testing.assert_close(mine.double(), exact, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "more", "place", "words"),
    [
        ("slerp", {}, "compat", "no slerp"),
        ("linear", {}, "compat", "task_arithmetic"),
        ("ties", {"normalize": True}, "normalize", "leave it out"),
    ],
)
def test_what_peft_has_not_is_refused(method: str, more: dict[str, Any], place: str, words: str) -> None:
    base, en, ko = drawn((4, 4), 3)
    settings = stage(method, {"en": 1.0, "ko": 1.0}, **more)
    with pytest.raises(StudyError, match=words) as error:
        compat_peft.merge_tensor("w", base, {"en": en, "ko": ko}, settings, "language_model")
    assert error.value.place.key == place
