"""Images by content, written by many at once."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.data.store import LITTER_AGE_S, ImageStore, is_sha256


def test_put_and_read(tmp_path):
    store = ImageStore(tmp_path)
    digest = store.put(b"hello")
    assert digest == hashlib.sha256(b"hello").hexdigest()
    assert store.path(digest) == tmp_path / digest[:2] / digest
    assert store.has(digest) and store.read(digest) == b"hello" and store.size(digest) == 5
    assert not store.has("0" * 64) and store.size("0" * 64) is None and not store.has("../x")
    before = store.path(digest).stat().st_ino
    assert store.put(b"hello") == digest and store.path(digest).stat().st_ino == before


def test_a_file_cut_short_is_written_again(tmp_path):
    store = ImageStore(tmp_path)
    digest = store.put(b"hello")
    store.path(digest).write_bytes(b"")
    with pytest.raises(StudyError, match="gone or damaged"):
        store.read(digest)
    assert store.put(b"hello") == digest and store.read(digest) == b"hello"


def test_many_writers(tmp_path):
    store, bodies = ImageStore(tmp_path), [bytes([i % 5]) * 50_000 for i in range(60)]
    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(store.put, bodies))
    assert len(set(digests)) == 5
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(set(digests))


def test_sweep_takes_old_litter_only(tmp_path):
    store = ImageStore(tmp_path)
    digest = store.put(b"hello")
    old, young = (store.path(digest).with_name(f".tmp-{name}") for name in ("old", "young"))
    for litter in (old, young):
        litter.write_bytes(b"hal")
    past = time.time() - 2 * LITTER_AGE_S
    os.utime(old, (past, past))
    store.sweep()
    assert not old.exists() and young.exists() and store.has(digest)


def test_names():
    assert is_sha256("a" * 64)
    assert not is_sha256("A" * 64) and not is_sha256("a" * 63) and not is_sha256("a" * 64 + "\n") and not is_sha256("")
