"""A model's own eyes and its world part get the same images, each in its own form."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tinyeyes import corpus_of_examples, example, eyes_of, tiny
from world_lab import world_settings

from tunestudy.data.batch import batch_of
from tunestudy.models.components.world import WORLD_PIXELS, WorldVision, install_world, num_world_tokens, world_of


@pytest.fixture(params=["gemma3", "internvl", "qwen3_vl"])
def loaded(request):
    found = tiny(request.param)
    install_world(found.model, found.tokenizer, world_settings(num_world_steps=1), seed=1)
    return found


def test_every_image_has_its_world_text_before_it(loaded, tmp_path):
    sizes = [((28, 28),), (), ((56, 28), (28, 28))]
    corpus = corpus_of_examples([example(i, *of) for i, of in enumerate(sizes)], loaded, tmp_path)
    start, world, end = world_of(loaded.model).ids
    count = num_world_tokens(world_settings(num_world_steps=1))
    for sample, of in enumerate(sizes):
        ids = corpus.ids[corpus.offsets[sample] : corpus.offsets[sample + 1]].tolist()
        assert ids.count(world) == count * len(of)
        for begin in (place for place, one in enumerate(ids) if one == start):
            assert ids[begin + 1 : begin + count + 2] == [world] * count + [end]
            assert loaded.vision.image_token not in ids[: begin + count + 2][-count - 2 :]
    flags = corpus.is_target[np.isin(corpus.ids, (start, world, end))]
    assert len(flags) and not flags.any()


def test_the_pixels_are_the_pictures_resized(loaded, tmp_path):
    examples = [example(5, (28, 28)), example(6, (56, 28), (40, 64))]
    corpus = corpus_of_examples(examples, loaded, tmp_path)
    batch = batch_of(corpus, [(0,), (1,)], "right", eyes=eyes_of(loaded, tmp_path))
    raw = [image.data for one in examples for image in one.images]
    by_hand = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.BILINEAR)) for data in raw]
    assert batch.pixels[WORLD_PIXELS].dtype is torch.uint8
    assert torch.equal(batch.pixels[WORLD_PIXELS], torch.from_numpy(np.stack(by_hand)).permute(0, 3, 1, 2))
    assert "pixel_values" in batch.pixels


def test_prepared_data_know_how_many_tokens_there_are(loaded):
    assert isinstance(loaded.vision, WorldVision)
    other = WorldVision(loaded.vision.inner, world_settings(num_world_steps=2))
    assert len({loaded.vision.identity(), other.identity(), loaded.vision.inner.identity()}) == 3
