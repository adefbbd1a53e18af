"""Images: exactness of packed batches, tokens that are useful, speed against padding, and what decoding costs.

    python benchmarks/vision.py [--samples 96] [--steps 40]

Three parts, each with its limit; exit code 1 when one is missed. Nothing is written but stdout.

1. Packed = separate. Tiny random models of three architectures (fp32) and samples with none, one or several images:
   logits of rows that hold several samples, and the gradients of their summed loss, against the stock model's on each
   sample alone. Errors are relative to the largest value.
2. Packing. InternVL with 0.9 M parameters (4 + 2 layers, width 128) on ragged samples: images of 1 to 12 tiles of 4
   tokens, log-normal text of 8 to 400 tokens. Useful tokens among those computed, and tokens per second of forward and
   backward passes, against rows of 8 samples in random order padded to the longest. Turns alternate between both sides;
   rates are per second of process time, so that other work on the machine does not count.
3. Loader. The same model trains on photographs-like JPEGs (320 × 240) that are decoded and resized by 2 threads, and on
   the same micro-batches made beforehand; steps per second of wall time, turns alternate.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lab"))

import numpy as np
import torch
from PIL import Image
from tinyeyes import CONFIGS, corpus_of_examples, example, eyes_of, model_settings, stock_arguments, tiny
from torch import Tensor
from torch.nn.functional import cross_entropy

from tunestudy.config.data import DataSettings
from tunestudy.config.model import ModelConfig
from tunestudy.data.batch import IGNORED, Batch, Row, batch_of
from tunestudy.data.corpus import Corpus
from tunestudy.data.example import Example
from tunestudy.data.images import ImageBytes
from tunestudy.data.loader import Cutter, made_ahead
from tunestudy.data.order import Schedule
from tunestudy.data.pictured import with_images
from tunestudy.data.vision import Eyes
from tunestudy.models.attention import switch_to_segment_attention
from tunestudy.models.decoder import forward_arguments
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.origin import load_processor, load_tokenizer, random_weights
from tunestudy.train.loss import LossModel

EXACT, USEFUL, FASTER, LOADED = 1e-6, 0.95, 2.0, 0.95
SIZES = [((28, 28),), (), ((56, 28), (28, 28)), ((40, 64),), ((28, 28),), ((20, 100),)]
ROWS: list[Row] = [(0, 1, 2), (3, 4, 5)]
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
MAX_LENGTH = 1024


def stock_logits(loaded: LoadedModel, corpus: Corpus, eyes: Eyes, sample: int) -> tuple[Tensor, Tensor]:
    """Logits (T, V) and ids (T,) of a sample alone."""
    arguments = stock_arguments(loaded, corpus, eyes, sample)
    return loaded.model(**arguments, use_cache=False).logits[0], arguments["input_ids"][0]


def exactness(architecture: str, folder: Path) -> tuple[float, float]:
    """Largest relative errors of logits and of gradients."""
    loaded = tiny(architecture)
    corpus = corpus_of_examples([example(i, *sizes) for i, sizes in enumerate(SIZES)], loaded, folder, loss_on="all")
    eyes = eyes_of(loaded, folder)
    samples = [sample for row in ROWS for sample in row]
    alone = [stock_logits(loaded, corpus, eyes, sample) for sample in samples]
    total = torch.zeros(())
    for sample, (logits, ids) in zip(samples, alone, strict=True):
        wanted = torch.from_numpy(corpus.is_target[corpus.offsets[sample] : corpus.offsets[sample + 1]].copy())
        targets = ids.masked_fill(~wanted, IGNORED)[1:]
        total = total + cross_entropy(logits[:-1], targets, reduction="sum", ignore_index=IGNORED)
    total.backward()
    expected = {name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.zero_grad(set_to_none=True)

    layout = "free" if switch_to_segment_attention(loaded.model) is None else "right"
    batch = batch_of(corpus, ROWS, layout, eyes=eyes)
    with torch.no_grad():
        packed = loaded.model(**forward_arguments(loaded.model, batch)).logits
    kept = packed[0] if batch.attention_mask is None else packed[batch.attention_mask]
    together = torch.cat([logits for logits, _ in alone]).detach()
    of_logits = float((kept.reshape_as(together) - together).abs().max() / together.abs().max())
    LossModel(loaded.model)(batch).nll_sum.backward()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    errors = [
        float((p.grad - expected.get(name, torch.zeros_like(p.grad))).abs().max()) / largest
        for name, p in loaded.model.named_parameters()
        if p.grad is not None
    ]
    return of_logits, max(errors)


def wide_internvl() -> LoadedModel:
    settings = model_settings("internvl")
    config = settings["config"]
    settings["config"] = {
        **config,
        "text_config": {**config["text_config"], **WIDE, "num_hidden_layers": 4, "num_key_value_heads": 4},
        "vision_config": {**config["vision_config"], **WIDE, "num_hidden_layers": 2},
    }
    settings["image_processor"] = {"max_patches": 12}
    study = ModelConfig.model_validate(settings)
    tokenizer = load_tokenizer(study, Path())
    model = random_weights(study, tokenizer, seed=0, device="cpu")
    return LoadedModel(model, tokenizer, {}, processor=load_processor(study, Path(), model))


def jpeg(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Smooth colours with some grain, as a photograph has."""
    small = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (size[1], size[0], 1))
    file = io.BytesIO()
    Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def ragged(count: int, sizes: Callable[[np.random.Generator], tuple[int, int]]) -> list[Example]:
    random = np.random.default_rng(0)
    made = []
    for length in np.clip(random.lognormal(4, 1, count), 8, 400).astype(int):
        text = "".join(random.choice(list("abcdefgh "), length))
        asked = Example(prompt="what?", completion=text)
        made.append(with_images(asked, (ImageBytes(data=jpeg(random, sizes(random))),)))
    return made


