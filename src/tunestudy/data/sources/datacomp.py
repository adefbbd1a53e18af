"""Image-text pairs of the web, as DataComp's metadata list them: `uid`, `url`, `text` and `sha256` a row.

Source: Gadre et al. 2023, DataComp, arXiv:2304.14108; https://github.com/mlfoundations/datacomp.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.data import DatacompDataset, FileDataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data import drawn_pool
from tunestudy.data.fetch.wanted import images_identity, with_images
from tunestudy.data.select import smallest
from tunestudy.data.sources import Folders, Raw, file
from tunestudy.records.hub_cache import FETCH_FIRST, hub_cache, snapshot_folder

NEEDED = ("uid", "url", "text")
SALT = "datacomp"


def read(dataset: DatacompDataset, folders: Folders) -> Iterator[Raw]:
    """One prompt/completion record with its image per chosen row; those whose image did not come are `lost`."""
    return with_images(records(dataset, folders), dataset, folders)


def identity(dataset: DatacompDataset, folders: Folders) -> str:
    """The metadata's hashes and which images came."""
    return f"datacomp {_origin(dataset, folders)} {dataset.num_samples} {dataset.question}" + images_identity(
        dataset, folders
    )


def _origin(dataset: DatacompDataset, folders: Folders) -> str:
    """What the rows are: hashes of files, a commit, or how they are drawn."""
    if dataset.path is not None:
        return file.identity(FileDataset(path=dataset.path), folders)
    if dataset.drawn is not None:
        return drawn_pool.identity(dataset.drawn)
    return f"{dataset.name} {dataset.revision}"


def records(dataset: DatacompDataset, folders: Folders) -> Iterator[Raw]:
    """The chosen rows in the files' order, each with its image's URL and hash: what `fetch` reads."""
    chosen = _chosen(dataset, folders)
    for number, raw in enumerate(_rows(dataset, folders, (*NEEDED, "sha256"))):
        if chosen is not None and not chosen[number]:
            continue
        problem = raw.problem or next((f"no {name}" for name in NEEDED if not _text(raw.columns.get(name))), "")
        if problem:
            yield Raw(raw.place, {}, problem)
            continue
        row = raw.columns
        image = {"url": row["url"], "sha256": _text(row.get("sha256"))}
        yield Raw(raw.place, {"id": row["uid"], "image": image, "prompt": dataset.question, "completion": row["text"]})


def _chosen(dataset: DatacompDataset, folders: Folders) -> NDArray[np.bool_] | None:
    """(rows,) which rows `num_samples` takes; None: all."""
    if dataset.num_samples is None:
        return None
    count = 0

    def uids() -> Iterator[str]:
        nonlocal count
        for raw in _rows(dataset, folders, ("uid",)):
            count += 1
            yield str(raw.columns.get("uid", ""))

    taken = smallest(uids(), dataset.num_samples, SALT)
    chosen = np.zeros(count, np.bool_)
    chosen[taken] = True
    return chosen


def _rows(dataset: DatacompDataset, folders: Folders, names: tuple[str, ...]) -> Iterator[Raw]:
    """Rows of every file; of parquet only these columns are read, since metadata hold many more."""
    if dataset.drawn is not None:
        yield from (Raw(f"drawn:{number}", row) for number, row in enumerate(drawn_pool.rows(dataset.drawn)))
        return
    for path in _metadata(dataset, folders):
        if path.suffix.lower() != ".parquet":
            yield from file.read_file(path)
            continue
        file.check_content(path)
        yield from file.read_parquet(path, names)


def _metadata(dataset: DatacompDataset, folders: Folders) -> list[Path]:
    """The files that the rows are read from: here, or at the locked commit in the hub's cache."""
    if dataset.path is not None:
        return file.data_files(FileDataset(path=dataset.path), folders.base)
    assert dataset.name is not None, "a data set has one origin"
    snapshot = snapshot_folder(hub_cache(), "dataset", dataset.name, dataset.revision or "none")
    found = sorted(snapshot.rglob("*.parquet"))
    if not found:
        told = f"the metadata of {dataset.name} are not here; {FETCH_FIRST}"
        raise StudyError(at("datasets"), told, exit_code=Exit.PREFLIGHT_REFUSED)
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
