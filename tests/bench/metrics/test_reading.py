import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestudy.bench.metrics.reading import bare, declared, distance, evened, number, numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,000", 1000), ("-3.", -3), (".5", 0.5), ("+1.5e3", 1500), ("12,345,678.9", 12345678.9), ("−7", -7), (" 4 ", 4)],
)
def test_numbers_are_read(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text", ["", "1_000", "1,00", "10,00,000", "nan", "inf", "1 000", "٣", "one", ".", "-", "5%", "1e"]
)
def test_other_texts_are_no_numbers(text: str) -> None:
    assert number(text) is None


@given(st.integers(-(10**12), 10**12))
def test_a_grouped_number_is_the_number(value: int) -> None:
    assert number(f"{value:,}") == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2007-2008", [2007, 2008]),
        ("from -3 to 1,500.5m", [-3, 1500.5]),
        ("[1,2]", [1, 2]),
        ("$5, €6", [5, 6]),
        ("R2D2 v1.2.3", []),
    ],
)
def test_numbers_in_a_text(text: str, found: list[float]) -> None:
    assert numbers(text) == found


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("\\boxed{open", None),
        ("The answer is 3.\nBecause", "3."),
        ("Answer: 3? No. Final answer: **4**", "4"),
        ("정답은 서울입니다.", "서울"),
        ("answer", None),
        ("answer is ", None),
    ],
)
def test_what_is_declared(text: str, answer: str | None) -> None:
    assert declared(text) == answer


def test_evened_and_bare() -> None:
    assert evened(" cafe\u0301\n\u3000x ") == "café x"
    assert bare(' "The Cat." ') == "the cat"


short = st.text("ab한", max_size=6)


@given(short, short, short)
def test_distance_is_a_metric_with_unit_edits(one: str, other: str, third: str) -> None:
    assert distance(one, other) == distance(other, one)
    assert (distance(one, other) == 0) == (one == other)
    assert distance(one, third) <= distance(one, other) + distance(other, third)
    assert abs(len(one) - len(other)) <= distance(one, other) <= max(len(one), len(other))
    assert distance(one + other, one + third) == distance(other, third)
    assert distance("kitten", "sitting") == 3
