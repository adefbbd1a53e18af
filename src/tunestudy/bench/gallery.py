"""Thumbnails of the rows that the report's gallery shows. The report reads them as they are, without Pillow."""

import io
from collections.abc import Sequence

from tunestudy.bench.tasks import Row, Scored
from tunestudy.config.errors import StudyError
from tunestudy.data.images import ImageFacts, ImagePlaces, decode
from tunestudy.data.rejected import Rejected
from tunestudy.records.atomic import replace_bytes
from tunestudy.records.layout import JobDir
from tunestudy.records.picks import picked, thumbnail_name

LONGEST_SIDE = 320
QUALITY = 80
MOST_PER_ROW = 4


def write_thumbnails(
    folder: JobDir, name: str, scored: Sequence[Scored], rows: Sequence[Row], places: ImagePlaces
) -> None:
    """Write `eval/<name>.images/` for the rows that `records/picks.py` picks; what is there already is kept.

    rows: those of `scored`, which know where their images lie. An image that cannot be read any more gets no thumbnail:
    the score is made, and a picture is no reason to lose it.
    """
    by_id = {row.id: row for row in rows}
    wrong = {row.id for row in scored if row.value < 1}
    wanted = {
        image.sha256: image
        for row_id in picked([row.id for row in scored], wrong)
        if row_id in by_id
        for image in by_id[row_id].images[:MOST_PER_ROW]
    }
    for sha256, image in wanted.items():
        path = folder.thumbnails(name) / thumbnail_name(sha256)
        if not path.exists() and (data := thumbnail(image, places)) is not None:
            replace_bytes(path, data)


def thumbnail(image: ImageFacts, places: ImagePlaces) -> bytes | None:
    """A JPEG of at most `LONGEST_SIDE` pixels a side; None when the image is gone, changed or broken."""
    try:
        small = decode(places.read(image), max_pixels=places.max_pixels)
    except (Rejected, StudyError):
        return None
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()
