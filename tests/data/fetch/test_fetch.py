"""Whole data sets: what the manifest says, what is fetched twice, and what training reads."""

import asyncio
import csv
import errno
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from badweb import LOOPBACK, picture, quick

from tunestudy.config.data import DatacompDataset, FileDataset
from tunestudy.config.errors import StudyError
from tunestudy.data.fetch import engine
from tunestudy.data.fetch.examine import examine as examine_really
from tunestudy.data.fetch.manifest import read_manifest
from tunestudy.data.fetch.outage import PATIENCE
from tunestudy.data.fetch.wanted import fetch_dir
from tunestudy.data.images import decode
from tunestudy.data.sources import datacomp, file
from tunestudy.data.store import ImageStore
from tunestudy.data.survey import survey
from tunestudy.records.atomic import write_json


def urls_file(tmp_path, urls, name="pool.jsonl", **settings):
    """A data set of one record per URL (or list of URLs)."""
    rows = [{"id": str(i), "image": url, "prompt": "?", "completion": f"{i}"} for i, url in enumerate(urls)]
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileDataset(path=name, fetch=quick(**settings))


def lines_of(fetcher, dataset):
    folder = fetch_dir(dataset, fetcher.folders)
    return [line for shard in range(folder.num_complete()) for line in read_manifest(folder, shard)]


def reasons_of(fetcher, dataset):
    return [" ".join(outcome.reason or "ok" for outcome in line) for line in lines_of(fetcher, dataset)]


def test_every_failure_has_its_reason(tmp_path, server, fetcher):
    with socket.socket() as closed:
        closed.bind((LOOPBACK, 0))
        nobody = f"http://{LOOPBACK}:{closed.getsockname()[1]}/x"
        cases = {
            server.url("image/1"): "ok",
            server.url("status/404"): "http 404",
            server.url("status/410"): "http 410",
            server.url("status/500"): "http 500",
            server.url("flaky/a"): "ok",
            server.url("flaky/b?status=429&after=0"): "ok",
            server.url("flaky/c?times=9&status=429&after=60"): "http 429",
            nobody: "no connection",
            "http://no-such-name.invalid/": "host not found",
            server.url("hops/3"): "ok",
            server.url("hops/11"): "too many redirects",
            server.url("to/x?url=http://169.254.169.254/"): "address not public",
            "http://10.1.2.3/x.jpg": "address not public",
            server.url("drip/1"): "deadline",
            server.url("endless/1"): "too many bytes",
            server.url("short/1"): "broken off",
            server.url("zipped/bomb"): "too many bytes",
            server.url("zipped/plain"): "ok",
            server.url("robots/noai"): "opted out (noai)",
            server.url("body/html"): "not an image",
            server.url("body/svg"): "not an image",
            server.url("body/truncated"): "damaged image",
            server.url("body/empty"): "empty",
            server.url("body/bomb"): "too many pixels",
            server.url("body/narrow"): "too long and narrow",
        }
        dataset = urls_file(tmp_path, cases, deadline_s=1.0, max_aspect_ratio=50, shard_size=7)
        assert fetcher(dataset)
    assert dict(zip(cases, reasons_of(fetcher, dataset), strict=True)) == cases
    by_url = {line[0].url: line[0] for line in lines_of(fetcher, dataset)}
    good = by_url[server.url("image/1")]
    assert (good.width, good.height, good.bytes, good.attempts) == (24, 16, len(picture(1)), 1)
    assert good.sha256 == hashlib.sha256(picture(1)).hexdigest()
    assert ImageStore(fetcher.study.images).read(good.sha256) == picture(1)
    assert by_url[server.url("flaky/a")].attempts == 2 and by_url[server.url("status/500")].attempts == 3
    assert by_url[server.url("status/404")].attempts == 1
    assert not list(fetcher.study.root.rglob(".tmp-*")) and not list(fetcher.study.fetch.rglob("*journal*"))


def test_a_rerun_asks_for_nothing_and_retry_failed_for_failures_alone(tmp_path, server, fetcher, capsys):
    urls = [server.url("image/1"), server.url("flaky/r?times=1"), server.url("status/404")]
    dataset = urls_file(tmp_path, urls, retries=0)
    assert fetcher(dataset) and sum(server.seen.values()) == 3
    identity = file.identity(dataset, fetcher.folders)
    assert fetcher(dataset) and sum(server.seen.values()) == 3
    assert fetcher(dataset, retry_failed=True)
    assert server.seen == {"image/1": 1, "flaky/r?times=1": 2, "status/404": 2}
    assert reasons_of(fetcher, dataset) == ["ok", "ok", "http 404"]
    changed = file.identity(dataset, fetcher.folders)
    assert changed != identity
    assert fetcher(dataset, retry_failed=True) and file.identity(dataset, fetcher.folders) == changed
    assert "pool: 2 of 3 images are here" in capsys.readouterr().out


