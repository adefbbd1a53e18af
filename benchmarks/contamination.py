"""Overlap of training and evaluation: planted duplicates that are found, others that are taken for one, and the cost.

    python benchmarks/contamination.py [--records 10000] [--planted 400] [--workers 2]

Train and evaluation have as many records each: synthetic charts, documents, tables and shapes of three sizes (which
look alike on purpose), scanned digits, and noise, smooth and sharp; and questions without images of long templates that
differ in one name or number. No evaluation record is a copy: those whose pixels (or words) equal a training record's
by chance are counted apart. Then copies of training records are planted, changed in one way each. Exit code 1 when a
limit is missed: at least 9 of 10 copies of every kind found, none of the other records taken for one, and less than a
minute of one core for the fingerprints of 10,000 images. Nothing is written but stdout.
"""

import argparse
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tunestudy.bench.asked import asked_by, overlap_with
from tunestudy.bench.tasks import Row
from tunestudy.config.data import AnyDataset, DigitsDataset, FileDataset, SynthDataset
from tunestudy.data.images import ImageBytes, ImageFacts, ImagePlaces
from tunestudy.data.likeness import look_at
from tunestudy.data.overlap import Trained, trained_on
from tunestudy.data.sources import Folders, source_of
from tunestudy.data.store import ImageStore
from tunestudy.records.atomic import write_text
from tunestudy.records.layout import StudyDir

FOUND, MINUTE_S = 0.9, 60.0
SHARES = {"chart": 0.22, "document": 0.22, "table": 0.22, "shapes": 0.22}
SIZES = (448, 224, 112)
DIGITS = 890
Resampling = Image.Resampling


@dataclass(frozen=True)
class Sample:
    """A record as it is asked; `image` is encoded, empty without one."""

    id: str
    asked: str
    image: bytes = b""


Both = tuple[list[Sample], list[Sample]]


