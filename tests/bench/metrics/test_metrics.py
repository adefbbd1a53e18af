"""What every metric promises, whatever it is given."""

import copy
import json
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestudy.bench.metrics import Target, metric
from tunestudy.config.benchmark import Compat

CHOOSING = ["choice", "choice_blink", "choice_dtc"]
OPEN = [
    "vqa",
    "vqa_v2",
    "anls",
    "relaxed_accuracy",
    "ocrbench",
    "denotation",
    "exact",
    "charxiv",
    "mathvista",
    "mathverse",
]
ALL = [*CHOOSING, *OPEN, "true_false"]
WAYS = [(name, way) for name in ALL for way in metric(name).WAYS]

PIECES = [
    *("A", "B.", "(C)", "a", "the", "1,000", "1_000", "5%", "nan", "inf", "정답:", "B입니다", "café", "cafe\u0301"),
    *("answer is", "\\boxed{", "}", "10^-2", "|", "||", "\n", "2010-xx-05", "xx-xx-xx", ".", "true", "no"),
]
texts = st.one_of(st.text(max_size=24), st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join))
facts = st.fixed_dictionaries(
    {},
    optional={
        "dataset": st.sampled_from(["HME100k", "IIIT5K"]),
        "question_type": st.sampled_from(["multi_choice", "multi-choice", "free_form", "free-form"]),
        "answer_type": st.sampled_from(["text", "integer", "float", "list"]),
        "precision": st.sampled_from([None, 0, 1, 2, 1.0, float("nan")]),
        "qid": st.integers(1, 19),
        "reasoning_q_source": st.integers(1, 4),
        "targetCanon": texts,
    },
)


@st.composite
def targets(draw: st.DrawFn, name: str) -> Target:
    choices = tuple(draw(st.lists(texts, min_size=2, max_size=5)))
    letter = draw(st.sampled_from("ABCDE"[: len(choices)]))
    answers = draw(st.lists(texts, max_size=10))
    if name == "true_false":
        return Target((draw(st.sampled_from(["0", "1", "true", "False", "entailed", "refuted"])),))
    if name in CHOOSING or draw(st.booleans()):
        return Target((choices["ABCDE".index(letter)],), choices, letter, draw(facts))
    return Target(tuple(answers), (), "", draw(facts))


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is(name: str) -> None:
    module = metric(name)
    assert module.NAME.isidentifier()
    assert module.WAYS[0] == "official" and set(module.WAYS) <= set(get_args(Compat))
    assert len(set(module.WAYS)) == len(module.WAYS) >= 2


@pytest.mark.parametrize(("name", "way"), WAYS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_text_has_a_score_and_nothing_is_changed_or_remembered(name: str, way: Compat, data: st.DataObject) -> None:
    target, prediction = data.draw(targets(name)), data.draw(texts)
    before = copy.deepcopy(target)
    first = metric(name).verdict(prediction, target, way)
    assert 0 <= first.score <= 1
    assert first.understood is None or isinstance(first.understood, str)
    metric(name).verdict(prediction + " other", target, way)
    assert metric(name).verdict(prediction, target, way) == first
    assert repr(target) == repr(before)


words = st.lists(st.sampled_from(["river", "고양이", "café", "1995", "blue", "rock", "seven"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    "name", ["vqa", "vqa_v2", "anls", "relaxed_accuracy", "ocrbench", "denotation", "exact", "charxiv", "mathverse"]
)
@settings(max_examples=25, deadline=None)
@given(words=words)
def test_the_right_answer_scores_one(name: str, words: list[str]) -> None:
    answer = " ".join(words)
    for way in metric(name).WAYS:
        copies = 10 if name.startswith("vqa") else 1
        assert metric(name).verdict(answer, Target((answer,) * copies), way).score == 1


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("way", ["official", "strict"])
@settings(max_examples=25, deadline=None)
@given(choices=st.lists(words.map(" ".join), min_size=2, max_size=5, unique=True), data=st.data())
def test_the_right_letter_and_the_right_wording_score_one(
    name: str, way: Compat, choices: list[str], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    letter = "ABCDE"[place]
    target = Target((choices[place],), tuple(choices), letter)
    for said in (letter, f"({letter})", f"{letter}.", f"정답: {letter}", f"{letter}. {choices[place]}", choices[place]):
        verdict = metric(name).verdict(said, target, way)
        assert (verdict.score, verdict.understood) == (1, letter), said
    assert metric(name).verdict("ABCDE"[place - 1], target, way).score == 0


@pytest.mark.parametrize("name", OPEN)
def test_without_a_right_answer_nothing_is_right(name: str) -> None:
    assert metric(name).verdict("", Target(()), "official").score == 0


def test_metrics_need_no_torch() -> None:
    code = (
        "import sys, json; from tunestudy.bench.metrics import metric;"
        f"[metric(name) for name in {ALL}]; print(json.dumps('torch' in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) is False
