"""Nothing that a person wrote into EXPERIMENT.md is ever lost, whatever happened to the marks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestudy.report.notes import PLACEHOLDER, block, keep_notes

GENERATED = f"# Title\n\nStatus: running\n\n{block('purpose')}\n\n## Two\n\n| a | b |\n\n{block('next')}\n"
FRESH = GENERATED.replace("running", "finished")
WORDS = "Seed 2 looks odd.\n\n- ask Ana\n  - tomorrow"


def written(text: str = WORDS) -> str:
    return GENERATED.replace(block("purpose"), block("purpose", text))


def test_a_note_stays_in_its_place_and_the_rest_is_new() -> None:
    after = keep_notes(FRESH, written(), GENERATED)
    assert after == FRESH.replace(block("purpose"), block("purpose", WORDS))


def test_without_notes_nothing_is_added() -> None:
    assert keep_notes(FRESH, GENERATED, GENERATED) == FRESH
    assert keep_notes(FRESH, "", "") == FRESH


@pytest.mark.parametrize("generated", [GENERATED, ""])
@pytest.mark.parametrize(
    "damage",
    [
        ("<!-- notes:purpose -->\n", ""),
        ("<!-- /notes:purpose -->\n", ""),
        ("<!-- /notes:purpose -->", "<!-- /notes:purpos -->"),
        ("<!-- notes:purpose -->", "<!-- notes:gone -->"),
        ("<!-- /notes:purpose -->", "<!-- notes:purpose -->"),
    ],
)
def test_damaged_marks(damage: tuple[str, str], generated: str) -> None:
    after = keep_notes(FRESH, written().replace(*damage), generated)
    assert "Seed 2 looks odd." in after and "  - tomorrow" in after
    assert "Status: finished" in after and after.count("## Two") == 1


def test_a_place_that_is_gone() -> None:
    after = keep_notes(FRESH.replace(block("purpose"), ""), written(), GENERATED)
    assert WORDS in after and "Notes without a place" in after


def test_words_outside_of_any_mark() -> None:
    after = keep_notes(FRESH, GENERATED.replace("## Two", "## Two\n\nI wrote here."), GENERATED)
    assert "I wrote here." in after


def test_rescued_words_stay_and_do_not_pile_up() -> None:
    once = keep_notes(FRESH, GENERATED + "\nmine\n", GENERATED)
    twice = keep_notes(FRESH, once, FRESH)
    assert once == twice and once.count("mine") == 1
    cleared = keep_notes(FRESH, once.replace("mine", ""), FRESH)
    assert cleared == FRESH


def test_a_block_twice() -> None:
    old = GENERATED + block("next", "one") + "\n" + block("next", "two")
    after = keep_notes(FRESH, old, GENERATED)
    assert "one" in after and "two" in after


MARKS = ["<!-- notes:purpose -->", "<!-- /notes:purpose -->", "<!-- notes:next -->", "<!-- /notes:next -->"]
LINES = st.one_of(
    st.sampled_from([*MARKS, "", PLACEHOLDER, "# Title", "## Two"]), st.integers(0, 99).map("words {}".format)
)


@given(st.lists(LINES, max_size=14))
def test_no_written_line_is_lost(lines: list[str]) -> None:
    after = keep_notes(FRESH, "\n".join(lines), GENERATED)
    for line in lines:
        if line.startswith("words"):
            assert line in after
    assert keep_notes(FRESH, after, FRESH) == after
