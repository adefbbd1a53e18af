"""Lines of manifests and journals."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestudy.config.data import FileDataset
from tunestudy.data.fetch import manifest
from tunestudy.data.fetch.manifest import Journal, Outcome, decode, encode, images_digest, read_journal, write_manifest
from tunestudy.data.fetch.progress import Progress, table
from tunestudy.data.fetch.shard import Shard, shards_of
from tunestudy.data.sources import Raw
from tunestudy.data.store import ImageStore
from tunestudy.records.fetched import FetchDir

OUTCOMES = st.builds(
    Outcome,
    url=st.text(max_size=20),
    status=st.sampled_from(["ok", "failed"]),
    reason=st.sampled_from(["", "http 404"]),
    sha256=st.sampled_from(["", "a" * 64, "b" * 64]),
    attempts=st.integers(0, 3),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(OUTCOMES, max_size=3).map(tuple))
def test_a_line_says_what_it_was_given(line):
    text = encode(line)
    assert decode(text) == line and len(text.splitlines()) == 1
    assert isinstance(json.loads(text), dict if len(line) == 1 else list)


@settings(max_examples=40, deadline=None)
@given(st.lists(OUTCOMES, min_size=1, max_size=6), st.integers(0, 10_000))
def test_a_torn_journal_loses_its_last_line_alone(tmp_path_factory, outcomes, cut):
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    journal = Journal(path)
    for number, outcome in enumerate(outcomes):
        journal.add((outcome.url, str(number)), outcome)
        journal.flush()
    journal.close()
    data = path.read_bytes()
    path.write_bytes(data[: cut % (len(data) + 1)])
    whole = [((outcome.url, str(number)), outcome) for number, outcome in enumerate(outcomes)]
    kept = list(read_journal(path))
    assert kept == whole[: len(kept)] and len(kept) >= path.read_bytes().count(b"\n")
    again = Journal(path)
    again.add(*whole[-1])
    again.flush()
    again.close()
    assert list(read_journal(path)) == [*kept, whole[-1]]


def test_a_kill_between_a_manifest_and_its_summary_is_gone_on_from(tmp_path, monkeypatch):
    dataset, folder = FileDataset.model_validate({"path": "a.jsonl", "fetch": {}}), FetchDir(tmp_path)
    store = ImageStore(tmp_path / "images")

    def shard() -> Shard:
        raws = iter([Raw("a:1", {"image": "http://a/1"})])
        return next(shards_of(raws, dataset, folder, 8, skip=lambda _: False))

    write_manifest(folder, 0, [(Outcome("http://a/1", "failed", "deadline"),)])
    again = shard()
    again.settle(("http://a/1", ""), Outcome("http://a/1", "failed", "http 404"))
    again.close()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(manifest, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        again.finish()
    after = shard()
    after.recall(store, retry_failed=False)
    assert after.missing() == {}
    after.finish()
    assert manifest.read_manifest(folder, 0)[0][0].reason == "http 404"


def test_the_digest_knows_images_and_nothing_else():
    good, other = Outcome("u", "ok", sha256="a" * 64, attempts=1), Outcome("u", "ok", sha256="b" * 64)
    bad = Outcome("u", "failed", "http 404")
    assert images_digest([(good,)]) == images_digest([(Outcome("v", "ok", sha256="a" * 64, attempts=3),)])
    assert images_digest([(bad,)]) == images_digest([(Outcome("u", "failed", "deadline"),)])
    different = [[(good,)], [(other,)], [(bad,)], [()], [(good, bad)], [(good,), (bad,)], [(bad,), (good,)]]
    assert len({images_digest(lines) for lines in different}) == len(different)


def test_lines_where_there_is_no_terminal():
    out = io.StringIO()
    progress = Progress("pool", 10, out)
    progress.recalled(4)
    progress.settled(Outcome("u", "ok", sha256="a" * 64), times=2)
    progress.received(3_000_000)
    progress.settled(Outcome("u", "failed", "http 404"))
    progress.close()
    (line,) = out.getvalue().splitlines()
    assert line.startswith("pool: 7 of 10 images, ") and "2 ok, 1 failed" in line and line.endswith(" left")


def test_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    progress = Progress("pool", 10, out)
    progress.recalled(5)
    for _ in range(5):
        progress.settled(Outcome("u", "ok"))
    progress.close()
    assert "5/5" in out.getvalue() and "5 ok, 0 failed" in out.getvalue()


def test_the_table_begins_with_what_is_most():
    lines = list(table("pool", 8, 2_500_000, {"deadline": 1, "http 404": 2_000}))
    assert lines == [
        "pool: 8 of 2,009 images are here (2.5 MB)",
        "       2,000  http 404",
        "           1  deadline",
    ]
