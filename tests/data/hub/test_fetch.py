"""Locking and fetching through the real client, from a hub that fails on purpose."""

import fcntl
import json
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import BinaryIO

import pytest
from fakehub import FakeHub, Fault

from tunestudy.config.errors import Exit
from tunestudy.data.hub import bring, run
from tunestudy.records.locked import read_lock

MODEL = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": bytes(range(256)) * 1000, "x.bin": b"x"}
DATA = {"README.md": b"# rows", "train.jsonl": b'{"a": 1}\n' * 3}


class Fetch:
    """Requests for one model and one data set."""

    def __init__(self, hub: FakeHub, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.hub, self.root, self.capsys = hub, root, capsys
        self.first = hub.commit("model", "org/model", MODEL)
        hub.commit("dataset", "org/data", DATA)
        self.lock = root / "demo.lock"
        self.named = [
            {"kind": "model", "id": "org/model", "revision": None, "parts": ["tokenizer", "weights"]},
            {"kind": "dataset", "id": "org/data", "revision": None, "parts": ["default"]},
        ]

    def __call__(self, **changed: object) -> tuple[Exit, str]:
        """Exit code, and all that was printed."""
        request = {"study": "demo", "lock": str(self.lock), "named": self.named, "update": [], "prune": True}
        request |= {"dry_run": False, "verify": False, "again": "tunestudy fetch demo.yaml", "backoff_s": 0.001}
        file = self.root / "request.json"
        file.write_text(json.dumps({**request, **changed}))
        code = run.main(str(file))
        told = self.capsys.readouterr()
        return Exit(code), told.out + told.err

    def downloads(self) -> int:
        return sum(count for where, count in self.hub.seen.items() if where.startswith("GET") and "/resolve/" in where)


@pytest.fixture
def fetch(hub: FakeHub, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fetch:
    return Fetch(hub, tmp_path, capsys)


def test_a_dry_run_tells_bytes_and_leaves_nothing(fetch: Fetch, cache: Path) -> None:
    code, told = fetch(dry_run=True)
    assert code == Exit.DONE and not fetch.lock.exists() and not cache.exists()
    assert "3 files   256.0 kB  256.0 kB to fetch" in told and "in all 256.0 kB" in told and "GB free in" in told


def test_fetched_locked_and_then_only_looked_at(fetch: Fetch, cache: Path) -> None:
    assert fetch()[0] == Exit.DONE
    lock = read_lock(fetch.lock)
    data, model = lock.items
    assert (model.commit, sorted(model.files)) == (fetch.first, ["config.json", "model.safetensors", "tokenizer.json"])
    assert (model.folder(cache) / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert (data.folder(cache) / "train.jsonl").read_bytes() == DATA["train.jsonl"]
    before, text = dict(fetch.hub.seen), fetch.lock.read_text()
    fetch.hub.commit("model", "org/model", {**MODEL, "config.json": b'{"newer": 1}'})
    code, told = fetch()
    assert code == Exit.DONE and "all here, by size; demo.lock stays" in told
    assert dict(fetch.hub.seen) == before, "the hub is not asked again"
    assert fetch.lock.read_text() == text


def test_an_update_moves_on_and_says_what_changes(fetch: Fetch) -> None:
    fetch()
    newer = fetch.hub.commit("model", "org/model", {**MODEL, "config.json": b'{"newer": 1}', "merges.txt": b""})
    assert "in all 256.0 kB, 12 B to fetch" in fetch(update=["all", "org/model"], dry_run=True)[1], "weights are here"
    code, told = fetch(update=["org/model", "org/data"])
    assert code == Exit.DONE and f"org/model {fetch.first[:12]} → {newer[:12]}" in told
    assert "new: merges.txt" in told and "changed: config.json" in told
    assert "org/data stays at" in told
    assert read_lock(fetch.lock).items[1].commit == newer


def test_more_of_a_locked_repository_stays_at_its_commit(fetch: Fetch) -> None:
    fetch.named[0]["parts"] = ["tokenizer"]
    fetch()
    fetch.hub.commit("model", "org/model", {**MODEL, "config.json": b'{"newer": 1}'})
    fetch.named[0]["parts"] = ["tokenizer", "weights"]
    assert fetch()[0] == Exit.DONE
    model = read_lock(fetch.lock).items[1]
    assert model.commit == fetch.first and "model.safetensors" in model.files


def test_what_the_study_names_no_more_leaves_the_lock(fetch: Fetch) -> None:
    fetch()
    del fetch.named[1]
    assert fetch(prune=False)[0] == Exit.DONE and len(read_lock(fetch.lock).items) == 2
    assert fetch()[0] == Exit.DONE and [item.id for item in read_lock(fetch.lock).items] == ["org/model"]


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("GET /api/models", status=503, times=2), Fault("HEAD", status=429, times=2, retry_after=0)],
        [Fault("GET /org/model/resolve", status=500, times=2), Fault("tree", status=502)],
        [Fault("GET", cut_after=0, times=1), Fault("model.safetensors", cut_after=100_000, times=2)],
    ],
)
def test_what_may_pass_is_asked_again(fetch: Fetch, faults: list[Fault]) -> None:
    fetch.hub.faults += faults
    code, told = fetch()
    assert code == Exit.DONE, told
    assert not [fault for fault in faults if fault.times > 0 and fault.cut_after != 0]
    assert fetch(verify=True)[1].count("here") >= 2


