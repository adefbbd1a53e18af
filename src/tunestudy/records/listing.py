"""Looking through folders that others change meanwhile: what comes or goes between two looks is no error.

`Path.glob` and `rglob` raise FileNotFoundError, before Python 3.13, when a folder that they have just found is gone.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def entries(folder: Path, prefix: str = "") -> list[Path]:
    """What lies in a folder, with names that begin so, by name; nothing where there is none, or none any more."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a study has 10,000 folders: paths only of what is asked for
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names) if name.startswith(prefix)]


def stats_below(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and all that is below it; links are not followed, and what is gone is left out."""
    yield from _stat(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            yield from _stat(os.path.join(folder, name))  # noqa: PTH118 - a study has a million files


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count nothing."""
    return sum(one.st_size for one in stats_below(path) if stat.S_ISREG(one.st_mode))


def _stat(path: str | Path) -> Iterator[os.stat_result]:
    try:
        yield os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
