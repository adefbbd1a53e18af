"""A stage's data from files to a sealed cache: splits, limits, rejects, overlap, sharing, rebuilding."""

import errno
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.model import CharacterTokenizer, ModelConfig
from tunestudy.data import prepare as preparing
from tunestudy.data.corpus import CorpusWriter
from tunestudy.data.prepare import prepare, tokenizer_identity
from tunestudy.models.tokenizer import character_tokenizer
from tunestudy.records.layout import JobDir

TOKENIZER = character_tokenizer(CharacterTokenizer(alphabet="0123456789abcdefghijklmnopqrstuvwxyz =\n"))


class OneRank:
    rank = 0

    def barrier(self) -> None:
        """Alone."""


@pytest.fixture
def stage(tmp_path):
    """A function: a job with these data sets and settings, in a results folder beside the data."""

    def make(datasets: dict[str, Any], *, seed: int = 1, **settings: Any) -> tuple[Job, JobDir]:
        folder = JobDir(tmp_path / "results" / "s" / "jobs" / f"a-{seed:012d}")
        folder.root.mkdir(parents=True, exist_ok=True)
        values = {
            "id": folder.root.name,
            "stage": "a",
            "fingerprint": "0" * 64,
            "seed": seed,
            "variants": ["v"],
            "model": {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "01"}},
            "settings": {"learning_rate": 1e-3, "data": list(datasets), **settings},
            "datasets": datasets,
            "base_dir": "../../../..",
        }
        return Job.model_validate(values), folder

    return make


@pytest.fixture
def prepared(stage):
    def make(datasets, *, seed=1, world=None, **settings):
        return prepare(*stage(datasets, seed=seed, **settings), TOKENIZER, world or OneRank())

    return make


def rows(count, *, start=0, **extra):
    return [{"prompt": f"{i} plus 1 =", "completion": str(i + 1), **extra} for i in range(start, start + count)]


def ids(corpus):
    return list(corpus.sample_ids)


def test_digits_to_corpus(prepared):
    data = prepared({"d": {"type": "digits", "held_out": 0.2}}, max_length=96, eval_subset_size=None)
    assert len(data.train) + len(data.eval) == 1797 and 0.17 < len(data.eval) / 1797 < 0.23
    assert not set(ids(data.train)) & set(ids(data.eval))
    first = data.train.ids[: data.train.lengths[0]]
    assert TOKENIZER.decode(first).endswith("<eos>") and data.train.num_targets == 2 * len(data.train)


def test_every_rotation_holds_out_the_same_scans(prepared):
    upright = prepared({"d": {"type": "digits", "held_out": 0.2}})
    turned = prepared({"r": {"type": "digits", "held_out": 0.2, "rotate": 90}})
    assert ids(upright.eval) == ids(turned.eval)
    assert upright.report["eval"]["ids_sha256"] == turned.report["eval"]["ids_sha256"]


def test_a_split_is_stable_when_data_grow(prepared, write_jsonl):
    source = {"d": {"path": "d.jsonl", "held_out": 0.3}}
    write_jsonl("d.jsonl", rows(60))
    before = prepared(source)
    write_jsonl("d.jsonl", rows(80))
    after = prepared(source)
    assert set(ids(before.train)) < set(ids(after.train)) and set(ids(before.eval)) < set(ids(after.eval))


def test_limit_takes_the_same_records_when_few_are_added(prepared, write_jsonl):
    write_jsonl("d.jsonl", rows(100))
    before = set(ids(prepared({"d": {"path": "d.jsonl", "limit": 40}}).train))
    write_jsonl("d.jsonl", rows(104))
    after = set(ids(prepared({"d": {"path": "d.jsonl", "limit": 40}}).train))
    assert len(before) == len(after) == 40 and len(before & after) >= 36


def test_a_record_keeps_its_own_id_if_all_have_one(prepared, write_jsonl):
    write_jsonl("d.jsonl", [{**row, "id": f"r{i}"} for i, row in enumerate(rows(5))])
    assert ids(prepared({"d": {"path": "d.jsonl"}}).train) == ["r0", "r1", "r2", "r3", "r4"]


def test_the_id_can_have_another_column(prepared, write_jsonl):
    write_jsonl("d.jsonl", [{**row, "uid": i} for i, row in enumerate(rows(3))])
    assert ids(prepared({"d": {"path": "d.jsonl", "columns": {"id": "uid"}}}).train) == ["0", "1", "2"]