def test_an_image_is_downloaded_once(tmp_path, server, fetcher):
    urls = [server.url(f"image/{i % 3}?wait=0.02") for i in range(30)]
    dataset = urls_file(tmp_path, urls, shard_size=4)
    assert fetcher(dataset)
    assert sum(server.seen.values()) == 3
    assert [line[0].sha256 for line in lines_of(fetcher, dataset)] == [
        hashlib.sha256(picture(i % 3)).hexdigest() for i in range(30)
    ]


def test_several_images_a_record(tmp_path, server, fetcher):
    one, two, bad = server.url("image/1"), server.url("image/2"), server.url("status/404")
    dataset = urls_file(tmp_path, [[one, two], [], [one, bad], ["local.png", two], {"url": two}])
    assert fetcher(dataset)
    assert reasons_of(fetcher, dataset) == ["ok ok", "", "ok http 404", "ok", "ok"]
    records = fetcher.read(dataset)
    assert [image["url"] for image in records[0].columns["image"]] == [one, two]
    assert records[1].columns["image"] == []
    assert records[2].lost and records[2].problem == "not fetched: http 404"
    assert records[3].columns["image"][0] == "local.png" and records[3].columns["image"][1]["url"] == two
    assert records[4].columns["image"] == {
        "sha256": hashlib.sha256(picture(2)).hexdigest(),
        "url": two,
        "width": 24,
        "height": 16,
    }


def test_urls_need_the_setting_and_the_fetch(tmp_path, server, fetcher):
    dataset = urls_file(tmp_path, [server.url("image/1")])
    with pytest.raises(StudyError, match=r"pool\.jsonl: its images have not been fetched; first `tunestudy fetch"):
        fetcher.read(dataset)
    with pytest.raises(StudyError, match="have not been fetched"):
        file.identity(dataset, fetcher.folders)
    with pytest.raises(StudyError, match=r"pool\.jsonl:1 names an image by URL .* add `fetch: \{\}`"):
        fetcher.read(FileDataset(path="pool.jsonl"))


def test_shards_ahead_of_training(tmp_path, server, fetcher):
    dataset = urls_file(tmp_path, [server.url(f"image/{i}") for i in range(10)], shard_size=3)
    assert fetcher(dataset, limit_shards=2)
    assert sum(server.seen.values()) == 6
    with pytest.raises(StudyError, match=r"only 2 of 4 shards .* `fetch: \{shards: 2\}` trains on those"):
        fetcher.read(dataset)
    part = dataset.model_copy(update={"fetch": dataset.fetch.model_copy(update={"shards": 2})})
    assert [raw.columns["id"] for raw in fetcher.read(part)] == list("012345")
    identity = file.identity(part, fetcher.folders)
    assert fetcher(dataset)
    assert sum(server.seen.values()) == 10 and len(fetcher.read(dataset)) == 10
    assert file.identity(part, fetcher.folders) == identity != file.identity(dataset, fetcher.folders)


def test_the_shard_size_stays_what_it_began_with(tmp_path, server, fetcher):
    urls = [server.url(f"image/{i}") for i in range(6)]
    assert fetcher(urls_file(tmp_path, urls, shard_size=3), limit_shards=1)
    other = urls_file(tmp_path, urls, shard_size=5)
    assert fetcher(other) and len(fetcher.read(other)) == 6 and sum(server.seen.values()) == 6


def test_lost_images_are_no_bad_records(tmp_path, server, fetcher):
    urls = [server.url("image/1"), *[server.url(f"status/404?{i}") for i in range(9)]]
    dataset = urls_file(tmp_path, urls)
    assert fetcher(dataset)
    found = survey("pool", dataset, fetcher.folders)
    assert (found.tally.usable, dict(found.tally.lost)) == (1, {"not fetched: http 404": 9})
    [record] = found.records()
    assert decode(record.example.images[0].read()).mode == "RGB"
    half = urls_file(tmp_path, [[], [], *urls[1:]], "half.jsonl")
    assert fetcher(half)
    tally = survey("half", half, fetcher.folders).tally
    assert (tally.read, tally.usable, dict(tally.lost), tally.rejected.total()) == (
        11,
        2,
        {"not fetched: http 404": 9},
        0,
    )
    none_came = urls_file(tmp_path, urls[1:], "gone.jsonl")
    assert fetcher(none_came)
    with pytest.raises(StudyError, match=r"none of its 9 images is here \(not fetched: http 404 9\)"):
        survey("gone", none_came, fetcher.folders)


