"""CSV logs that survive kills: a resumed run cuts them back to its checkpoint, so no row is lost or doubled."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunestudy.records.appended import AppendedFile
from tunestudy.records.atomic import write_text

Value = float | int | str | None


class TableLog:
    """Appends rows to a CSV file. None becomes an empty field; floats keep all digits (`repr`)."""

    def __init__(self, path: Path, columns: Sequence[str], *, keep_through_step: int = 0) -> None:
        """Open `path` for appending, dropping torn rows and those of a step after `keep_through_step`.

        A table without a `step` column (samples over time) keeps all complete rows.
        """
        self.columns = list(columns)
        kept = [row for row in read_table(path) if int(row.get("step", keep_through_step)) <= keep_through_step]
        write_text(path, _lines([self.columns] + [[row.get(name, "") for name in self.columns] for row in kept]))
        self._file = AppendedFile(path)

    def append(self, row: Mapping[str, Value]) -> None:
        """Write one row; a key that is no column is an error of the caller.

        Raises NoSpaceError, and the table is as before.
        """
        assert row.keys() <= set(self.columns), f"no such column: {row.keys() - set(self.columns)}"
        self._file.append(_lines([[row.get(name) for name in self.columns]]).encode())

    def sync(self) -> None:
        """Make all rows durable; called before a checkpoint that counts on them."""
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def read_table(path: Path) -> list[dict[str, str]]:
    """Complete rows of a CSV log as text; an absent file has none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(complete))
    return [row for row in reader if None not in row.values() and None not in row]


def _lines(rows: Sequence[Sequence[Value]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