@pytest.mark.parametrize("own", [["a", "b", "a"], ["a", "b", None]])
def test_otherwise_ids_are_content_hashes(prepared, write_jsonl, own):
    write_jsonl("d.jsonl", [{**row, "id": value} for value, row in zip(own, rows(3), strict=True)])
    found = ids(prepared({"d": {"path": "d.jsonl"}}).train)
    assert len(set(found)) == 3 and all(len(name) == 32 for name in found)


def test_duplicates_stay_on_one_side_of_a_split(prepared, write_jsonl):
    write_jsonl("d.jsonl", rows(40) + rows(40))
    data = prepared({"d": {"path": "d.jsonl", "held_out": 0.4}})
    assert len(set(ids(data.train)) | set(ids(data.eval))) == 80
    assert data.report["overlap"]["rows"] == 0


def test_the_eval_subset_is_the_same_for_every_seed_and_nested(prepared, write_jsonl):
    write_jsonl("d.jsonl", rows(200))
    source = {"d": {"path": "d.jsonl", "held_out": 0.5}}
    few, again = (prepared(source, seed=seed, eval_subset_size=10) for seed in (1, 2))
    more = prepared(source, eval_subset_size=20)
    other = prepared(source, eval_subset_size=10, eval_subset_seed=1)
    assert ids(few.eval) == ids(again.eval) and len(few.eval) == 10
    assert set(ids(few.eval)) < set(ids(more.eval))
    assert ids(other.eval) != ids(few.eval)


def test_no_held_out_rows_no_evaluation(prepared, write_jsonl):
    write_jsonl("d.jsonl", rows(5))
    data = prepared({"d": {"path": "d.jsonl"}})
    assert data.eval is None and "overlap" not in data.report


def test_overlap_is_counted_and_told(prepared, write_jsonl, capsys):
    write_jsonl("d.jsonl", rows(10))
    write_jsonl("e.jsonl", rows(6, start=7))
    datasets = {"d": {"path": "d.jsonl"}, "e": {"path": "e.jsonl"}}
    data = prepared(datasets, data=["d"], eval_data=["e"])
    assert data.report["overlap"]["rows"] == 3 and len(data.report["overlap"]["examples"]) == 3
    assert "warning: 3 of 6 evaluation rows also occur in the training data" in capsys.readouterr().out


def test_mixture_report(prepared, write_jsonl):
    write_jsonl("a.jsonl", rows(30))
    write_jsonl("b.jsonl", rows(10, start=100))
    parts = [{"dataset": "a", "weight": 1}, {"dataset": "b", "weight": 3}]
    datasets = {"a": {"path": "a.jsonl", "language": "en"}, "b": {"path": "b.jsonl", "language": "ko"}}
    data = prepared(datasets, data=parts)
    a, b = data.report["sources"]["a"], data.report["sources"]["b"]
    assert (a["samples"], a["samples_per_epoch"], a["realised_share"], a["language"]) == (30, 30, 0.25, "en")
    assert (b["samples"], b["samples_per_epoch"], b["realised_share"], b["language"]) == (10, 90, 0.75, "ko")
    assert data.train.sources == ("a", "b") and np.bincount(data.train.source).tolist() == [30, 10]
    assert a["target_tokens"] + b["target_tokens"] == data.train.num_targets
    assert a["tokens"] + b["tokens"] == data.train.num_tokens


def test_bad_records_go_to_the_manifest(write_jsonl, stage, capsys):
    bad = ["{broken", {"prompt": "x"}, {"prompt": "x", "completion": ""}, {"prompt": "x" * 99, "completion": "y"}]
    write_jsonl("d.jsonl", [*rows(20), *bad])
    job, folder = stage({"d": {"path": "d.jsonl", "max_rejected": 0.5}}, max_length=64)
    data = prepare(job, folder, TOKENIZER, OneRank())
    source = data.report["sources"]["d"]
    assert source["read"] == 24 and source["samples"] == 20 and source["too_long"] == 1
    assert source["rejected"] == {"not JSON": 1, "missing field": 1, "empty answer": 1, "too long": 1}
    manifest = folder.study.data_cache / data.report["cache"] / "rejected.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [line["line"] for line in lines] == ["d.jsonl:21", "d.jsonl:22", "d.jsonl:23", "d.jsonl:24"]
    assert lines[3]["reason"] == "too long: 101 tokens, max_length is 64" and lines[3]["source"] == "d"
    assert "d: 4 of 24 records left out (not JSON 1, missing field 1, empty answer 1" in capsys.readouterr().out