def test_many_hosts_at_once_and_few_of_each(tmp_path, server, fetcher):
    hosts = [f"h{i % 5}.test" for i in range(60)]
    urls = [server.url(f"image/{i}?wait=0.01", host) for i, host in enumerate(hosts)]
    dataset = urls_file(tmp_path, urls, per_host=2, concurrency=32)
    assert fetcher(dataset, lookup=lambda host, port: [LOOPBACK])
    assert set(reasons_of(fetcher, dataset)) == {"ok"}
    assert 5 < server.most_under_way <= 10


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3])
def test_killed_and_run_again_nothing_is_fetched_twice(tmp_path, server, fetcher, moment):
    urls = [server.url(f"image/{i}?wait=0.1") for i in range(40)]
    dataset = urls_file(tmp_path, urls, allow_loopback=True, shard_size=25, concurrency=4, per_host=4)
    request = fetcher.study.fetch / "request.json"
    values = dataset.model_dump(mode="json")
    order = {"limit_shards": None, "retry_failed": False, "dry_run": False, "again": "tunestudy fetch x"}
    write_json(request, {"base": os.path.relpath(tmp_path, request.parent), "datasets": {"pool": values}, **order})
    command = [sys.executable, "-m", "tunestudy.data.fetch.run", str(request)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    folder = fetch_dir(dataset, fetcher.folders)
    deadline = time.monotonic() + 30
    while len(server.seen) < 10 * moment and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    journals = [path for path in (folder.journal(0), folder.journal(1)) if path.exists()]
    settled = sum(len(path.read_text().splitlines()) for path in journals) + 25 * folder.num_complete()
    asked = sum(server.seen.values())
    for path in journals:
        with open(path, "a") as journal:
            journal.write('{"url": "torn')
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert sum(server.seen.values()) == asked + 40 - settled
    assert "pool: 40 of 40 images are here" in again.stdout
    assert set(reasons_of(fetcher, dataset)) == {"ok"}


def test_a_stop_keeps_what_came(tmp_path, server, fetcher):
    urls = [server.url(f"image/{i}?wait=0.02") for i in range(60)]
    dataset = urls_file(tmp_path, urls, per_host=4, concurrency=4)
    assert not fetcher(dataset, stop=lambda: sum(server.seen.values()) >= 20)
    asked = sum(server.seen.values())
    assert 20 <= asked < 40
    assert fetcher(dataset)
    assert sum(server.seen.values()) == 60  # what was under way at the stop had arrived


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path, server, fetcher):
    dataset = urls_file(
        tmp_path, [server.url(f"image/{i}?wait=0.1") for i in range(40)], allow_loopback=True, per_host=2
    )
    request = fetcher.study.fetch / "request.json"
    order = {"limit_shards": None, "retry_failed": False, "dry_run": False, "again": "tunestudy fetch x.yaml"}
    values = {"pool": dataset.model_dump(mode="json")}
    write_json(request, {"base": os.path.relpath(tmp_path, request.parent), "datasets": values, **order})
    process = subprocess.Popen(
        [sys.executable, "-m", "tunestudy.data.fetch.run", str(request)], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not server.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and "`tunestudy fetch x.yaml` goes on" in output


def test_a_full_disk_ends_the_run_and_is_no_image_s_fault(tmp_path, server, fetcher, monkeypatch):
    dataset = urls_file(tmp_path, [server.url(f"image/{i}") for i in range(30)])
    put, written = ImageStore.put, []

    def full(self, data):
        if len(written) >= 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(data)
        return put(self, data)

    monkeypatch.setattr(ImageStore, "put", full)
    with pytest.raises(OSError, match="No space left"):
        fetcher(dataset)
    monkeypatch.undo()
    assert fetcher(dataset) and set(reasons_of(fetcher, dataset)) == {"ok"}


def test_without_a_network_no_image_is_written_off(tmp_path, server, fetcher):
    up = False

    def lookup(host, port):
        if up:
            return [LOOPBACK]
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    urls = [server.url(f"image/{i}", f"h{i}.test") for i in range(300)]
    dataset = urls_file(tmp_path, urls)
    with pytest.raises(StudyError, match="is there a network"):
        fetcher(dataset, lookup=lookup)
    up = True
    assert fetcher(dataset, lookup=lookup) and set(reasons_of(fetcher, dataset)) == {"ok"}


def test_a_few_dead_hosts_at_the_end_are_dead(tmp_path, server, fetcher):
    dataset = urls_file(tmp_path, [f"http://h{i}.invalid/" for i in range(5)])
    assert fetcher(dataset, lookup=_nothing) and set(reasons_of(fetcher, dataset)) == {"host not found"}


def test_a_host_that_only_costs_time_is_given_up(tmp_path, server, fetcher):
    """Twice as many drips as anyone has patience for, and another host that is not blamed for it."""
    count = 2 * PATIENCE
    urls = [server.url(f"drip/{i}", "slow.test") for i in range(count)]
    urls += [server.url(f"flaky/{i}?times=9&status=429&after=999", "busy.test") for i in range(count)]
    urls += [server.url(f"image/{i}?wait=0.02", "quick.test") for i in range(count)]
    dataset = urls_file(tmp_path, urls, deadline_s=0.2, per_host=4, concurrency=12, retries=0)
    assert fetcher(dataset, lookup=lambda host, port: [LOOPBACK])
    reasons = reasons_of(fetcher, dataset)
    slow, busy, quick_ones = Counter(reasons[:count]), Counter(reasons[count : 2 * count]), reasons[2 * count :]
    assert slow["deadline"] <= PATIENCE + 4 and slow["host given up"] >= PATIENCE - 4 and slow.total() == count
    assert busy["http 429"] <= PATIENCE + 4 and busy["host given up"] >= PATIENCE - 4 and busy.total() == count
    assert set(quick_ones) == {"ok"}


def test_too_few_open_files_are_no_image_s_fault(tmp_path, server, fetcher, monkeypatch):
    def none_left(host, port):
        raise OSError(errno.EMFILE, "Too many open files")

    dataset = urls_file(tmp_path, [server.url("image/1", "a.test")])
    with pytest.raises(OSError, match="Too many open files"):
        fetcher(dataset, lookup=none_left)
    assert fetcher(dataset, lookup=lambda host, port: [LOOPBACK]) and reasons_of(fetcher, dataset) == ["ok"]


def _nothing(host, port):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_damage_is_noticed(tmp_path, server, fetcher):
    dataset = urls_file(tmp_path, [server.url("image/1"), server.url("image/2")])
    assert fetcher(dataset)
    manifest = fetch_dir(dataset, fetcher.folders).manifest(0)
    good = manifest.read_text()
    manifest.write_text(good.replace("image/1", "image/3"))
    with pytest.raises(StudyError, match=r"shard-00000\.jsonl: is damaged"):
        fetcher.read(dataset)
    manifest.write_text(good)
    store = ImageStore(fetcher.study.images)
    sha256 = lines_of(fetcher, dataset)[0][0].sha256
    store.path(sha256).write_bytes(b"x" * len(picture(1)))
    with pytest.raises(StudyError, match="is gone or damaged"):
        store.read(sha256)
    store.path(sha256).unlink()
    assert fetcher(dataset, retry_failed=True) and store.read(sha256) == picture(1)
    assert server.seen == {"image/1": 2, "image/2": 1}


def test_other_records_than_were_fetched(tmp_path, server, fetcher, monkeypatch):
    dataset = urls_file(tmp_path, [server.url("image/1"), server.url("image/2")])
    assert fetcher(dataset)
    folder = fetch_dir(dataset, fetcher.folders)
    urls_file(tmp_path, [server.url("image/2"), server.url("image/1")])
    monkeypatch.setattr("tunestudy.data.fetch.wanted.fetch_dir", lambda *_: folder)
    with pytest.raises(StudyError, match="names other images than when they were fetched"):
        fetcher.read(dataset)


def test_tokens_in_urls_stay_out_of_every_file(tmp_path, server, fetcher):
    token = "hf_" + "a1B2" * 6
    dataset = urls_file(tmp_path, [server.url(f"image/1?key={token}"), server.url("image/1", f"me:pass@{LOOPBACK}")])
    assert fetcher(dataset)
    assert f"image/1?key={token}" in server.seen
    written = [path.read_bytes() for path in fetcher.study.root.rglob("*") if path.is_file()]
    assert written and not any(token.encode() in data or b"me:pass" in data for data in written)
    assert len(fetcher.read(dataset)) == 2


def datacomp_rows(server, count):
    rng = random.Random(5)
    rows = []
    for i in range(count):
        uid = f"{rng.getrandbits(128):032x}"
        sha256 = hashlib.sha256(picture(i)).hexdigest()
        rows.append({"uid": uid, "url": server.url(f"image/{i}"), "text": f"picture {i}", "sha256": sha256})
    return rows


def write_rows(path: Path, rows):
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        extra = [{**row, "original_width": 24, "clip_l14_similarity_score": 0.3} for row in rows]
        parquet.write_table(pa.Table.from_pylist(extra), path)
    else:
        with open(path, "w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("name", ["pool.parquet", "pool.csv"])
def test_datacomp(tmp_path, server, fetcher, name):
    rows = datacomp_rows(server, 12)
    rows[3]["sha256"] = "0" * 64
    rows[5]["text"] = ""
    write_rows(tmp_path / name, rows)
    dataset = DatacompDataset(path=name, question="What is this?", fetch=quick())
    assert fetcher(dataset)
    records = fetcher.read(dataset)
    assert [raw.problem for raw in records if raw.problem] == ["not fetched: another sha256", "no text"]
    assert [raw.lost for raw in records if raw.problem] == [True, False]
    assert records[0].columns == {
        "id": rows[0]["uid"],
        "image": {"sha256": rows[0]["sha256"], "url": rows[0]["url"], "width": 24, "height": 16},
        "prompt": "What is this?",
        "completion": "picture 0",
    }
    lenient = dataset.model_copy(update={"fetch": quick(verify_sha256=False)})
    assert fetcher(lenient) and sum(raw.lost for raw in fetcher.read(lenient)) == 0


def test_datacomp_takes_more_of_the_same(tmp_path, server, fetcher):
    rows = datacomp_rows(server, 40)
    half = len(rows) // 2
    (tmp_path / "pool").mkdir()
    write_rows(tmp_path / "pool" / "a.parquet", rows[:half])
    write_rows(tmp_path / "pool" / "b.parquet", rows[half:])

    def taken(count):
        dataset = DatacompDataset(path="pool", num_samples=count, fetch=quick())
        return [raw.columns["id"] for raw in datacomp.records(dataset, fetcher.folders)]

    few, more = taken(10), taken(20)
    assert len(few) == 10 and len(more) == 20 and set(few) < set(more)
    order = [row["uid"] for row in rows]
    assert more == sorted(more, key=order.index)
    assert taken(100) == order
    assert fetcher(DatacompDataset(path="pool", num_samples=10, fetch=quick()))
    larger = DatacompDataset(path="pool", num_samples=20, fetch=quick())
    assert fetcher(larger) and sum(server.seen.values()) == 20  # the first ten are known by their hashes
    assert not any(raw.problem for raw in fetcher.read(larger))


def test_identity_of_datacomp(tmp_path, server, fetcher):
    write_rows(tmp_path / "pool.csv", datacomp_rows(server, 6))
    kinds = [
        DatacompDataset(path="pool.csv", fetch=quick()),
        DatacompDataset(path="pool.csv", num_samples=3, fetch=quick()),
        DatacompDataset(path="pool.csv", question="What?", fetch=quick()),
        DatacompDataset(path="pool.csv", fetch=quick(min_side=50)),
    ]
    for kind in kinds:
        assert fetcher(kind)
    assert len({datacomp.identity(kind, fetcher.folders) for kind in kinds}) == 4
    slower = DatacompDataset(path="pool.csv", fetch=quick(concurrency=1, retries=0))
    assert datacomp.identity(slower, fetcher.folders) == datacomp.identity(kinds[0], fetcher.folders)


def test_images_are_decoded_beside_the_event_loop(tmp_path, server, fetcher, monkeypatch):
    loops = set()

    def examine(data, *, max_pixels):
        loops.add(asyncio._get_running_loop())
        return examine_really(data, max_pixels=max_pixels)

    monkeypatch.setattr(engine, "examine", examine)
    dataset = urls_file(tmp_path, [server.url(f"image/{i}") for i in range(8)])
    assert fetcher(dataset) and set(reasons_of(fetcher, dataset)) == {"ok"}
    assert loops == {None}