class Bench:
    """A study's folder, and what is drawn for it."""

    def __init__(self, root: Path, workers: int) -> None:
        self.study, self.workers = StudyDir(root / "results" / "study"), workers
        self.folders = Folders(root, self.study.cache)
        self.places = ImagePlaces(root, ImageStore(self.folders.store))

    def synth(self, records: int, seed: int) -> list[SynthDataset]:
        """Synthetic sets; other sizes have other seeds, or small scenes would be large ones made smaller."""
        return [
            SynthDataset(
                kind=kind,
                count=round(records * share / len(SIZES)),
                seed=seed + size,
                image_size=size,
                language="both",
                num_workers=self.workers,
            )
            for kind, share in SHARES.items()
            for size in SIZES
        ]

    def written(self, name: str, samples: list[Sample]) -> FileDataset:
        """The samples as a file, their images in the store."""
        rows = [
            {"id": s.id, "prompt": s.asked, "completion": "x"}
            | ({"image": {"sha256": self.places.store.put(s.image)}} if s.image else {})
            for s in samples
        ]
        write_text(self.folders.base / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return FileDataset(path=f"{name}.jsonl")

    def samples(self, dataset: AnyDataset) -> Iterator[Sample]:
        for raw in source_of(dataset).read(dataset, self.folders):
            columns = raw.columns
            image = columns["image"]["bytes"] if "image" in columns else b""
            yield Sample(columns["id"], columns["prompt"], image)

    def row(self, sample: Sample) -> Row:
        images: tuple[ImageFacts, ...] = ()
        if sample.image:
            images = (self.places.settle(ImageBytes(data=sample.image)),)
        return Row(sample.id, (1,), "x", images=images, asked=sample.asked)


def noise(count: int, seed: int) -> Iterator[Sample]:
    """Sharp and smooth noise of several sizes, grey and coloured."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        width, height = generator.integers(120, 400, 2).tolist()
        coarse = (height, width) if number % 2 else (max(height // 40, 2), max(width // 40, 2))
        cells = generator.integers(0, 256, (*coarse, 3), dtype=np.uint8)
        image = Image.fromarray(cells).resize((width, height), Resampling.BICUBIC)
        yield Sample(f"noise-{seed}-{number}", "What is shown?", png(image if number % 4 < 2 else image.convert("L")))


def templated(count: int, seed: int) -> Iterator[Sample]:
    """Questions of long templates that differ in a name, a number or both; some Korean."""
    letters = random.Random(seed)
    syllables = ["ka", "mo", "ri", "ten", "sul", "bra", "vi", "on", "el", "da"]
    for number in range(count):
        name = "".join(letters.choices(syllables, k=5)).capitalize()
        amount = letters.randint(100, 99_999)
        told = (
            f"A shop in the old town sells apples, pears and plums from Monday to Friday. On one day it sold {amount} "
            "apples and half as many pears. How many fruits were that in all, if no plums were sold?",
            "Read the following statement about cities and say whether it is true or false. The statement was made by "
            f"a traveller, who wrote that the market of the town of {name} is older than its church.",
            f"In which year was the bridge over the river at {name} opened?\nAnswer the question with a single word.",
            f"{name} 시의 인구가 {amount}명일 때, 그 절반은 몇 명입니까? 주어진 선택지 중에서 고르세요.",
        )[number % 4]
        yield Sample(f"text-{seed}-{number}", told)


def png(image: Image.Image) -> bytes:
    return encoded(image, "PNG")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def times(factor: float, how: Resampling = Resampling.BICUBIC) -> Callable[[Image.Image], bytes]:
    return lambda image: png(image.resize((round(image.width * factor), round(image.height * factor)), how))


IMAGE_WAYS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG, other compression": lambda image: encoded(image, "PNG", compress_level=1),
    "JPEG 50": lambda image: encoded(image, "JPEG", quality=50),
    "JPEG 75": lambda image: encoded(image, "JPEG", quality=75),
    "JPEG 95": lambda image: encoded(image, "JPEG", quality=95),
    "WebP 80": lambda image: encoded(image, "WEBP", quality=80),
    "resized 0.5": times(0.5),
    "resized 0.7, Lanczos": times(0.7, Resampling.LANCZOS),
    "resized 1.4, bilinear": times(1.4, Resampling.BILINEAR),
    "resized 2": times(2.0),
    "resized 0.5, then JPEG 75": lambda image: encoded(Image.open(io.BytesIO(times(0.5)(image))), "JPEG", quality=75),
}

TEXT_WAYS: dict[str, Callable[[str], str]] = {
    "white space": lambda text: "  " + text.replace(" ", " \t ").replace("\n", " ") + "\n",
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "case and quotes": lambda text: f"“{text.upper()}”",
    "another instruction": lambda text: f"{text.removesuffix('Answer the question with a single word.')}\nBe brief.",
}


def planted(samples: list[Sample], count: int) -> dict[str, list[Sample]]:
    """Copies of training records, by the way in which they are changed."""
    chosen = random.Random(0).sample(samples, min(count, len(samples)))
    pictured = [s for s in chosen if s.image]
    ways = {"exact": chosen}
    for way, change in TEXT_WAYS.items():
        ways[way] = [Sample(s.id, change(s.asked), s.image) for s in chosen]
    for way, alter in IMAGE_WAYS.items():
        opened = ((s, Image.open(io.BytesIO(s.image)).convert("RGB")) for s in pictured)
        ways[way] = [Sample(s.id, s.asked, alter(image)) for s, image in opened if min(image.size) >= SIZES[-1]]
    return {way: [Sample(f"{way}-{s.id}", s.asked, s.image) for s in found] for way, found in ways.items() if found}


def pixels(sample: Sample) -> str:
    image = Image.open(io.BytesIO(sample.image)).convert("RGB")
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def content(sample: Sample) -> str:
    """What a record is: its pixels, or its text."""
    return pixels(sample) if sample.image else sample.asked


def compare(bench: Bench, known: list[Trained], samples: list[Sample]) -> dict[str, set[str]]:
    """Ids of matched rows by kind; the samples are one benchmark."""
    found: dict[str, set[str]] = {"text+image": set(), "image": set(), "text": set()}
    asked = asked_by([bench.row(sample) for sample in samples], bench.places)
    for of_set in known:
        for kind, pairs in overlap_with(asked, of_set, np.ones(len(of_set.ids), np.bool_)).items():
            found[kind].update(row for row, _ in pairs)
    return found


def speed() -> Iterator[tuple[str, float]]:
    """Small pictures per second of one core's process time."""
    chart = next(iter(source_of(s := SynthDataset(kind="chart", count=1)).read(s, Folders(Path(), Path()))))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    kinds = {
        "PNG 448 × 448": chart.columns["image"]["bytes"],
        "JPEG 1024 × 768": encoded(photo.resize((1024, 768), Resampling.BICUBIC), "JPEG", quality=90),
    }
    for name, data in kinds.items():
        look_at([ImageBytes(data=data)])
        began = time.process_time()
        look_at(ImageBytes(data=data) for _ in range(300))
        yield name, 300 / (time.process_time() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--planted", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    options = parser.parse_args()
    met = []
    for name, rate in speed():
        met.append(10_000 / rate <= MINUTE_S)
        print(f"{name}: {rate:.0f} images/s of one core, 10,000 in {10_000 / rate:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        met += measured(Bench(Path(folder), options.workers), options.records, options.planted)
    limits = f"{FOUND:.0%} of every kind found, no other, 10,000 images in {MINUTE_S:.0f} s"
    print(f"limits: {limits}: {'met' if all(met) else 'MISSED'}")
    return 0 if all(met) else 1


def side(bench: Bench, records: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Records with images and without."""
    scans = list(bench.samples(DigitsDataset(render="image")))
    scans = scans[:DIGITS] if seed == 1 else scans[DIGITS:]
    drawn = [sample for dataset in bench.synth(records, seed) for sample in bench.samples(dataset)]
    few = round(records * 0.06)
    return [*drawn, *scans[:few], *noise(few, seed)], list(templated(records, seed))


def measured(bench: Bench, records: int, count: int) -> Iterator[bool]:
    """Whether each limit is met; prints as it goes."""
    train, others = side(bench, records, 1), side(bench, records, 1001)
    sets = [bench.written(name, samples) for name, samples in zip(("images", "texts"), train, strict=True)]
    began = time.process_time()
    known = [trained_on(f"set{n}", dataset, bench.folders, bench.study) for n, dataset in enumerate(sets)]
    seconds = time.process_time() - began
    print(
        f"{len(train[0]):,} records with images, {len(train[1]):,} texts: fingerprints in {seconds:.0f} s of one core"
    )
    for what, samples in zip(("image", "text"), train, strict=True):
        for way, copies in planted(samples, count).items():
            kind = "text+image" if copies[0].image else "text"
            hits = len(compare(bench, known, copies)[kind])
            yield hits >= FOUND * len(copies)
            print(f"{what}: {way:35} {hits:4} of {len(copies):4} found ({hits / len(copies):.1%})", flush=True)
    yield from apart(bench, train, others, known)


def apart(bench: Bench, train: Both, others: Both, known: list[Trained]) -> Iterator[bool]:
    """That no record of the other side is taken for one of training."""
    for what, mine, theirs in zip(("image", "text"), train, others, strict=True):
        contents = {content(sample) for sample in mine}
        rows = [sample for sample in theirs if content(sample) not in contents]
        began = time.process_time()
        found = compare(bench, known, rows)
        seconds = time.process_time() - began
        wrong = set().union(*found.values())
        yield not wrong
        print(f"{what}: of {len(rows):,} others {len(wrong)} taken for a copy {sorted(wrong)[:5] or ''}")
        print(f"  in {len(mine) * len(rows):.2g} pairs and {seconds:.0f} s of a core, with fingerprints of their own")
        print(f"  left out, for they equal a training record by chance: {len(theirs) - len(rows)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
