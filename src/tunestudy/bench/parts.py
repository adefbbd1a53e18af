"""Answers on disk while a benchmark is under way: `eval/<benchmark>.part-<rank>.jsonl`, a line each.

Every rank writes its own file, so nobody waits for anybody; any number of ranks goes on from all of them. A line counts
for the row that it was written for under the same definition: it holds the evaluation's fingerprint and a digest of all
that the row asks. Lines that cannot be read (the end of a file whose writer was killed) do not count.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any

from tunestudy.bench.tasks import UNJUDGED, Row, Scored
from tunestudy.records.layout import part_name


class Parts:
    """What is answered so far of one benchmark."""

    def __init__(self, predictions: Path, fingerprint: str, rank: int) -> None:
        """predictions: where all answers will lie in the end; fingerprint: of the evaluation and its task."""
        self._stem = predictions.name.removesuffix(".predictions.jsonl")
        self._folder, self._fingerprint = predictions.parent, fingerprint
        self._own = self._folder / part_name(self._stem, rank)

    def files(self) -> list[Path]:
        """Of all ranks that ever wrote one."""
        return sorted(self._folder.glob(part_name(escape(self._stem), "*")))

    def read(self, rows: Sequence[Row]) -> dict[str, Scored]:
        """Answers to those of `rows` that have one, by id."""
        wanted = {digest_of(row): row.id for row in rows}
        found: dict[str, Scored] = {}
        for file in self.files():
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                told = _parsed(line)
                if told is not None and told[0] == self._fingerprint and told[1] in wanted:
                    found.setdefault(wanted[told[1]], told[2])
        return found

    def append(self, rows: Sequence[Row], scored: Sequence[Scored]) -> None:
        """Add the answers to these rows; they have left the process when this returns.

        What a judge could not be asked about is left out: the next run asks again.
        """
        digests = {row.id: digest_of(row) for row in rows}
        lines = [
            json.dumps(
                {"fingerprint": self._fingerprint, "row": digests[one.id], "scored": asdict(one)}, allow_nan=False
            )
            for one in scored
            if not one.problem.startswith(UNJUDGED)
        ]
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._own, "a+b") as file:
            if file.tell() and not _ends_whole(self._own):
                file.write(b"\n")  # the line before was cut off
            file.write("".join(line + "\n" for line in lines).encode())

    def remove(self) -> None:
        """Once all answers lie in the predictions."""
        for file in self.files():
            file.unlink(missing_ok=True)


def digest_of(row: Row) -> str:
    """Changes when anything that the row asks or is compared with does."""
    images = [image.sha256 for image in row.images]
    target = None if row.target is None else asdict(row.target)
    asked = [row.id, row.prompt_ids, images, row.reference, row.choices, row.group, row.problem, target]
    return hashlib.sha256(json.dumps(asked, default=str, sort_keys=True).encode()).hexdigest()


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _parsed(line: str) -> tuple[str, str, Scored] | None:
    """(fingerprint, the row's digest, its answer), or None for what is no whole line of ours."""
    try:
        told: dict[str, Any] = json.loads(line)
        scored = told["scored"]
        return told["fingerprint"], told["row"], Scored(**{**scored, "images": tuple(scored["images"])})
    except (ValueError, TypeError, KeyError):
        return None
