"""Records in the columns of benchmarks that ask about pictures, as readers of these sets expect them.

Column names: lmms-lab/MMBench and NCSOFT/K-MMBench, lmms-lab/textvqa, lmms-lab/DocVQA (InfographicVQA),
echo840/OCRBench, AI4Math/MathVista, CaraJ/MathVerse-lmmseval, princeton-nlp/CharXiv and BLINK-Benchmark/BLINK on the
Hugging Face hub.
"""

from collections.abc import Callable
from typing import Any

from tunestudy.data.synth.sample import LETTERS, SynthSample

Columns = dict[str, Any]

TYPES: dict[str, dict[str, str]] = {
    "mmbench": {
        "index": "int64",
        "image": "image",
        "question": "string",
        "hint": "string",
        **dict.fromkeys("ABCD", "string"),
        "answer": "string",
        "category": "string",
        "l2-category": "string",
        "source": "string",
        "split": "string",
    },
    "textvqa": {
        "image_id": "string",
        "question_id": "int64",
        "question": "string",
        "image": "image",
        "ocr_tokens": "strings",
        "answers": "strings",
    },
    "infovqa": {
        "questionId": "string",
        "question": "string",
        "answers": "strings",
        "answer_type": "strings",
        "image": "image",
    },
    "ocrbench": {
        "dataset": "string",
        "question": "string",
        "question_type": "string",
        "answer": "strings",
        "image": "image",
    },
    "mathvista": {
        "pid": "string",
        "question": "string",
        "image": "string",
        "decoded_image": "image",
        "choices": "strings",
        "unit": "string",
        "precision": "float64",
        "answer": "string",
        "question_type": "string",
        "answer_type": "string",
        "metadata": "mathvista_metadata",
    },
    "mathverse": {
        "sample_index": "string",
        "problem_index": "string",
        "problem_version": "string",
        "question": "string",
        "image": "image",
        "answer": "string",
        "question_type": "string",
        "metadata": "mathverse_metadata",
        "query_wo": "string",
        "query_cot": "string",
        "question_for_eval": "string",
    },
    "charxiv": {
        "category": "string",
        "figure_path": "string",
        "subplot_row": "int64",
        "subplot_col": "int64",
        "subplot_loc": "string",
        "reasoning_q_source": "int64",
        "reasoning_q": "string",
        "reasoning_a": "string",
        **{f"descriptive_q{place}": "int64" for place in range(1, 5)},
        **{f"descriptive_a{place}": "string" for place in range(1, 5)},
        "image": "image",
    },
    "blink": {
        "idx": "string",
        "question": "string",
        "sub_task": "string",
        **{f"image_{place}": "image" for place in range(1, 5)},
        "choices": "strings",
        "answer": "string",
        "prompt": "string",
    },
}

HINTS = {"en": "The picture was drawn for this question.", "ko": "이 그림은 질문을 위해 그려졌습니다."}
VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only", "Text Only")
"""MathVerse's ways of telling a problem."""
SUB_TASKS = {
    "position": "Spatial_Relation",
    "count": "Counting",
    "colour": "Visual_Similarity",
    "size": "Object_Localization",
    "depth": "Relative_Depth",
}
NOT_APPLICABLE = "Not Applicable"


def is_text_only(number: int) -> bool:
    """Whether this record of MathVerse's comes without its picture, and has the data in words."""
    return VERSIONS[number % len(VERSIONS)] == "Text Only"


def _mmbench(sample: SynthSample, number: int) -> Columns:
    kind, _, task = sample.category.partition(".")
    return {
        "index": number,
        "question": sample.question,
        "hint": HINTS[sample.language] if number % 2 else None,
        **dict(zip("ABCD", sample.choices, strict=True)),
        "answer": sample.answer,
        "category": task,
        "l2-category": kind,
        "source": "synthetic",
        "split": "dev",
    }


def _textvqa(sample: SynthSample, number: int) -> Columns:
    """Ten people answered, two of them that it cannot be answered."""
    return {
        "image_id": sample.id,
        "question_id": number,
        "question": sample.question,
        "ocr_tokens": [text["text"] for text in sample.truth["texts"]],
        "answers": [sample.answer] * 8 + ["unanswerable"] * 2,
    }


def _infovqa(sample: SynthSample, number: int) -> Columns:
    answer_type = ["non-extractive" if sample.truth["task"] in ("difference", "count") else "single span"]
    return {
        "questionId": str(number),
        "question": sample.question,
        "answers": [sample.answer],
        "answer_type": answer_type,
    }


