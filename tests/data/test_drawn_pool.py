"""A pool of the web that is made here: the same at every call, and dead to the share that was asked for."""

import hashlib
from collections import Counter
from io import BytesIO

from PIL import Image

from tunestudy.config.data import DrawnPool
from tunestudy.data.drawn_pool import HOST, answer, fate, rows

POOL = DrawnPool(count=200, dead=0.3)


def test_a_longer_pool_begins_with_a_shorter_one() -> None:
    assert list(rows(DrawnPool(count=20)))[:12] == list(rows(DrawnPool(count=12)))
    assert list(rows(DrawnPool(count=3, seed=1))) != list(rows(DrawnPool(count=3)))


def test_what_each_link_gives() -> None:
    fates = [fate(POOL, number) for number in range(POOL.count)]
    found = Counter(fates)
    assert set(found) == {"alive", "host gone", "not found", "replaced"}
    assert 0.2 < 1 - found["alive"] / POOL.count < 0.4
    for number, (row, there) in enumerate(zip(rows(POOL), fates, strict=True)):
        status, body = answer(POOL, f"/{number}.png")
        right = hashlib.sha256(body).hexdigest() == row["sha256"]
        assert (status, right) == {
            "alive": (200, True),
            "host gone": (404, False),  # nobody gets there to ask
            "not found": (404, False),
            "replaced": (200, False),
        }[there]
        assert row["url"].startswith(f"http://gone.{HOST}/") == (there == "host gone")
        if right:
            assert Image.open(BytesIO(body)).size == (POOL.image_size, POOL.image_size)


def test_a_path_that_no_link_has() -> None:
    assert {answer(POOL, path) for path in ("/", "/x.png", "/../1e3.png", "/200.png", "/².png")} == {(404, b"")}


def test_captions_name_what_is_drawn() -> None:
    captions = [row["text"] for row in rows(DrawnPool(count=30))]
    assert all(caption.startswith(("a ", "an ")) for caption in captions)
    assert any(" and " in caption for caption in captions) and len(set(captions)) > 20


def test_nothing_is_dead_where_nothing_should_be() -> None:
    assert {fate(DrawnPool(count=50, dead=0), number) for number in range(50)} == {"alive"}