def test_too_many_bad_records_refuse_the_data_set(prepared, write_jsonl, tmp_path):
    write_jsonl("d.jsonl", [*rows(20), {"prompt": "x"}, {"prompt": "x", "completion": ""}])
    with pytest.raises(StudyError) as error:
        prepared({"d": {"path": "d.jsonl", "max_rejected": 0.05}})
    message = str(error.value)
    assert "datasets.d: 2 of 22 records are bad, over max_rejected (0.05)" in message
    assert "missing field 1, empty answer 1" in message and "d.jsonl:21" in message
    assert error.value.exit_code == Exit.PREFLIGHT_REFUSED
    assert not list((tmp_path / "results").rglob("rejected.jsonl"))  # nothing half-written


def test_few_records_that_a_limit_leaves_are_judged_by_themselves(prepared, write_jsonl):
    """Beside all that were read they would be within the share."""
    write_jsonl("d.jsonl", [*rows(60), *({"prompt": f"{'x' * 90}{i}", "completion": "y"} for i in range(60))])
    with pytest.raises(StudyError, match=r"\d of 10 records that the stage takes are bad, over max_rejected \(0.1\)"):
        prepared({"d": {"path": "d.jsonl", "limit": 10, "max_rejected": 0.1}}, max_length=64)


def test_a_column_that_only_the_first_record_lacks(prepared, write_jsonl):
    write_jsonl("d.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d", "number": "7"}])
    assert len(prepared({"d": {"path": "d.jsonl", "columns": {"id": "number"}}}).train) == 2
    with pytest.raises(StudyError, match=r"datasets\.d\.columns\.image: there is no column 'photo'"):
        prepared({"d": {"path": "d.jsonl", "columns": {"image": "photo"}}})


def test_every_record_too_long(prepared, write_jsonl):
    write_jsonl("d.jsonl", rows(5))
    with pytest.raises(StudyError, match=r"none of its 5 records can be used \(too long 5"):
        prepared({"d": {"path": "d.jsonl"}}, max_length=4)


@pytest.mark.parametrize("content", ["prompt,completion\n", '{"a": 1}\n'])
def test_a_data_set_without_records_or_of_no_format(prepared, tmp_path, content):
    name = "d.csv" if content.startswith("prompt") else "d.jsonl"
    (tmp_path / name).write_text(content)
    with pytest.raises(StudyError, match=r"datasets\.d"):
        prepared({"d": {"path": name}})


def test_a_held_out_share_of_nothing(prepared, write_jsonl):
    write_jsonl("d.jsonl", rows(3))
    with pytest.raises(StudyError, match=r"d@held_out has no rows: held_out is 0\.001 of 3 records"):
        prepared({"d": {"path": "d.jsonl", "held_out": 0.001}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ["nope"]}, "there is no data set 'nope'; there are: d"),
        ({"data": ["d", "d"]}, "names a data set twice"),
        ({"eval_data": ["d@held_out"]}, "is 0, so there are no rows in d@held_out"),
        ({"eval_data": ["d@test"]}, "d@test: the only part of a data set that has a name is d@held_out"),
    ],
)
def test_wrong_names(prepared, write_jsonl, options, message):
    write_jsonl("d.jsonl", rows(3))
    with pytest.raises(StudyError, match=message):
        prepared({"d": {"path": "d.jsonl"}}, **options)


def test_the_cache_is_shared_by_jobs_and_seeds(prepared, write_jsonl, monkeypatch):
    write_jsonl("d.jsonl", rows(20))
    first = prepared({"d": {"path": "d.jsonl"}}, seed=1)
    monkeypatch.setattr(preparing, "build", lambda *_: pytest.fail("tokenised twice"))
    again = prepared({"d": {"path": "d.jsonl"}}, seed=2, learning_rate=0.5)
    assert np.array_equal(first.train.ids, again.train.ids)


@pytest.mark.parametrize("change", [{"max_length": 99}, {"loss_on": "all"}, {"overlong": "truncate"}])
def test_what_changes_tokens_changes_the_cache(prepared, write_jsonl, change):
    write_jsonl("d.jsonl", rows(20))
    source = {"d": {"path": "d.jsonl"}}
    assert prepared(source).report["cache"] != prepared(source, **change).report["cache"]


