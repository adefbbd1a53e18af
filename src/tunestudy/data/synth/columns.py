"""Records in our own columns, or in those of a known benchmark, so that its readers and scorers take them as they are.

Column names: HuggingFaceM4/ChartQA, lmms-lab/DocVQA, stanfordnlp/wikitablequestions, wenhu/tab_fact and
NCSOFT/K-DTCBench on the Hugging Face hub; WTQ and TabFact have no image there, ours is added. The others are in
`more_columns.py`.
"""

import json
from collections.abc import Callable
from typing import Any

from tunestudy.data.synth import more_columns
from tunestudy.data.synth.sample import TRUE_FALSE, SynthSample

Columns = dict[str, Any]
IMAGE = "image"

TYPES: dict[str, dict[str, str]] = {
    "plain": {
        "id": "string",
        IMAGE: "image",
        "prompt": "string",
        "completion": "string",
        "choices": "strings",
        "answer_type": "string",
        "category": "string",
        "language": "string",
        "truth": "string",
    },
    "chartqa": {IMAGE: "image", "query": "string", "label": "strings", "human_or_machine": "int64"},
    "docvqa": {
        "questionId": "string",
        "question": "string",
        "question_types": "strings",
        IMAGE: "image",
        "docId": "int64",
        "answers": "strings",
    },
    "wtq": {"id": "string", "question": "string", "answers": "strings", "table": "table", IMAGE: "image"},
    "tabfact": {
        "id": "int64",
        "table_id": "string",
        "table_text": "string",
        "table_caption": "string",
        "statement": "string",
        "label": "int64",
        IMAGE: "image",
    },
    "kdtc": {
        "index": "int64",
        IMAGE: "image",
        "question": "string",
        **{f"choice_{letter}": "string" for letter in "abcd"},
        "answer": "string",
        "category": "string",
    },
    **more_columns.TYPES,
}
"""Shape → its columns in order, and the type of each."""

MACHINE = 1
"""ChartQA's mark of questions that nobody wrote by hand."""


def columns_of(shape: str, sample: SynthSample, number: int, image: Any) -> Columns:
    """The record's columns in this shape; `number`: its place in the set; `image`: what stands for the image."""
    return {**MAKERS[shape](sample, number), **dict.fromkeys(image_columns(shape, number), image)}


def image_columns(shape: str, number: int) -> tuple[str, ...]:
    """Where the image of record `number` stands; BLINK asks about up to four images, MathVerse partly about none."""
    if shape == "mathvista":
        return ("decoded_image",)
    if shape == "blink":
        return ("image_1", "image_2")[: 1 + number % 2]
    if shape == "mathverse" and more_columns.is_text_only(number):
        return ()
    return (IMAGE,)


def _plain(sample: SynthSample, number: int) -> Columns:  # noqa: ARG001 - the id says it
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "completion": sample.answer,
        "choices": list(sample.words),
        "answer_type": sample.answer_type,
        "category": sample.category,
        "language": sample.language,
        "truth": json.dumps(sample.truth, ensure_ascii=False),
    }


def _chartqa(sample: SynthSample, number: int) -> Columns:  # noqa: ARG001 - ChartQA has no ids
    return {"query": sample.question, "label": [sample.answer], "human_or_machine": MACHINE}


def _docvqa(sample: SynthSample, number: int) -> Columns:
    layout = "form" if sample.truth["layout"] == "form" else "layout"
    return {
        "questionId": str(number),
        "question": sample.question,
        "question_types": [layout],
        "docId": number,
        "answers": [sample.answer],
    }


def _wtq(sample: SynthSample, number: int) -> Columns:
    truth = sample.truth
    table = {"header": truth["header"], "rows": truth["rows"], "name": f"{sample.id}.csv"}
    return {"id": f"nu-{number}", "question": sample.question, "answers": [sample.answer], "table": table}


def _tabfact(sample: SynthSample, number: int) -> Columns:
    """Cells are parted by `#` there, rows by line ends."""
    truth = sample.truth
    return {
        "id": number,
        "table_id": f"{sample.id}.csv",
        "table_text": "\n".join("#".join(row) for row in [truth["header"], *truth["rows"]]),
        "table_caption": truth["title"],
        "statement": sample.question,
        "label": int(sample.answer == TRUE_FALSE[sample.language][0]),
    }


def _kdtc(sample: SynthSample, number: int) -> Columns:
    choices = {f"choice_{letter}": text for letter, text in zip("abcd", sample.choices, strict=True)}
    category, _, _ = sample.category.partition(".")
    return {"index": number, "question": sample.question, **choices, "answer": sample.answer, "category": category}


MAKERS: dict[str, Callable[[SynthSample, int], Columns]] = {
    "plain": _plain,
    "chartqa": _chartqa,
    "docvqa": _docvqa,
    "wtq": _wtq,
    "tabfact": _tabfact,
    "kdtc": _kdtc,
    **more_columns.MAKERS,
}
