"""Numbers that no float holds are no answers, whichever metric reads them."""

import pytest

from tunestudy.bench.metrics import Target, metric

HUGE = ["1e999", "9" * 400, "-1e400", "1e20 x 10^300", "0.00001 x 10^3", "-2 x -10^3", "10^999", "the answer is 1e400"]
TARGETS = {
    "charxiv": Target(("5",), facts={"qid": 8}),
    "mathvista": Target(("5",), facts={"question_type": "free_form", "answer_type": "integer", "precision": "1.0"}),
    "mathverse": Target(("5",), facts={"question_type": "free-form"}),
    "denotation": Target(("5",)),
    "relaxed_accuracy": Target(("5",)),
}


@pytest.mark.parametrize("text", HUGE)
@pytest.mark.parametrize("name", TARGETS)
def test_a_number_too_large_is_wrong(name: str, text: str) -> None:
    computed = metric(name)
    for way in computed.WAYS:
        assert computed.verdict(text, TARGETS[name], way).score == 0


@pytest.mark.parametrize(("text", "answer"), [("0.005 x 10^3", "5"), ("-2 x 10^3", "-2000"), ("10^-2", "0.01")])
def test_powers_of_ten_are_read(text: str, answer: str) -> None:
    assert metric("charxiv").verdict(text, Target((answer,), facts={"qid": 8}), "official").score == 1


def test_a_precision_from_a_table_is_text() -> None:
    facts = {"question_type": "free_form", "answer_type": "float", "precision": "1.0"}
    assert metric("mathvista").verdict("1.23", Target(("1.2",), facts=facts), "official").score == 1


@pytest.mark.parametrize("text", ["9" * 5000 + "-01-01", "1" * 5000])
def test_a_date_of_five_thousand_digits(text: str) -> None:
    assert metric("denotation").verdict(text, Target(("2001-01-01",)), "official").score == 0
