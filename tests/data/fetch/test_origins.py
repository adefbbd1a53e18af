"""DataComp's rows from where they can come: drawn here and played on loopback, and the hub's cache."""

from collections import Counter

import pyarrow as pa
import pytest
from pyarrow import parquet

from tunestudy.config.data import DatacompDataset, DrawnPool
from tunestudy.config.errors import StudyError
from tunestudy.data.drawn_pool import fate
from tunestudy.data.fetch.manifest import read_manifest
from tunestudy.data.fetch.wanted import fetch_dir
from tunestudy.data.sources import datacomp
from tunestudy.records.hub_cache import snapshot_folder

REASONS = {"alive": "", "host gone": "host not found", "not found": "http 404", "replaced": "another sha256"}
COMMIT = "a" * 40


def test_a_drawn_pool_comes_over_http_and_once(fetcher):
    dataset = DatacompDataset(drawn=DrawnPool(count=60, dead=0.4))
    with pytest.raises(StudyError, match="a pool that is drawn here: its images have not been fetched"):
        fetcher.read(dataset)
    assert fetcher(dataset)
    (line,) = {tuple(image.reason for (image,) in read_manifest(fetch_dir(dataset, fetcher.folders), 0))}
    assert line == tuple(REASONS[fate(dataset.drawn, number)] for number in range(60))
    read = fetcher.read(dataset)
    assert Counter(raw.lost for raw in read)[True] == sum(bool(reason) for reason in line) > 0
    alive = next(raw for raw in read if not raw.lost)
    assert alive.columns["image"]["width"] == 56 and alive.columns["prompt"] == "Describe this image."

    larger = DatacompDataset(drawn=DrawnPool(count=60, dead=0.4), num_samples=20)
    assert fetcher(larger)
    assert {raw.columns["id"] for raw in datacomp.records(larger, fetcher.folders)} < {
        raw.columns["id"] for raw in datacomp.records(dataset, fetcher.folders)
    }
    assert len({datacomp.identity(one, fetcher.folders) for one in (dataset, larger)}) == 2


def test_metadata_at_the_locked_commit(fetcher, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    dataset = DatacompDataset(name="org/pool", revision=COMMIT, num_samples=2)
    with pytest.raises(StudyError, match="metadata of org/pool are not here; `tunestudy fetch STUDY`"):
        list(datacomp.records(dataset, fetcher.folders))
    columns = {"uid": ["u", "v", "w"], "url": [f"https://x/{i}" for i in range(3)], "text": ["a", "b", "c"]}
    folder = snapshot_folder(tmp_path / "hub", "dataset", "org/pool", COMMIT)
    folder.mkdir(parents=True)
    parquet.write_table(pa.table({**columns, "width": [1, 2, 3]}), folder / "0.parquet")
    (folder / "0.npz").write_bytes(b"features of images are not read")
    found = list(datacomp.records(dataset, fetcher.folders))
    assert len(found) == 2 and {raw.columns["id"] for raw in found} < {"u", "v", "w"}
    assert found[0].place.startswith("0.parquet[")
