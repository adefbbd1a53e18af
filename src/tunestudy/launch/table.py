"""The table of a report as a CSV file of its own."""

import csv
import io
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import write_text
from tunestudy.records.layout import StudyDir

COLUMNS = ("variant", "benchmark", "metric", "mean", "std", "ci_low", "ci_high", "n_seeds", "delta", "p_value")


def write_table(folder: StudyDir, output: Path) -> None:
    """The report's results.csv in the columns of `COLUMNS`, replaced whole. StudyError where it cannot be written."""
    with open(folder.report_table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_text(output, out.getvalue())
    except OSError as error:
        cause = f"cannot be written: {error.strerror}; the table is also at {folder.report_table}"
        raise StudyError(str(output), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
    print(f"table: {output}")