def test_a_hub_that_stays_down_keeps_the_lock_and_what_came(fetch: Fetch) -> None:
    fetch.hub.faults.append(Fault("GET /org/model/resolve", status=503, times=10**6))
    code, told = fetch()
    assert code == Exit.PREFLIGHT_REFUSED
    assert (
        "org/model: the hub answered 503 after 6 attempts; what came is kept, `tunestudy fetch demo.yaml` goes on"
        in told
    )
    fetch.hub.faults.clear()
    fetch.hub.commit("model", "org/model", {**MODEL, "config.json": b'{"newer": 1}'})
    assert fetch()[0] == Exit.DONE and read_lock(fetch.lock).items[1].commit == fetch.first, (
        "the commit of the first try"
    )


def test_a_large_file_goes_on_where_it_stopped(fetch: Fetch, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bring, "LARGE_BYTES", 100_000)
    fetch.hub.faults.append(Fault("model.safetensors", status=503, times=10**6))
    fetch.named = fetch.named[:1]
    fetch()
    fetch.hub.faults.clear()
    item = read_lock(fetch.lock).items[0]
    sha = item.files["model.safetensors"].sha256
    part = item.folder(cache).parent.parent / "blobs" / f"{sha}{bring.PART}"
    part.write_bytes(MODEL["model.safetensors"][:200_000])  # as a killed process left it
    fetch.hub.sent.clear()
    code, told = fetch()
    assert code == Exit.DONE and "56.0 kB to fetch" in told
    assert fetch.hub.sent["model.safetensors"] == 56_000 and not part.exists()
    shutil.rmtree(cache)
    fetch()
    part.parent.joinpath(sha).unlink()
    part.write_bytes(MODEL["model.safetensors"][:100_000])
    flock = fcntl.flock

    def waited_for(file: BinaryIO, how: int) -> None:
        if getattr(file, "name", None) == str(part):
            part.write_bytes(MODEL["model.safetensors"][:200_000])  # another fetch went on, and was killed
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", waited_for)
    fetch.hub.sent.clear()
    assert fetch()[0] == Exit.DONE and fetch.hub.sent["model.safetensors"] == 56_000
    monkeypatch.setattr(fcntl, "flock", flock)
    part.parent.joinpath(sha).unlink()
    part.write_bytes(b"?" * 200_000)  # not what it should begin with
    assert fetch()[0] == Exit.DONE and fetch(verify=True)[0] == Exit.DONE


