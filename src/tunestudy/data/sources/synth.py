"""Synthetic images with questions and exact answers: nothing is downloaded; see docs/synth.md."""

from collections.abc import Iterator
from typing import Any

import PIL

from tunestudy.config.data import SynthDataset
from tunestudy.config.synth import SynthSettings
from tunestudy.data.sources import Folders, Raw
from tunestudy.data.synth.columns import columns_of
from tunestudy.data.synth.fonts import find_fonts
from tunestudy.data.synth.generate import Encoded, generate
from tunestudy.data.synth.sample import VERSION


def read(dataset: SynthDataset, folders: Folders) -> Iterator[Raw]:
    """One record with an image per sample, in our own columns or in those of the benchmark that `shape` names."""
    for number, encoded in enumerate(generate(dataset, folders.base)):
        if dataset.shape == "plain":
            columns = own_columns(encoded)
        else:
            columns = columns_of(dataset.shape, encoded.sample, number, {"bytes": encoded.png})
        yield Raw(f"synth {dataset.kind}:{number}", columns)


def own_columns(encoded: Encoded) -> dict[str, Any]:
    """id, image (PNG bytes), prompt, completion, category, language; of charts a rationale, their labels with values;
    choices where the answer is one of a few words."""
    sample = encoded.sample
    columns = {
        "id": sample.id,
        "image": {"bytes": encoded.png},
        "prompt": sample.prompt,
        "completion": sample.answer,
        "category": sample.category,
        "language": sample.language,
    }
    if sample.words:
        columns["choices"] = list(sample.words)
    if sample.truth.get("labels") and sample.truth.get("values"):  # of charts: what a reader would note down first
        pairs = zip(sample.truth["labels"], sample.truth["values"], strict=True)
        columns["rationale"] = ", ".join(f"{label} {value}" for label, value in pairs)
    return columns


def identity(dataset: SynthDataset, folders: Folders) -> str:
    """The settings, and what else pixels depend on: this module's version, the fonts, Pillow."""
    fields = set(SynthSettings.model_fields) - {"num_workers", "font"}
    settings = dataset.model_dump_json(include=fields)
    fonts = find_fonts(dataset, folders.base)
    used = " ".join(f"{language}={fonts.digest(language)}" for language in dataset.languages if dataset.draws_text)
    shape = "" if dataset.shape == "plain" else f" as {dataset.shape}"
    return f"synth v{VERSION} {settings}{shape} Pillow {PIL.__version__} {used}"