def _ocrbench(sample: SynthSample, number: int) -> Columns:  # noqa: ARG001 - OCRBench has no ids
    kind = "Key Information Extraction" if sample.truth["task"] == "field" else "Regular Text Recognition"
    return {"dataset": "synthetic", "question": sample.question, "question_type": kind, "answer": [sample.answer]}


def _mathvista(sample: SynthSample, number: int) -> Columns:
    several = bool(sample.choices)
    return {
        "pid": str(number + 1),
        "question": sample.question,
        "image": f"images/{number + 1}.png",
        "choices": list(sample.choices) if several else None,
        "unit": None,
        "precision": None if several else 0.0,
        "answer": sample.answer,
        "question_type": "multi_choice" if several else "free_form",
        "answer_type": "text" if several else "integer",
        "metadata": {"category": "general-vqa", "context": sample.truth["chart"], "task": "figure question answering"},
    }


def _mathverse(sample: SynthSample, number: int) -> Columns:
    several = bool(sample.choices)
    options = "\n".join(f"{letter}:{text}" for letter, text in zip(LETTERS, sample.choices, strict=False))
    question = f"{sample.question}\nChoices:\n{options}" if several else sample.question
    if is_text_only(number):
        pairs = zip(sample.truth["labels"], sample.truth["values"], strict=True)
        question = f"{', '.join(f'{label}: {value}' for label, value in pairs)}. {question}"
    asked_for = "the option letter" if several else "a single number"
    return {
        "sample_index": str(number + 1),
        "problem_index": str(number // len(VERSIONS) + 1),
        "problem_version": VERSIONS[number % len(VERSIONS)],
        "question": question,
        "image": None,
        "answer": LETTERS[sample.choices.index(sample.answer)] if several else sample.answer,
        "question_type": "multi-choice" if several else "free-form",
        "metadata": {"split": "testmini", "subject": "Chart", "subfield": sample.truth["chart"]},
        "query_wo": f"Answer with {asked_for}.\nQuestion: {question}",
        "query_cot": f"Reason first, then answer with {asked_for}.\nQuestion: {question}",
        "question_for_eval": question,
    }


def _charxiv(sample: SynthSample, number: int) -> Columns:
    """Four descriptive questions whose answers follow from the chart's data, and the sample's own to reason about."""
    described = _descriptions(sample)
    return {
        "category": "cs",
        "figure_path": f"{number}.png",
        "subplot_row": 0,
        "subplot_col": 0,
        "subplot_loc": None,
        "reasoning_q_source": _source(sample),
        "reasoning_q": sample.question,
        "reasoning_a": sample.answer,
        **{f"descriptive_q{place}": asked for place, (asked, _) in enumerate(described, 1)},
        **{f"descriptive_a{place}": answer for place, (_, answer) in enumerate(described, 1)},
    }


def _descriptions(sample: SynthSample) -> list[tuple[int, str]]:
    """(number of the question, answer): title, a tick or the legend's size, lines, number of plots."""
    truth = sample.truth
    lines = "1" if truth["chart"] == "line" else NOT_APPLICABLE
    second = (12, str(len(truth["labels"]))) if truth["chart"] == "pie" else (4, truth["labels"][0])
    return [(1, truth["title"] or NOT_APPLICABLE), second, (10, lines), (19, "1")]


def _source(sample: SynthSample) -> int:
    """1: text in the chart, 2: text in general, 3: a number in the chart, 4: a number in general."""
    if sample.answer_type == "number":
        return 3 if sample.truth["task"] == "value" else 4
    return 2 if sample.choices else 1


def _blink(sample: SynthSample, number: int) -> Columns:
    task = SUB_TASKS[sample.truth["task"]]
    options = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, sample.choices, strict=False))
    return {
        "idx": f"val_{task}_{number + 1}",
        "question": sample.question,
        "sub_task": task,
        **{f"image_{place}": None for place in range(1, 5)},
        "choices": list(sample.choices),
        "answer": f"({sample.answer})",
        "prompt": f"{sample.question}\nSelect from the following choices.\n{options}",
    }


MAKERS: dict[str, Callable[[SynthSample, int], Columns]] = {
    "mmbench": _mmbench,
    "textvqa": _textvqa,
    "infovqa": _infovqa,
    "ocrbench": _ocrbench,
    "mathvista": _mathvista,
    "mathverse": _mathverse,
    "charxiv": _charxiv,
    "blink": _blink,
}
