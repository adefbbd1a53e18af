"""results.csv, results.md and results.tex: exact columns, nothing that breaks them, the same numbers."""

import csv
import io
import re

import pytest
from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.format import duration, minus, p_value, percent, setting, short_count, sig, signed, size
from tunestudy.report.tables import to_csv, to_latex, to_markdown

HOSTILE = "a_b & 100% $x^2$ {c} | <b>#~\\"


def test_csv_columns_and_values(finished: StudyDir) -> None:
    text = (finished.report / "results.csv").read_text()
    columns = "variant,benchmark,metric,mean,std,ci_low,ci_high,n_seeds,delta,p_value,effective_params"
    assert text.splitlines()[0] == columns
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(text))}
    cells = {cell.variant: cell for cell in make_headline(collect(finished)).cells}
    assert rows.keys() == cells.keys()
    for name, row in rows.items():
        assert float(row["mean"]) == pytest.approx(cells[name].summary.mean)
        assert float(row["ci_high"]) == pytest.approx(cells[name].summary.ci_high)
        assert row["n_seeds"] == "3"
    assert rows["untrained"]["delta"] == rows["untrained"]["p_value"] == ""
    assert float(rows["full"]["p_value"]) == 0.75


def test_no_output_ever_says_nan(finished: StudyDir, half: StudyDir) -> None:
    for study_dir in (finished, half):
        for path in (*study_dir.report.glob("results.*"), study_dir.experiment_md):
            assert not re.search(r"\bnan\b|\binf\b|\bNone\b", path.read_text(), re.IGNORECASE), path


def test_latex_is_escaped_and_balanced(tmp_path) -> None:
    study_dir = make_study(tmp_path, Recipe(accuracy={HOSTILE: 0.1, "full": 0.9}))
    text = to_latex(make_headline(collect(study_dir)))
    assert (
        r"a\_b \& 100\% \$x\textasciicircum{}2\$ \{c\} \textbar{} \textless{}b\textgreater{}\#\textasciitilde{}" in text
    )
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert re.search(r"\\toprule.*\\midrule.*\\bottomrule", text, re.DOTALL)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 1 for line in body)


def test_markdown_rows_keep_their_columns(tmp_path) -> None:
    study_dir = make_study(tmp_path, Recipe(accuracy={HOSTILE: 0.1, "full": 0.9}))
    lines = [line for line in to_markdown(make_headline(collect(study_dir))).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<b>" not in "".join(lines).replace(r"\<b\>", "")


def test_csv_of_an_unfinished_study_leaves_unknowns_empty(half: StudyDir) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(make_headline(collect(half))))))
    row = next(row for row in rows if row["variant"] == "lora_r16" and row["benchmark"] == "digits")
    assert row["n_seeds"] == "1" and row["std"] == row["ci_low"] == "" and row["mean"] != ""


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (sig(0.95139), "0.951"), (sig(-12.345), "−12.35"), (sig(1234.5), "1234.5"), (sig(1e-7), "1.00e−07"),
        (sig(-0.0), "0.000"), (sig(None), "—"), (signed(0.5), "+0.500"), (signed(-0.5), "−0.500"),
        (signed(-1e-17), "−1.00e−17"), (p_value(0.0004), "< 0.001"), (p_value(0.25), "0.25"),
        (p_value(0.0312), "0.031"),
        (duration(0), "0 s"), (duration(59.9), "60 s"), (duration(61), "1 min 01 s"), (duration(7300), "2 h 01 min"),
        (duration(200_000), "2 d 7 h"), (short_count(152_640), "153 k"), (short_count(9_999), "9,999"),
        (short_count(7.6e9), "7.6 B"), (size(147_456), "144.0 KiB"), (setting([{"dataset": "a", "weight": None}]), "a"),
        (setting({"type": "lora", "r": 4, "x": None}), "{type: lora, r: 4}"), (setting(None), "null"),
        (short_count(999_400), "999 k"), (short_count(999_700), "1 M"), (short_count(999_600_000), "1 B"),
        (percent(-0.0001), "0.0 %"), (percent(-0.01), "−1.0 %"), (minus("-0 %"), "0 %"),
    ],
)  # fmt: skip
def test_formats(shown: str, expected: str) -> None:
    assert shown == expected
