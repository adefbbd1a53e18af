"""Data sets of the Hugging Face hub, through `datasets` and its cache."""

import dataclasses
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tunestudy.config.data import HubDataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data.fetch.wanted import images_identity, with_images
from tunestudy.data.hub.view import folder_of
from tunestudy.data.sources import Folders, Raw
from tunestudy.records.hub_cache import FETCH_FIRST, hub_cache, snapshot_folder


def read(dataset: HubDataset, folders: Folders) -> Iterator[Raw]:
    """Records of one split, in the data set's order, with the images that were fetched for them."""
    return with_images(records(dataset, folders), dataset, folders)


def records(dataset: HubDataset, folders: Folders) -> Iterator[Raw]:
    """Records as the hub has them: images and audio stay encoded, images may be named by URL."""
    rows = chain.from_iterable(_load(dataset, subset, folders) for subset in _subsets(dataset))
    for number, columns in enumerate(rows):
        yield Raw(f"{dataset.name}:{number}", columns)


def identity(dataset: HubDataset, folders: Folders) -> str:
    """The pinned revision, or what `datasets` knows of the prepared split where none is pinned; which images came."""
    parts = (_load(dataset, subset, folders) for subset in _subsets(dataset))
    version = dataset.revision or "+".join(part._fingerprint for part in parts)
    return f"hub {dataset.name} {dataset.subset} {dataset.split} {version}{images_identity(dataset, folders)}"


def _subsets(dataset: HubDataset) -> list[str | None]:
    """Those that are read, one after the other; None: the only one."""
    return [None] if dataset.subset is None else list(dataset.subset.split("+"))


def _load(dataset: HubDataset, subset: str | None, folders: Folders) -> Any:
    import datasets

    try:
        kept = _locked_folder(dataset, subset, folders)
        name, revision = (dataset.name, dataset.revision) if kept is None else (str(kept), None)
        loaded = datasets.load_dataset(name, subset, split=dataset.split, revision=revision)
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, datasets.exceptions.DatasetsError)):
            raise
        raise StudyError(
            at("datasets"),
            f"{dataset.name} cannot be loaded: {error}; {FETCH_FIRST}",
            exit_code=Exit.PREFLIGHT_REFUSED,
        ) from error
    features = datasets.Features({name: _undecoded(feature) for name, feature in loaded.features.items()})
    return loaded if features == loaded.features else loaded.cast(features)


def _locked_folder(dataset: HubDataset, subset: str | None, folders: Folders) -> Path | None:
    """The files of the locked commit in the hub's cache, for a job that asks nobody.

    Read from there, since `datasets` itself offline takes whatever revision it prepared last.
    """
    if dataset.revision is None or os.environ.get("HF_DATASETS_OFFLINE") != "1":
        return None
    snapshot = snapshot_folder(hub_cache(), "dataset", dataset.name, dataset.revision)
    return folder_of(snapshot, subset, folders.cache / "hub") if snapshot.is_dir() else None


def _undecoded(feature: Any) -> Any:
    """The same feature with images and audio as they are encoded, however deep they stand."""
    import datasets

    if isinstance(feature, (datasets.Image, datasets.Audio)):
        return feature.__class__(decode=False)
    if isinstance(feature, dict):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(inner) for inner in feature]
    if hasattr(feature, "feature"):  # List, LargeList, Sequence
        return dataclasses.replace(feature, feature=_undecoded(feature.feature))
    return feature
