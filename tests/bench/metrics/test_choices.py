"""What texts choose, on adversarial strings; each expected letter follows by hand from the rules' description."""

import random

import pytest

from tunestudy.bench.metrics import Target, metric
from tunestudy.bench.metrics.letters import right_letter

ANIMALS = ("dog", "cat", "a horse", "none of these")
NFD_ANSWER = "\u110c\u1165\u11bc\u1103\u1161\u11b8: B"  # 정답: B

SAID = [  # text, official, strict, lmms-eval of MMBench, of BLINK, of K-DTCBench
    ("B", "B", "B", "B", "B", "B"),
    ("B.", "B", "B", "B", "B", "B"),
    ("(B)", "B", "B", "B", "B", "("),
    ("b", "B", "B", None, "B", "B"),
    ("**B**", "B", "B", "B", None, "*"),
    ("Answer: C", "C", "C", "C", "A", "A"),
    ("The answer is B", "B", "B", "B", "T", "T"),
    ("The answer is B.", "B", "B", "B", "T", "T"),
    ("The correct answer is (B).", "B", "B", "B", "T", "T"),
    ("정답: B", "B", "B", "B", None, "정"),
    (NFD_ANSWER, "B", "B", "B", None, "\u110c"),
    ("정답은 B입니다.", "B", "B", "B", None, "정"),
    ("B입니다", "B", "B", "B", "B", "B"),
    ("답은 고양이, 즉 B입니다", "B", None, "B", None, "답"),
    ("cat", "B", "B", "B", "C", "C"),
    ("Cat.", "B", "B", "B", "C", "C"),
    ("A cat", "B", None, "A", "A", "A"),
    ("A horse", "C", "C", "A", "A", "A"),
    ("A. dog", "A", "A", "A", "A", "A"),
    ("B. dog", "B", None, "B", "B", "B"),
    ("A cat is on the mat", "B", None, "B", "A", "A"),
    ("A and B", None, None, "A", "A", "A"),
    ("Answer: A or B", None, None, "B", "A", "A"),
    ("A, B", None, None, "B", "A", "A"),
    ("dog and cat", None, None, None, "D", "D"),
    ("It is a dog", "A", None, "A", "I", "I"),
    ("the dogma", None, None, "A", "T", "T"),
    ("E", None, None, "E", "E", "E"),
    ("vitamin", None, None, None, "V", "V"),
    ("", None, None, None, None, None),
    ("1,000", None, None, None, None, "1"),
    ("I think B, since it has whiskers and a tail", "B", None, "B", "I", "I"),
    ("B because of the whiskers and the tail on it", "B", None, "B", "B", "B"),
]


@pytest.mark.parametrize(("text", "official", "strict", "mmbench", "blink", "dtc"), SAID)
def test_what_is_understood(
    text: str, official: str | None, strict: str | None, mmbench: str | None, blink: str | None, dtc: str | None
) -> None:
    expected = {"choice": mmbench, "choice_blink": blink, "choice_dtc": dtc}
    for place, letter in enumerate("ABCD"):
        target = Target((ANIMALS[place],), ANIMALS, letter)
        for name, peers in expected.items():
            for way, said in (("official", official), ("strict", strict), ("lmms-eval", peers)):
                verdict = metric(name).verdict(text, target, way)
                assert (name, way, verdict.understood, verdict.score) == (name, way, said, float(said == letter))


def test_options_that_hold_one_another_or_numbers_are_told_apart() -> None:
    counts = Target(("12",), ("1", "2", "12", "3"), "C")
    assert metric("choice").verdict("It is 12", counts, "official").understood == "C"
    assert metric("choice").verdict("It is 15", counts, "official").understood is None
    assert metric("choice").verdict("It is 15", counts, "lmms-eval").understood == "A"
    both = Target(("cat",), ("cat", "cat and dog"), "A")
    assert metric("choice").verdict("cat and dog", both, "official").understood == "B"


def test_nothing_is_drawn_at_random() -> None:
    target = Target(("dog",), ANIMALS, "A")
    for seed in range(20):
        random.seed(seed)
        assert metric("choice").verdict("no idea at all, sorry", target, "official").understood is None
    state = random.getstate()
    metric("choice").verdict("no idea", target, "lmms-eval")
    assert random.getstate() == state


def test_options_keep_their_case_and_identity() -> None:
    choices = ("DOG", "Cat")
    target = Target(("DOG",), choices, "A")
    for way in ("official", "lmms-eval"):
        assert metric("choice").verdict("The DOG", target, way).score == 1
    assert target.choices is choices and choices == ("DOG", "Cat")


@pytest.mark.parametrize(
    ("target", "letter"),
    [
        (Target(("cat",), ("dog", "cat"), "(B)"), "B"),
        (Target(("cat",), ("dog", "cat")), "B"),
        (Target(("(c)",)), "C"),
        (Target(("bird",), ("dog", "cat")), ""),
    ],
)
def test_the_right_letter(target: Target, letter: str) -> None:
    assert right_letter(target) == letter