def tiles(random: np.random.Generator) -> tuple[int, int]:
    """1 to 12 tiles of 28 × 28."""
    return int(random.integers(1, 5)) * 28, int(random.integers(1, 4)) * 28


def turns(sides: dict[str, Callable[[], Iterator[Any]]], clock: Callable[[], float], count: int) -> dict[str, float]:
    """Median seconds of a step of each side; the sides take turns, the first step of each is thrown away."""
    streams = {name: make() for name, make in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name in (name for _ in range(count + 1) for name in sides):
        began = clock()
        next(streams[name])
        seconds[name].append(clock() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def learn(model: LossModel, batch: Batch) -> None:
    model(batch).nll_sum.backward()
    model.zero_grad(set_to_none=True)


def packing(loaded: LoadedModel, folder: Path, samples: int) -> tuple[float, float, float]:
    """Useful share of packed rows, of padded ones, and packed tokens per second over padded."""
    examples = ragged(samples, tiles)
    corpus = corpus_of_examples(examples, loaded, folder, max_length=MAX_LENGTH)
    eyes = eyes_of(loaded, folder)
    packed = Schedule(corpus, DataSettings(data=(), max_length=MAX_LENGTH, packing=True), 0, 1)
    plain = Schedule(corpus, DataSettings(data=(), max_length=MAX_LENGTH), 0, 8)
    in_packs = [packed.rows_of_step(step) for step in range(packed.steps_in_epoch(0))]
    in_rows = [plain.rows_of_step(step) for step in range(plain.steps_in_epoch(0))]
    model = LossModel(loaded.model)
    padded = [batch_of(corpus, rows, "right", eyes=eyes) for rows in in_rows]
    assert switch_to_segment_attention(loaded.model) is None
    free = [batch_of(corpus, rows, "free", eyes=eyes) for rows in in_packs]
    useful = {
        "packed": 1 - packed.packing_waste(0),
        "padded": sum(b.num_tokens for b in padded) / sum(b.input_ids.numel() for b in padded),
    }

    def epoch(batches: list[Batch], implementation: str) -> Iterator[None]:
        while True:
            loaded.model.set_attn_implementation(implementation)
            for batch in batches:
                learn(model, batch)
            yield

    sides = {"packed": lambda: epoch(free, "tunestudy_segments"), "padded": lambda: epoch(padded, "sdpa")}
    seconds = turns(sides, time.process_time, 3)
    return useful["packed"], useful["padded"], seconds["padded"] / seconds["packed"]


def loading(loaded: LoadedModel, folder: Path, steps: int) -> tuple[float, float, float]:
    """Seconds of a step with decoding, without, and of decoding a micro-batch in this thread."""
    corpus = corpus_of_examples(ragged(48, lambda _: (320, 240)), loaded, folder, max_length=MAX_LENGTH)
    assert switch_to_segment_attention(loaded.model) is None
    cutter = Cutter(layout="free", rank=0, world_size=1, eyes=eyes_of(loaded, folder))
    schedule = Schedule(corpus, DataSettings(data=(), max_length=MAX_LENGTH), 0, 8)
    model = LossModel(loaded.model)

    def maker(step: int) -> Callable[[], Batch]:
        return lambda: cutter.batch(corpus, schedule.rows_of_step(step))

    ready = [maker(step)() for step in range(6)]
    began = time.perf_counter()
    maker(0)()
    alone = time.perf_counter() - began

    def trained(batches: Iterator[Batch]) -> Iterator[None]:
        for batch in batches:
            learn(model, batch)
            yield

    # each side runs to its end before the other: threads of one must not work ahead while the other is timed
    seconds: dict[str, list[float]] = {"decoded": [], "ready": []}
    for _ in range(3):
        for name in seconds:
            if name == "decoded":
                stream = made_ahead((maker(step % 6) for step in range(steps + 6)), 2)
            else:
                stream = (ready[step % 6] for step in range(steps + 6))
            run = trained(stream)
            list(islice(run, 6))
            began = time.perf_counter()
            list(run)
            seconds[name].append((time.perf_counter() - began) / steps)
    return statistics.median(seconds["decoded"]), statistics.median(seconds["ready"]), alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    met = []
    for architecture in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            of_logits, of_gradients = exactness(architecture, Path(folder))
        met.append(max(of_logits, of_gradients) <= EXACT)
        print(f"{architecture:10} packed = separate: logits {of_logits:.1e}, gradients {of_gradients:.1e}", flush=True)
    loaded = wide_internvl()
    with tempfile.TemporaryDirectory() as folder:
        packed, padded, ratio = packing(loaded, Path(folder), options.samples)
    met += [packed >= USEFUL, ratio >= FASTER]
    print(f"useful tokens: packed {packed:.1%}, padded {padded:.1%}; packed tokens/s {ratio:.2f}× padded", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        decoded, ready, alone = loading(loaded, Path(folder), options.steps)
    met.append(ready / decoded >= LOADED)
    print(f"loader: {ready / decoded:.3f} of the step rate of ready batches ({decoded * 1e3:.0f} against ", end="")
    print(f"{ready * 1e3:.0f} ms a step of 8 images; decoding takes {alone * 1e3:.0f} ms of one core)")
    limits = f"errors {EXACT:g}, useful {USEFUL:.0%}, speed {FASTER:g}×, loader {LOADED:g}"
    print(f"limits: {limits}: {'met' if all(met) else 'MISSED'}")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