def test_just_what_is_damaged_comes_again(fetch: Fetch, cache: Path) -> None:
    fetch()
    folder = read_lock(fetch.lock).items[1].folder(cache)
    (folder / "tokenizer.json").resolve().unlink()
    weights = (folder / "model.safetensors").resolve()
    weights.write_bytes(MODEL["model.safetensors"][::-1])
    before = fetch.downloads()
    code, told = fetch()
    assert code == Exit.DONE and "1 fetched and verified" in told and fetch.downloads() == before + 1
    code, told = fetch(verify=True)
    assert code == Exit.DONE and "1 fetched and verified" in told
    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_other_bytes_than_the_hub_listed_are_not_kept(fetch: Fetch, cache: Path) -> None:
    fetch(dry_run=True)
    fetch()
    text = fetch.lock.read_text()
    sha = read_lock(fetch.lock).items[1].files["model.safetensors"].sha256
    fetch.lock.write_text(text.replace(sha, "0" * 64))
    code, told = fetch(verify=True)
    assert code == Exit.PREFLIGHT_REFUSED and "came twice with another content than the hub listed" in told
    assert not (read_lock(fetch.lock).items[1].folder(cache) / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (
            {"id": "org/modell"},
            "org/modell: the hub shows no such model .the nearest is `org/model`.; if it is private",
        ),
        ({"id": "nobody/nothing"}, "the hub shows no such model; if it is private, a token .*`hf auth login`"),
        ({"revision": "mian"}, r"org/model @ mian: has no revision `mian`; did you mean `main`\?"),
        ({"id": "not a name"}, "is no name of a repository"),
        ({"parts": ["vae/"]}, r"org/model: has no vae/config\.json"),
        ({"kind": "dataset"}, "the hub shows no such dataset"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(fetch: Fetch, named: dict, told: str) -> None:
    fetch.named[0] |= named
    code, found = fetch()
    assert code == Exit.STUDY_WRONG and re.search(told, found), found
    assert not fetch.lock.exists()


def test_gated_private_and_a_wrong_token(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = fetch.hub.repos["model", "org/model"]
    repo.gated = True
    code, told = fetch()
    assert code == Exit.PREFLIGHT_REFUSED and f"is gated: accept its conditions at {fetch.hub.url}/org/model" in told
    token = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", token)
    code, told = fetch()
    assert code == Exit.PREFLIGHT_REFUSED and "refuses the token (401)" in told and token not in told
    fetch.hub.tokens.add(token)
    assert fetch()[0] == Exit.DONE
    assert token not in fetch.lock.read_text()


def test_a_small_disk_is_refused_before_the_first_byte(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 200 * 2**20 + 1000))
    code, told = fetch()
    assert code == Exit.PREFLIGHT_REFUSED and "256.0 kB to fetch and 209.7 MB free, of which 209.7 MB stay free" in told
    assert fetch.downloads() <= 1 and not fetch.lock.exists(), "of a data set the card is read to know its subsets"
    assert fetch(dry_run=True)[0] == Exit.DONE


def test_offline_and_a_lock_that_cannot_be_written(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE is set, so the hub is not asked; unset it to fetch" in fetch()[1]
    fetch.lock = fetch.root / "file" / "demo.lock"
    (fetch.root / "file").write_text("")
    code, told = fetch()
    assert code == Exit.PREFLIGHT_REFUSED and "the lock lies beside the study file" in told


def test_another_fetch_was_faster(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run.item_problems

    def meanwhile(item, *rest, **options):
        if not fetch.lock.exists():
            fetch.hub.commit("model", "org/model", {**MODEL, "config.json": b'{"newer": 1}'})
            monkeypatch.setattr(run, "item_problems", real)
            other = Fetch.__call__(fetch)
            assert other[0] == Exit.DONE
        return real(item, *rest, **options)

    monkeypatch.setattr(run, "item_problems", meanwhile)
    code, told = fetch()
    assert code == Exit.PREFLIGHT_REFUSED and "another fetch has locked" in told and fetch.lock.exists()
    assert fetch()[0] == Exit.DONE
