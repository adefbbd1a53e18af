"""Texts are the same whatever their form, and different as soon as a name or a number is."""

import unicodedata

import numpy as np
import pytest

from tunestudy.data.example import Example
from tunestudy.data.images import IMAGE_MARK
from tunestudy.data.wording import RUN, evened, question_of, run_prints, sentence_prints, sentences, words


def said(text: str, by_line: bool = True) -> list[str]:
    return sentences(evened(text), by_line=by_line)


@pytest.mark.parametrize(
    "other",
    [
        "  How many\tCafés are   in “Seoul” ?\n",
        unicodedata.normalize("NFD", "How many cafés are in 'Seoul'?"),
        "ＨＯＷ many cafés are in (Seoul)",
        "How many ca\u00adfés are in \u200bSeoul…",
        f"{IMAGE_MARK}How many cafés are in Seoul?",
    ],
)
def test_the_same_in_another_form(other):
    assert said(other) == said("How many cafés are in Seoul?") == ["how many cafés are in seoul"]


def test_hangul_in_either_unicode_form():
    text = "서울의 인구는 몇 명입니까? 보기에서 고르세요."
    assert said(unicodedata.normalize("NFD", text)) == said(text) == ["서울의 인구는 몇 명입니까", "보기에서 고르세요"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the value of Alpha?", "What is the value of Beta?"),
        ("What is the value of Alpha?", "What is the value of Alpha in 2019?"),
        ("3 + 4 = ?", "3 - 4 = ?"),
        ("Is it -4?", "Is it 4?"),
        ("1.5 of it", "15 of it"),
    ],
)
def test_another_name_number_or_sign_is_another_question(one, other):
    assert not set(sentence_prints(said(one))) & set(sentence_prints(said(other)))


def test_cut_at_lines_or_only_where_sentences_end():
    text = "Which bar\nis the tallest? Answer: one word"
    assert said(text) == ["which bar", "is the tallest", "answer", "one word"]
    assert said(text, by_line=False) == ["which bar is the tallest", "answer", "one word"]
    assert said("12.5 at 10:30 costs $3.20, e.g. here") == ["12.5 at 10:30 costs $3.20 e.g", "here"]


def test_a_sentence_that_comes_twice_counts_twice():
    assert len(set(sentence_prints(["ha", "ha", "ho"]))) == 3
    assert sentence_prints(["ha", "ho"]) == sentence_prints(["ha", "ho", "ha"])[:2]


def test_runs_agree_where_thirteen_words_in_a_row_do():
    generator = np.random.default_rng(0)
    one, other = ([f"w{n}" for n in generator.integers(0, 50, 60)] for _ in range(2))
    other[20:40] = one[5:25]
    spelled = [[" ".join(text[i : i + RUN]) for i in range(len(text) - RUN + 1)] for text in (one, other)]
    prints = [run_prints(text) for text in (one, other)]
    assert len(prints[0]) == len(spelled[0])
    expected = np.isin(spelled[0], spelled[1])
    assert 0 < expected.sum() < len(expected)
    assert np.array_equal(np.isin(prints[0], prints[1]), expected)
    assert len(run_prints(one[: RUN - 1])) == 0


def test_question_is_what_stands_before_the_last_answer():
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{IMAGE_MARK}What?"})
    more = ({"role": "assistant", "content": "This."}, {"role": "user", "content": "Why?"})
    last = ({"role": "assistant", "content": "So."},)
    assert question_of(Example(messages=(*turns, *more, *last))) == "What?\nThis.\nWhy?"
    assert question_of(Example(prompt=f"{IMAGE_MARK}ab ? ", completion="ba")) == "ab ?"
    assert question_of(Example(text="All of it.")) == "All of it."
    assert words(evened("-- a (b) ")) == ["--", "a", "b"]
