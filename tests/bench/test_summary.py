"""A benchmark's score from its rows: by hand, and against a plain count over random rows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestudy.bench.summary import summarise
from tunestudy.bench.tasks import Scored


def scored(row_id: str, score: float, **more: Any) -> Scored:
    return Scored(row_id, "said", "wanted", score == 1, score, **{"understood": "said", **more})


def test_fractions_and_other_ways() -> None:
    rows = [scored("a", 1.0), scored("b", 0.3, others={"strict": 0.0}), scored("c", 0.5, others={"lmms-eval": 0.5})]
    told = summarise(rows, primary="anls", understands=True)
    assert told["primary"] == "anls" and told["aggregate"] == "mean" and told["counts"] == {}
    assert told["metrics"] == {"anls": pytest.approx(0.6), "anls (strict)": pytest.approx(0.5)}


def test_what_could_not_be_judged_is_counted_once() -> None:
    rows = [
        scored("a", 0, understood=None),
        scored("b", 0, understood=None, problem="broken image: x"),
        scored("c", 0, problem="unjudged: nobody answered"),
        scored("d", 1),
    ]
    assert summarise(rows, primary="m", understands=True)["counts"] == {"unparsed": 1, "undecodable": 1, "unjudged": 1}
    assert summarise(rows, primary="m")["counts"] == {"undecodable": 1, "unjudged": 1}


def test_a_group_counts_once_and_by_its_worst_row_in_categories_too() -> None:
    rows = [
        scored("1#0", 1, group="1", categories={"kind": "x"}),
        scored("1#1", 0, group="1", categories={"kind": "x"}, others={"lmms-eval": 1.0}),
        scored("2#0", 1, group="2", categories={"kind": "y"}),
        scored("3#0", 1, group="3", categories={"kind": "x"}),
    ]
    told = summarise(rows, primary="accuracy")
    assert told["aggregate"] == "all_of_group"
    assert told["metrics"] == {"accuracy": pytest.approx(2 / 3), "accuracy (lmms-eval)": 1.0}
    assert told["categories"] == {"kind": {"x": {"n": 2, "score": 0.5}, "y": {"n": 1, "score": 1.0}}}


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("xy")), min_size=1, max_size=20
)


@given(ROWS)
def test_groups_against_a_plain_count(found: list[tuple[int, float, str]]) -> None:
    rows = [
        scored(str(place), score, group=str(group), categories={"kind": kind})
        for place, (group, score, kind) in enumerate(found)
    ]
    told = summarise(rows, primary="m")
    worst: dict[int, float] = {}
    for group, score, _ in found:
        worst[group] = min(score, worst.get(group, 1.0))
    assert told["metrics"]["m"] == pytest.approx(sum(worst.values()) / len(worst))
    assert sum(value["n"] for value in told["categories"]["kind"].values()) == len(worst)
    weighted = sum(value["n"] * value["score"] for value in told["categories"]["kind"].values())
    assert weighted == pytest.approx(sum(worst.values()))


@given(ROWS)
def test_rows_without_groups_are_a_mean(found: list[tuple[int, float, str]]) -> None:
    rows = [scored(str(place), score) for place, (_, score, _) in enumerate(found)]
    assert summarise(rows, primary="m")["metrics"]["m"] == pytest.approx(sum(s for _, s, _ in found) / len(found))
