"""CharXiv's descriptive questions: four a chart, named by their number among nineteen.

Source: Wang et al. 2024, CharXiv, arXiv:2406.18521; the numbers and what they ask are those of its repository,
princeton-nlp/CharXiv, in `src/constants.py`. What counts as an answer is said there at more length.
"""

from collections.abc import Iterator
from typing import Any

from tunestudy.bench.fields import Record

PER_CHART = range(1, 5)
COLUMNS = tuple(f"descriptive_{kind}{number}" for kind in "qa" for number in PER_CHART)

NOT_APPLICABLE = "Not Applicable"
_TITLE = f"Answer with the words of the plot. Without such a text answer '{NOT_APPLICABLE}'."
_LABEL = f"Answer with the words at the axis, also if subplots share it. Without any answer '{NOT_APPLICABLE}'."
_TICK = "Answer with what is written at the tick, without a unit or scale that stands elsewhere."
_STEP = f"Answer with a number. Without ticks, or if they are no numbers or not evenly spaced: '{NOT_APPLICABLE}'."
_LINES = f"Grid lines and helping lines do not count. If the plot has no lines, answer '{NOT_APPLICABLE}'."
_LEGEND = f"Only labels of this plot count. Without a legend, answer '{NOT_APPLICABLE}'."
_BAR = f"Answer with a number without a percent sign. Without a colour bar, answer '{NOT_APPLICABLE}'."

ASKED: dict[int, tuple[str, str]] = {
    1: ("what is its title?", _TITLE),
    2: ("what is the label of the x-axis?", _LABEL),
    3: ("what is the label of the y-axis?", _LABEL),
    4: ("what is the leftmost labeled tick on the x-axis?", _TICK),
    5: ("what is the rightmost labeled tick on the x-axis?", _TICK),
    6: ("what is the spatially lowest labeled tick on the y-axis?", _TICK),
    7: ("what is the spatially highest labeled tick on the y-axis?", _TICK),
    8: ("what is difference between consecutive numerical tick values on the x-axis?", _STEP),
    9: ("what is difference between consecutive numerical tick values on the y-axis?", _STEP),
    10: ("how many lines are there?", _LINES),
    11: ("do any lines intersect?", f"Answer 'Yes' or 'No'. {_LINES}"),
    12: ("how many discrete labels are there in the legend?", _LEGEND),
    13: (
        "what are the names of the labels in the legend?",
        f"List them from top to bottom, then left to right, parted by commas. {_LEGEND}",
    ),
    14: (
        "what is the difference between the maximum and minimum values of the tick labels on the continuous legend "
        "(i.e., colorbar)?",
        _BAR,
    ),
    15: ("what is the maximum value of the tick labels on the continuous legend (i.e., colorbar)?", _BAR),
    16: ("what is the general trend of data from left to right?", "Answer in a few words, such as 'increases'."),
    17: ("what is the total number of explicitly labeled ticks across all axes?", "Answer with a number."),
    18: ("What is the layout of the subplots?", "Answer 'n by m': rows by columns; of a single plot '1 by 1'."),
    19: ("What is the number of subplots?", "Answer with a number; of a single plot '1'."),
}
"""Number → the question, and what is expected as an answer."""
OF_THE_FIGURE = (18, 19)
"""These speak of all its plots and name none."""


def questions(record: Record) -> Iterator[tuple[str, Record]]:
    """The four of a chart. ValueError for a number that is none of the nineteen, and for a place that is none."""
    for place in PER_CHART:
        number, answer = record[f"descriptive_q{place}"], record[f"descriptive_a{place}"]
        if number is None:
            continue
        number = _numbered(number)
        added = {"question": question(number, record), "answer": answer, "qid": number}
        yield f"_{place - 1}", added


def _numbered(number: Any) -> int:
    if str(number).strip().removesuffix(".0") not in map(str, ASKED):
        raise ValueError(f"CharXiv's descriptive questions are numbered 1 to 19, not {number!r}")
    return int(float(number))


def question(number: int, record: Record) -> str:
    """The question in words, about the plot that the record names."""
    asked, expected = ASKED[number]
    return f"{asked if number in OF_THE_FIGURE else _plot(record) + asked}\n{expected}"


def _plot(record: Record) -> str:
    """`subplot_loc` in words where the plots form no grid; row and column are 0 for a figure of one plot."""
    location: Any = record.get("subplot_loc")
    if isinstance(location, str) and location.strip():
        return f"For {location}, "
    if isinstance(location, list | tuple) and len(location) != 2:
        raise ValueError(f"`subplot_loc` is a row and a column, not {location!r}")
    row, column = location if isinstance(location, list | tuple) else _row_and_column(record)
    return "For the current plot, " if not row else f"For the subplot at row {row} and column {column}, "


def _row_and_column(record: Record) -> tuple[int, int]:
    return int(record.get("subplot_row") or 0), int(record.get("subplot_col") or 0)
