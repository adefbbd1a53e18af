"""Where a path that a study file names leads, by one rule for every key and for both planes."""

from pathlib import Path


def located(folder: Path, written: str) -> Path:
    """A relative path starts at `folder`, the study file's; `~` and `~name` are homes of this machine.

    Expanded where it is used, never in what is kept: a study that is copied finds the home of whoever runs it.
    """
    try:
        return folder / Path(written).expanduser()
    except RuntimeError:  # nobody of that name: it leads nowhere, and is told as such
        return folder / written
