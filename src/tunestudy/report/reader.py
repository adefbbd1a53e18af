"""The one door through which files of a run directory enter the report: redacted, never failing on broken ones."""

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tunestudy.config.errors import StudyError
from tunestudy.records.atomic import read_json
from tunestudy.records.redact import redactor
from tunestudy.records.tables import read_table
from tunestudy.report.values import mapping
from tunestudy.study.source import read_source


class Reader:
    """Reads files redacted, and remembers which could not be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unreadable: list[str] = []
        self.redact: Callable[[Any], Any] = redactor()

    def guarded(self, path: Path, read: Callable[[Path], Any], fallback: Any, *, clean: bool = True) -> Any:
        """`read(path)` redacted, or `fallback` with a note when the file is broken."""
        try:
            return self.redact(read(path)) if clean else read(path)
        except (OSError, ValueError, KeyError, TypeError, YAMLError, csv.Error) as error:
            self.refuse(path, type(error).__name__)
            return fallback

    def refuse(self, path: Path, why: str) -> None:
        """Note that a file is left out."""
        where = path.relative_to(self.root) if path.is_relative_to(self.root) else path.name
        self.unreadable.append(self.redact(f"{where}: {why}"))

    def json(self, path: Path) -> dict[str, Any]:
        """A JSON object; empty when absent or broken."""
        return mapping(self.guarded(path, read_json, {}))

    def yaml(self, path: Path) -> dict[str, Any]:
        """A YAML mapping; empty when absent or broken."""
        return mapping(self.guarded(path, _read_yaml, {}))

    def text(self, path: Path) -> str:
        """A text file; empty when absent or broken."""
        return str(self.guarded(path, _read_text, ""))

    def table(self, path: Path) -> list[dict[str, str]]:
        """Rows of a CSV log. Only its header is redacted: no cell is ever used as anything but a number."""
        rows: list[dict[str, str]] = self.guarded(path, read_table, [], clean=False)
        names = {name: self.redact(name) for name in (rows[0] if rows else {})}
        return [{names[name]: value for name, value in row.items()} for row in rows]


def _read_yaml(path: Path) -> Any:
    """`study.source` reads large files some twenty times faster, but refuses more than a report should mind."""
    if not path.exists():
        return {}
    try:
        return read_source(path).values
    except StudyError:
        return YAML(typ="safe", pure=True).load(StringIO(_read_text(path)))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
