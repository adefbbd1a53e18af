"""Thumbnails: the rows that the gallery shows, small, kept, and no reason for a score to be lost."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tunestudy.bench.gallery import LONGEST_SIDE, MOST_PER_ROW, write_thumbnails
from tunestudy.bench.tasks import Row, Scored
from tunestudy.data.images import ImageBytes, ImagePlaces
from tunestudy.data.store import ImageStore
from tunestudy.records.layout import JobDir
from tunestudy.records.picks import SHARED_ROWS, WRONG_ROWS, picked, thumbnail_name


@pytest.fixture
def places(tmp_path: Path) -> ImagePlaces:
    return ImagePlaces(tmp_path, ImageStore(tmp_path / "store"))


def drawn(colour: int, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (colour % 256, colour // 256, 90)).save(out, "PNG")
    return out.getvalue()


def asked(places: ImagePlaces, number: int, size: tuple[int, int] = (40, 30), images: int = 1) -> Row:
    facts = tuple(places.settle(ImageBytes(data=drawn(1000 * k + number, size))) for k in range(images))
    return Row(f"row-{number}", (1, 2), "x", images=facts)


def answered(rows: list[Row], wrong: set[str]) -> list[Scored]:
    return [Scored(row.id, "x", "x", row.id not in wrong) for row in rows]


def names(folder: JobDir) -> set[str]:
    return {path.name for path in folder.thumbnails("b").iterdir()}


def test_the_picked_rows_and_only_they(tmp_path: Path, places: ImagePlaces) -> None:
    rows = [asked(places, number) for number in range(120)]
    wrong = {row.id for row in rows[40:]}
    folder = JobDir(tmp_path / "job")
    write_thumbnails(folder, "b", answered(rows, wrong), rows, places)
    kept = picked([row.id for row in rows], wrong)
    assert names(folder) == {thumbnail_name(row.images[0].sha256) for row in rows if row.id in kept}
    assert SHARED_ROWS < len(kept) <= SHARED_ROWS + WRONG_ROWS


@pytest.mark.parametrize(("size", "small"), [((1000, 500), (320, 160)), ((90, 900), (32, 320)), ((50, 20), (50, 20))])
def test_small_whole_and_as_a_viewer_shows_it(
    tmp_path: Path, places: ImagePlaces, size: tuple[int, int], small: tuple[int, int]
) -> None:
    row = asked(places, 7, size)
    folder = JobDir(tmp_path / "job")
    write_thumbnails(folder, "b", answered([row], set()), [row], places)
    (path,) = folder.thumbnails("b").iterdir()
    with Image.open(path) as image:
        assert (image.format, image.size) == ("JPEG", small) and max(image.size) <= LONGEST_SIDE
        assert image.convert("RGB").getpixel((5, 5)) == pytest.approx((7, 0, 90), abs=6)


def test_what_is_there_stays_and_rows_with_many_images_show_the_first(tmp_path: Path, places: ImagePlaces) -> None:
    row = asked(places, 3, images=MOST_PER_ROW + 2)
    folder = JobDir(tmp_path / "job")
    kept = folder.thumbnails("b") / thumbnail_name(row.images[0].sha256)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"mine")
    write_thumbnails(folder, "b", answered([row], set()), [row], places)
    assert names(folder) == {thumbnail_name(image.sha256) for image in row.images[:MOST_PER_ROW]}
    assert kept.read_bytes() == b"mine"


def test_an_image_that_is_gone_or_broken_gets_none_and_stops_nothing(tmp_path: Path, places: ImagePlaces) -> None:
    rows = [asked(places, number) for number in range(3)]
    places.store.path(rows[0].images[0].sha256).unlink()
    places.store.path(rows[1].images[0].sha256).write_bytes(b"not an image")
    folder = JobDir(tmp_path / "job")
    write_thumbnails(folder, "b", answered(rows, set()), rows, places)
    assert names(folder) == {thumbnail_name(rows[2].images[0].sha256)}


def test_text_makes_no_folder(tmp_path: Path, places: ImagePlaces) -> None:
    rows = [Row("a", (1,), "x")]
    folder = JobDir(tmp_path / "job")
    write_thumbnails(folder, "b", answered(rows, {"a"}), rows, places)
    assert not folder.thumbnails("b").exists()
