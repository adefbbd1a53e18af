"""A pool of the web that is made here: rows as DataComp lists them, and what each of their links gives.

A link is alive, or dead in one of the ways that are usual by now: its host is gone, the host knows no such image, or
it has another one by that name. All is a pure function of the settings and a number.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Literal

import PIL

from tunestudy.config.data import DrawnPool
from tunestudy.config.synth import SynthSettings
from tunestudy.data.select import rank_of
from tunestudy.data.synth.canvas import png_bytes
from tunestudy.data.synth.sample import VERSION, SynthSample, sample
from tunestudy.data.synth.shape_words import spoken

Fate = Literal["alive", "host gone", "not found", "replaced"]

HOST = "drawn.invalid"
"""No name server knows a name that ends so: RFC 2606, section 2."""
NUM_HOSTS = 8
WAYS_TO_DIE: tuple[Fate, ...] = ("host gone", "not found", "replaced")
REMEMBERED = 4096


def rows(pool: DrawnPool) -> Iterator[dict[str, Any]]:
    """uid, url, text, sha256 of every link."""
    for number in range(pool.count):
        there = fate(pool, number)
        host = f"gone.{HOST}" if there == "host gone" else f"host{number % NUM_HOSTS}.{HOST}"
        png, caption = _drawn(_settings(pool), number)
        yield {
            "uid": hashlib.sha256(f"{pool.seed}/{number}".encode()).hexdigest()[:32],
            "url": f"http://{host}/{number}.png",
            "text": caption,
            "sha256": hashlib.sha256(png).hexdigest(),
        }


def identity(pool: DrawnPool) -> str:
    """The settings, and what else pixels and words depend on."""
    return f"drawn v{VERSION} {json.dumps(pool.model_dump(), sort_keys=True)} Pillow {PIL.__version__}"


def fate(pool: DrawnPool, number: int) -> Fate:
    """What became of a link."""
    rank = rank_of(str(number), f"drawn pool {pool.seed}") / 2**64
    return "alive" if rank >= pool.dead else WAYS_TO_DIE[int(rank / pool.dead * len(WAYS_TO_DIE))]


def answer(pool: DrawnPool, path: str) -> tuple[int, bytes]:
    """What a host says to a path: a status, and a PNG where it has one."""
    stem = PurePosixPath(path).stem
    number = int(stem) if stem.isdecimal() else pool.count
    there = fate(pool, number) if number < pool.count else "not found"
    if there == "alive":
        return 200, _drawn(_settings(pool), number)[0]
    if there == "replaced":
        return 200, _drawn(_settings(pool, other=True), number)[0]
    return 404, b""


def _settings(pool: DrawnPool, *, other: bool = False) -> SynthSettings:
    """`other`: of images that stand where those of the pool were."""
    seed = pool.seed + 1 if other else pool.seed
    return SynthSettings(kind="shapes", count=pool.count, seed=seed, image_size=pool.image_size, tasks=("count",))


@lru_cache(REMEMBERED)
def _drawn(settings: SynthSettings, number: int) -> tuple[bytes, str]:
    one = sample(settings, number)
    return png_bytes(one.image), _caption(one)


def _caption(one: SynthSample) -> str:
    """`a red circle, a blue star and a red circle`, in the order in which they were drawn."""
    things = [spoken(thing["shape"], thing["colour"], "en") for thing in one.truth["things"]]
    named = [f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in things]
    return " and ".join([part for part in (", ".join(named[:-1]), named[-1]) if part])
