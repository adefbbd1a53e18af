"""Images in any batch, packed or padded, give what the stock model makes of each sample alone."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[2] / "lab"))

from losses import token_losses
from tinyeyes import CONFIGS, corpus_of_examples, example, eyes_of, stock_arguments, tiny

from tunestudy.data.batch import IGNORED, Batch, Layout, Row, batch_of
from tunestudy.data.corpus import Corpus
from tunestudy.data.vision import Eyes
from tunestudy.models.attention import switch_to_segment_attention
from tunestudy.models.loaded import LoadedModel
from tunestudy.train.loss import LossModel

torch.set_num_threads(1)

SIZES = [((28, 28),), (), ((56, 28), (28, 28)), ((40, 64),), ((28, 28),), ((20, 100),)]
"""Images (width, height) of each sample: one, none, several, wide, tall."""
ARCHITECTURES = list(CONFIGS)


@pytest.fixture(params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny(request.param)


def made(loaded: LoadedModel, folder: Path) -> tuple[Corpus, Eyes]:
    examples = [example(seed, *sizes) for seed, sizes in enumerate(SIZES)]
    return corpus_of_examples(examples, loaded, folder, loss_on="all"), eyes_of(loaded, folder)


def alone(loaded: LoadedModel, corpus: Corpus, eyes: Eyes, sample: int) -> tuple[Tensor, Tensor]:
    """Σ NLL of a sample's targets by the stock model, and its logits (T, V)."""
    arguments = stock_arguments(loaded, corpus, eyes, sample)
    logits = loaded.model(**arguments, use_cache=False).logits[0]
    wanted = torch.from_numpy(corpus.is_target[corpus.offsets[sample] : corpus.offsets[sample + 1]].copy())
    targets = arguments["input_ids"][0].masked_fill(~wanted, IGNORED)
    return cross_entropy(logits[:-1], targets[1:], reduction="sum", ignore_index=IGNORED), logits


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


LAYOUTS: dict[str, tuple[Layout, list[Row]]] = {
    "padded": ("right", [(i,) for i in range(len(SIZES))]),
    "packed and padded": ("right", [(0, 1, 2), (3, 4), (5,)]),
    "laid end to end": ("free", [(0, 1, 2), (3,), (4, 5)]),
    "one without an image": ("right", [(1,)]),
}


@pytest.mark.parametrize("way", LAYOUTS)
def test_losses_and_gradients_of_a_batch_are_those_of_its_samples_alone(
    loaded: LoadedModel, way: str, tmp_path: Path
) -> None:
    layout, rows = LAYOUTS[way]
    corpus, eyes = made(loaded, tmp_path)
    loaded.model.train()
    expected = torch.stack([alone(loaded, corpus, eyes, sample)[0] for row in rows for sample in row]).sum()
    expected.backward()
    wanted = gradients(loaded.model)
    if layout == "free" and (obstacle := switch_to_segment_attention(loaded.model)):
        assert loaded.model.config.model_type == "gemma3", obstacle
        layout = "right"
    losses = token_losses(LossModel(loaded.model), batch_of(corpus, rows, layout, eyes=eyes))
    losses.nll_sum.backward()
    assert float(losses.nll_sum.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    got = gradients(loaded.model)
    assert wanted.keys() <= got.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in got.items():
        error = float((gradient - wanted.get(name, torch.zeros_like(gradient))).abs().max())
        assert error <= 1e-5 * largest, name


def test_a_sample_alone_has_the_logits_of_the_stock_model(loaded: LoadedModel, tmp_path: Path) -> None:
    from tunestudy.models.decoder import forward_arguments

    corpus, eyes = made(loaded, tmp_path)
    with torch.no_grad():
        for sample in range(len(corpus)):
            batch = batch_of(corpus, [(sample,)], "right", eyes=eyes)
            length = int(corpus.lengths[sample])
            logits = loaded.model(**forward_arguments(loaded.model, batch)).logits[0, :length]
            assert (logits - alone(loaded, corpus, eyes, sample)[1]).abs().max() <= 1e-5 * logits.abs().max()


def test_images_matter(loaded: LoadedModel, tmp_path: Path) -> None:
    """The comparisons above would hold for a model that sees nothing."""
    corpus, eyes = made(loaded, tmp_path)
    batch = batch_of(corpus, [(0,)], "right", eyes=eyes)
    blind = Batch(**{**vars(batch), "pixels": {**batch.pixels, "pixel_values": batch.pixels["pixel_values"] * 0}})
    model = LossModel(loaded.model)
    with torch.no_grad():
        assert abs(float(model(batch).nll_sum - model(blind).nll_sum)) > 1e-3


def test_a_batch_without_images_reaches_every_weight_and_changes_none(loaded: LoadedModel, tmp_path: Path) -> None:
    """All ranks must go through the tower, and a tensor without a gradient would be taken for one that nobody uses."""
    corpus, eyes = made(loaded, tmp_path)
    for rows in ([(1,)], []):
        batch = batch_of(corpus, rows, "right", eyes=eyes)
        assert batch.num_tokens == sum(corpus.lengths[s] for row in rows for s in row)
        token_losses(LossModel(loaded.model), batch).nll_sum.backward()
        found = gradients(loaded.model)
        tower = [name for name, _ in loaded.model.named_parameters() if "vis" in name or "multi_modal" in name]
        assert tower
        assert set(tower) <= found.keys()
        assert all(not found[name].any() for name in tower)


def test_rope_positions_are_those_of_transformers(tmp_path: Path) -> None:
    loaded = tiny("qwen3_vl")
    corpus, eyes = made(loaded, tmp_path)
    for sample in (0, 2, 3, 5):
        arguments = stock_arguments(loaded, corpus, eyes, sample)
        expected, _ = loaded.model.model.get_rope_index(
            arguments["input_ids"], arguments["mm_token_type_ids"], arguments["image_grid_thw"]
        )
        batch = batch_of(corpus, [(sample,)], "free", eyes=eyes)
        assert batch.rope_positions is not None
        assert torch.equal(batch.rope_positions, expected)


def test_gemmas_window_is_kept_in_packed_rows(tmp_path: Path) -> None:
    """A sample longer than the window, so that the sliding layers' mask is another than the full ones'."""
    loaded = tiny("gemma3")
    corpus, eyes = made(loaded, tmp_path)
    assert corpus.lengths.max() > CONFIGS["gemma3"]["text_config"]["sliding_window"]
    from tunestudy.models.vision.gemma3 import masks

    full, sliding = masks(batch_of(corpus, [(2, 3)], "right", eyes=eyes), 16)
    assert (full & ~sliding).any()
    assert not (sliding & ~full).any()