def test_changed_data_change_the_cache(prepared, write_jsonl):
    write_jsonl("d.jsonl", rows(20))
    before = prepared({"d": {"path": "d.jsonl"}})
    write_jsonl("d.jsonl", rows(20, start=1))
    assert prepared({"d": {"path": "d.jsonl"}}).report["cache"] != before.report["cache"]


@pytest.mark.parametrize("name", ["train/ids.bin", "train/is_target.bin", "report.json"])
def test_a_flipped_bit_is_noticed_and_the_cache_built_again(stage, write_jsonl, name):
    write_jsonl("d.jsonl", rows(20))
    job, folder = stage({"d": {"path": "d.jsonl"}})
    before = prepare(job, folder, TOKENIZER, OneRank())
    expected = before.train.ids.copy()
    path = folder.study.data_cache / before.report["cache"] / name
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(bytes(content))
    assert np.array_equal(prepare(job, folder, TOKENIZER, OneRank()).train.ids, expected)
    assert path.read_bytes() != bytes(content)


def test_other_ranks_wait_for_the_first(stage, write_jsonl):
    write_jsonl("d.jsonl", rows(20))
    job, folder = stage({"d": {"path": "d.jsonl"}})
    both = threading.Barrier(2)
    found = {}

    class Rank:
        def __init__(self, rank):
            self.rank = rank

        def barrier(self):
            both.wait(timeout=30)

    def work(rank):
        found[rank] = prepare(job, folder, TOKENIZER, Rank(rank)).train

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(found[0].ids, found[1].ids)


def test_litter_is_not_left(stage, write_jsonl):
    write_jsonl("d.jsonl", rows(20))
    job, folder = stage({"d": {"path": "d.jsonl"}})
    data = prepare(job, folder, TOKENIZER, OneRank())
    assert [path.name for path in folder.study.data_cache.iterdir()] == [data.report["cache"]]


@pytest.mark.slow
def test_several_processes_give_the_same_corpus(prepared, write_jsonl, stage):
    write_jsonl("d.jsonl", [*rows(1000), {"prompt": "x"}])
    job, folder = stage({"d": {"path": "d.jsonl"}})
    alone = prepare(job, folder, TOKENIZER, OneRank()).train
    job2, folder2 = stage({"d": {"path": "d.jsonl", "system": None}}, preprocessing_num_workers=2)
    cache = folder.study.data_cache
    cache.rename(cache.parent / "away")
    together = prepare(job2, folder2, TOKENIZER, OneRank()).train
    assert ids(alone) == ids(together) and np.array_equal(alone.ids, together.ids)
    assert np.array_equal(alone.is_target, together.is_target)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which this system lacks")
def test_a_full_disk_is_told_with_the_cache(stage, write_jsonl, monkeypatch):
    write_jsonl("d.jsonl", rows(2000))
    job, folder = stage({"d": {"path": "d.jsonl"}})
    real = CorpusWriter.__init__

    def on_a_full_disk(self, place, sources):
        real(self, place, sources)
        self._files["ids"].close()
        self._files["ids"] = open("/dev/full", "wb")  # noqa: SIM115 - closed by the writer

    monkeypatch.setattr(CorpusWriter, "__init__", on_a_full_disk)
    with pytest.raises(OSError, match="writing the data cache: No space left") as error:
        prepare(job, folder, TOKENIZER, OneRank())
    assert error.value.errno == errno.ENOSPC
    assert not list(folder.study.data_cache.iterdir())


def test_a_tokenizers_identity_does_not_change_when_it_is_used(tmp_path: Path) -> None:
    """Some are saved with the truncation of their training, which the first call takes away."""
    from tunestudy.models.origin import load_tokenizer

    made = character_tokenizer(CharacterTokenizer(alphabet="ab"))
    made.backend_tokenizer.enable_truncation(7)
    made.backend_tokenizer.enable_padding()
    made.save_pretrained(tmp_path)
    settings = ModelConfig.model_validate({"architecture": "qwen3", "tokenizer": str(tmp_path)})
    tokenizer = load_tokenizer(settings, tmp_path)
    before = tokenizer_identity(tokenizer)
    tokenizer("ab")
    assert tokenizer_identity(tokenizer) == before
