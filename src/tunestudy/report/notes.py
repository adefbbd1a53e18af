"""Text that a person writes into EXPERIMENT.md, kept whenever the document is made anew.

Its place is between marked lines. Beside the document lies the text as it was generated: whatever a person wrote
outside of the marks, or whose marks were damaged, is what the document has and that text has not. It is kept too,
under a heading of its own at the end.
"""

import re
from collections.abc import Iterator

_OPEN = re.compile(r"^\s*<!--\s*notes:\s*([A-Za-z0-9_-]+)\s*-->\s*$")
_CLOSE = re.compile(r"^\s*<!--\s*/notes:\s*([A-Za-z0-9_-]+)\s*-->\s*$")
PLACEHOLDER = "_Write here: this part is kept when the document is made anew._"
RESCUED = "rescued"
_HEADING = """## Notes without a place

Their marks were damaged or removed, or they stood outside of any. Move what you need; nothing was dropped."""


def block(name: str, text: str = PLACEHOLDER) -> str:
    """A marked place for a person's words."""
    return f"<!-- notes:{name} -->\n{text}\n<!-- /notes:{name} -->"


def keep_notes(document: str, old: str, generated: str) -> str:
    """`document` with the notes of `old`, the file as it is now; `generated` is what was last written there.

    Without `generated` (empty), text outside of all marks cannot be told from our own and is not kept.
    """
    notes, outside = _take_apart(old)
    fresh, _ = _take_apart(document)
    for name in fresh:
        if notes.get(name):
            document = document.replace(block(name), block(name, notes[name]), 1)
    lost = [text for name, text in notes.items() if name not in fresh and name != RESCUED]
    lost += _written_by_hand(outside, generated) if generated else _near_damage(outside)
    kept = notes.get(RESCUED, "")
    rescued = "\n\n".join(text for text in [kept, *(text for text in lost if text not in kept)] if text)
    if not rescued:
        return document
    return f"{document.rstrip()}\n\n{_HEADING}\n\n{block(RESCUED, rescued)}\n"


def _take_apart(text: str) -> tuple[dict[str, str], list[str]]:
    """Notes by name where both marks are whole (placeholders as empty text), and all other lines."""
    lines = text.splitlines()
    notes: dict[str, str] = {}
    outside: list[str] = []
    place = 0
    while place < len(lines):
        end = _end_of_block(lines, place)
        if end is None:
            outside.append(lines[place])
            place += 1
            continue
        name = _OPEN.match(lines[place])[1]  # type: ignore[index]
        inside = "\n".join(lines[place + 1 : end]).replace(PLACEHOLDER, "").strip("\n")
        notes[name] = "\n\n".join(part for part in (notes.get(name, ""), inside) if part)
        place = end + 1
    return notes, outside


def _end_of_block(lines: list[str], place: int) -> int | None:
    """Where the block that opens at `place` closes; None when nothing opens there or another mark comes first."""
    opened = _OPEN.match(lines[place])
    if not opened:
        return None
    for at in range(place + 1, len(lines)):
        closed = _CLOSE.match(lines[at])
        if closed and closed[1] == opened[1]:
            return at
        if closed or _OPEN.match(lines[at]):
            return None
    return None


def _written_by_hand(outside: list[str], generated: str) -> list[str]:
    """Runs of lines that were not generated, as texts; marks and our own headings left out."""
    ours = {line.strip() for text in (generated, _HEADING) for line in text.splitlines()}
    return list(_runs([None if _is_ours(line, ours) else line for line in outside]))


def _is_ours(line: str, ours: set[str]) -> bool:
    return bool(line.strip()) and (line.strip() in ours or bool(_OPEN.match(line) or _CLOSE.match(line)))


def _near_damage(outside: list[str]) -> list[str]:
    """Without the generated text: what stands between a widowed mark and the next heading, before a closing one too."""
    keep = [False] * len(outside)
    for place, line in enumerate(outside):
        step = 1 if _OPEN.match(line) else -1 if _CLOSE.match(line) else 0
        at = place + step
        while step and 0 <= at < len(outside) and not outside[at].startswith("#") and not _mark(outside[at]):
            keep[at] = True
            at += step
    return list(_runs([line if kept else None for line, kept in zip(outside, keep, strict=True)]))


def _mark(line: str) -> bool:
    return bool(_OPEN.match(line) or _CLOSE.match(line))


def _runs(lines: list[str | None]) -> Iterator[str]:
    """Texts of neighbouring lines that are not None; empty ones and placeholders left out."""
    run: list[str] = []
    for line in [*lines, None]:
        if line is not None:
            run.append(line)
            continue
        text = "\n".join(run).replace(PLACEHOLDER, "").strip("\n")
        if text.strip():
            yield text
        run = []
