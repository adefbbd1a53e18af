"""The URLs that a record names, and the records as training reads them: with images that are there.

A record names images in its column `image` or `images` (or what `columns:` maps to these): a URL, an object with
`url` (and `sha256`, if it is known), or a list of them. Values that are no URLs are left as they are.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from tunestudy.config.data import Dataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.fetch import FetchSettings
from tunestudy.data.fetch.manifest import Line, Outcome, Redacted, read_manifest
from tunestudy.data.sources import Folders, Raw
from tunestudy.records.atomic import read_json
from tunestudy.records.fetched import (
    IMAGE_COLUMNS,
    FetchDir,
    fetch_key,
    files_of,
    images_digest,
    shards_wanted,
    what_is_missing,
)

KEPT = ("sha256", "url", "width", "height")
"""What training is told of an image."""


class Want(NamedTuple):
    """An image that a record names."""

    url: str
    expected: str
    """The SHA-256 it must have; empty: any."""


def fetch_settings(dataset: Dataset) -> FetchSettings | None:
    """How this data set's images are fetched; None where its records may not name URLs."""
    settings = getattr(dataset, "fetch", None)
    assert settings is None or isinstance(settings, FetchSettings)
    return settings


def fetch_dir(dataset: Dataset, folders: Folders) -> FetchDir:
    """Where the data set's manifests lie."""
    return FetchDir(folders.cache / "fetch" / fetch_key(dataset, files_of(dataset, folders.base)))


def image_columns(dataset: Dataset) -> tuple[str, ...]:
    """The columns that may name images."""
    return tuple(dataset.columns.get(name, name) for name in IMAGE_COLUMNS)


def wants(columns: Mapping[str, Any], names: tuple[str, ...], *, verify: bool) -> list[Want]:
    """The URLs of a record, in the order in which they stand; with `verify`, and the hashes they must have."""
    found: list[Want] = []

    def note(want: Want) -> None:
        found.append(want if verify else Want(want.url, ""))

    for name in names:
        _replaced(columns.get(name), note)
    return found


def with_images(raws: Iterator[Raw], dataset: Dataset, folders: Folders) -> Iterator[Raw]:
    """The records with each URL replaced by {"sha256", "url", "width", "height"} of what came.

    A record with an image that did not come is `lost`. Raises StudyError when the fetch has not been done, when its
    manifest is damaged or belongs to other records, and for URLs in a data set without `fetch`.
    """
    settings = fetch_settings(dataset)
    if settings is None:
        yield from _without_urls(raws, dataset)
        return
    folder = fetch_dir(dataset, folders)
    require_images(dataset, folder)
    names, redacted = image_columns(dataset), Redacted()
    size, last = int(read_json(folder.fetch_json)["shard_size"]), shards_wanted(dataset, folder)
    lines: list[Line] = []
    for number, raw in enumerate(raws):
        shard, row = divmod(number, size)
        if shard == last:
            return
        if row == 0:
            lines = read_manifest(folder, shard)
        named = [] if raw.problem else wants(raw.columns, names, verify=settings.verify_sha256)
        if row >= len(lines) or [redacted(want.url) for want in named] != [outcome.url for outcome in lines[row]]:
            cure = f"delete cache/fetch/{folder.root.name} and `tunestudy fetch STUDY`"
            raise _refused(f"{raw.place} names other images than when they were fetched; {cure}")
        yield _with_line(raw, names, lines[row]) if named else raw


def images_identity(dataset: Dataset, folders: Folders) -> str:
    """What pins the images of a data set; empty when it names none by URL. Raises StudyError before the fetch."""
    if fetch_settings(dataset) is None:
        return ""
    folder = fetch_dir(dataset, folders)
    require_images(dataset, folder)
    return f" images {folder.root.name} {images_digest(dataset, folder)}"


def require_images(dataset: Dataset, folder: FetchDir) -> None:
    """Raise StudyError unless every image that the data set trains on has been asked for."""
    if missing := what_is_missing(dataset, folder):
        name = getattr(dataset, "path", None) or getattr(dataset, "name", "") or "a pool that is drawn here"
        raise _refused(f"{name}: {missing}")


def _with_line(raw: Raw, names: tuple[str, ...], line: Line) -> Raw:
    """A record with its images, or lost for the first that did not come."""
    bad = next((outcome for outcome in line if not outcome.ok), None)
    if bad is not None:
        return replace(raw, problem=f"not fetched: {bad.reason}", lost=True)
    outcomes = iter(line)

    def fill(_want: Want) -> dict[str, Any]:
        return _told(next(outcomes))

    filled = {name: _replaced(raw.columns[name], fill) for name in names if name in raw.columns}
    return replace(raw, columns={**raw.columns, **filled})


def _told(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in KEPT}


def _replaced(value: Any, change: Callable[[Want], Any]) -> Any:
    """`value` with `change(want)` in place of each URL in it, in their order."""
    if isinstance(value, list | tuple):
        return [_replaced(item, change) for item in value]
    want = _want(value)
    return value if want is None else change(want)


def _want(value: Any) -> Want | None:
    if isinstance(value, str):
        return Want(value, "") if _is_url(value) else None
    if not isinstance(value, Mapping) or value.get("bytes"):
        return None
    url = value.get("url") or value.get("path")
    if not isinstance(url, str) or not _is_url(url):
        return None
    expected = value.get("sha256")
    return Want(url, expected.strip().lower() if isinstance(expected, str) else "")


def _is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def _without_urls(raws: Iterator[Raw], dataset: Dataset) -> Iterator[Raw]:
    names = image_columns(dataset)
    for raw in raws:
        if not raw.problem and (named := wants(raw.columns, names, verify=False)):
            cure = "add `fetch: {}` to the data set, then `tunestudy fetch STUDY`"
            raise _refused(f"{raw.place} names an image by URL ({Redacted()(named[0].url)}); {cure}")
        yield raw


def _refused(message: str) -> StudyError:
    return StudyError(at("datasets"), message, exit_code=Exit.PREFLIGHT_REFUSED)
