"""Markdown in which no value can break a table or turn into markup."""

import re
from collections.abc import Iterable, Sequence


def escape(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """Inline code; a backtick inside makes the fence longer."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def fenced(text: str, language: str = "") -> str:
    """A code block that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "") -> str:
    """A table whose cells are Markdown already; `empty` stands in its place when there are no rows."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    if not lines:
        return empty
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'|'.join(['---'] * len(heads))}|", *lines])
