"""Locks: written and read again, and what of them a machine lacks."""

from dataclasses import replace
from pathlib import Path

import pytest
from locks import content, locked, put_into

from tunestudy.config.errors import StudyError
from tunestudy.records.hashes import git_sha1
from tunestudy.records.hub_cache import hub_cache
from tunestudy.records.locked import Lock, LockedFile, Named, problems, read_lock, write_lock

MODEL, DATA = locked("model", "org/model", "tokenizer", "weights"), locked("dataset", "org/data", "default")


def test_written_and_read_again_in_one_order(tmp_path: Path) -> None:
    lock = replace(Lock("demo", images={"pool": {"key": "ab", "shards": ["cd"]}}).with_items([MODEL, DATA]))
    assert write_lock(tmp_path / "demo.lock", lock)
    assert read_lock(tmp_path / "demo.lock") == lock
    assert not write_lock(tmp_path / "demo.lock", Lock("demo", images=lock.images).with_items([DATA, MODEL]))
    assert read_lock(tmp_path / "other.lock") is None
    write_lock(tmp_path / "empty.lock", Lock("empty"))
    assert read_lock(tmp_path / "empty.lock") == Lock("empty")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: "<<<<<<< HEAD\n" + text, "no JSON"),
        (lambda text: text.replace('"version": 1', '"version": 9'), "of version 9"),
        (lambda text: text.replace('"commit"', '"comit"'), "not as it was written"),
        (lambda text: text.replace('"config.json"', '"../../config.json"'), "not as it was written"),
        (lambda text: "[]", "not as it was written"),
    ],
)
def test_what_is_no_lock_is_told_with_the_cure(tmp_path: Path, damage, told: str) -> None:
    path = tmp_path / "demo.lock"
    write_lock(path, Lock("demo").with_items([MODEL]))
    path.write_text(damage(path.read_text()))
    with pytest.raises(StudyError, match=rf"is no lock: .*{told}.*tunestudy fetch") as found:
        read_lock(path)
    assert "demo.lock" in str(found.value)


def test_problems_name_each_file(tmp_path: Path) -> None:
    lock = Lock("demo").with_items([MODEL, DATA])
    assert [str(one) for one in problems(lock, tmp_path)] == [
        "org/data: config.json is missing",
        "org/model: config.json is missing",
    ]
    put_into(tmp_path, MODEL, DATA)
    assert problems(lock, tmp_path, hashes=True) == []
    file = MODEL.folder(tmp_path) / "config.json"
    file.write_bytes(content("org/model")[::-1])
    assert problems(lock, tmp_path) == [], "sizes alone say nothing of content"
    assert [one.what for one in problems(lock, tmp_path, hashes=True)] == ["has another content than the hub told"]
    file.write_bytes(b"half")
    (short,) = problems(lock, tmp_path)
    assert str(short) == "org/model: config.json has 4 bytes in place of 12"
    assert problems(lock, tmp_path, [DATA]) == []


def test_a_lock_covers_what_it_holds_all_parts_of() -> None:
    lock = Lock("demo").with_items([locked("model", "org/model", "tokenizer")])
    assert lock.covers(Named("model", "org/model", None, ("tokenizer",)))
    assert not lock.covers(Named("model", "org/model", None, ("tokenizer", "weights")))
    assert not lock.covers(Named("model", "org/model", "v2", ("tokenizer",)))
    assert not lock.covers(Named("dataset", "org/model", None, ("tokenizer",)))


def test_a_small_file_has_the_hash_that_git_gives_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    assert git_sha1(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert LockedFile(6, git_sha1="ce013625030ba8dba906f756967f9e9ca394464a").holds(tmp_path / "file")


def test_the_cache_is_where_the_client_has_it(tmp_path: Path) -> None:
    assert hub_cache({"HF_HOME": "/a", "HF_HUB_CACHE": "/b"}) == Path("/b")
    assert hub_cache({"HF_HOME": "/a"}) == Path("/a/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache({}) == Path("~/.cache/huggingface/hub").expanduser()
