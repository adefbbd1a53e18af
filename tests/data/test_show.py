"""What `tunestudy data` shows is what training learns: the same tokens, the same mask."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunestudy.config.data import FileDataset
from tunestudy.config.model import CharacterTokenizer
from tunestudy.config.stage import TrainStage
from tunestudy.data.select import is_held_out
from tunestudy.data.show import Look, Shower, unknown_token
from tunestudy.data.sources import Folders
from tunestudy.models.tokenizer import character_tokenizer

TWO = Look(("set",), 2, None)
ROWS = [{"id": f"r{i}", "prompt": "ab ", "completion": "c" * (i + 1)} for i in range(6)]


@pytest.fixture
def shown(tmp_path: Path):
    def show(rows=ROWS, look=TWO, *, held_out=0.0, limit=None, **settings):
        (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        stage = TrainStage.model_validate(
            {"data": ({"dataset": "set"},), "learning_rate": 1e-3, "max_length": 32, **settings}
        )
        tokenizer = character_tokenizer(CharacterTokenizer(alphabet="abcdefgh "))
        shower = Shower(tokenizer, stage, None, Folders(tmp_path, tmp_path / "cache"))
        return shower.shown(look, {"set": FileDataset(path="set.jsonl", held_out=held_out, limit=limit)})

    return show


def test_learnt_and_masked_runs_and_their_counts(shown):
    found = shown()
    (source,) = found["sources"]
    assert (source["read"], source["samples"], found["packs"]) == (6, 6, None)
    assert source["tokens"] == sum(3 + i + 2 for i in range(6)) and source["learnt"] == sum(i + 2 for i in range(6))
    first = source["shown"][0]
    assert [(part["kind"], part["learnt"], part["text"]) for part in first["segments"]] == [
        ("text", False, "ab "),
        ("text", True, "c"),
        ("special", True, "<eos>"),
    ]
    assert sum(part["tokens"] for part in first["segments"]) == first["tokens"]
    assert len(source["shown"]) == 2


def test_what_is_left_out_has_its_reason_and_place(shown):
    (source,) = shown([*ROWS, {"id": "long", "prompt": "a" * 40, "completion": "b"}, {"id": "empty"}])["sources"]
    assert source["rejected"] == {"too long": 1} and sum(source["unreadable"].values()) == 1
    assert {example["place"] for example in source["examples"]} == {"set.jsonl:7", "set.jsonl:8"}


def test_truncated_samples_are_counted_and_one_that_fits_exactly_is_not(shown):
    (source,) = shown(max_length=7, overlong="truncate")["sources"]
    lengths = [3 + i + 2 for i in range(6)]
    assert source["truncated"] == sum(length > 7 for length in lengths) == 3


def test_what_the_tokenizer_cannot_write_is_counted_and_an_end_is_not(shown):
    (source,) = shown([{"id": "x", "prompt": "a\nzb", "completion": "c"}])["sources"]
    assert source["unknown"] == 2
    ends = SimpleNamespace(eos_token_id=7, bos_token_id=7, pad_token_id=None, unk_token_id=7)
    assert unknown_token(ends) == -1 == unknown_token(SimpleNamespace(**{**vars(ends), "unk_token_id": None}))


def test_packs_are_whole_samples_within_the_limit(shown):
    found = shown(look=Look(("set",), 10, None), packing=True, max_length=16)
    lengths = [sum(sample["tokens"] for sample in row) for row in found["packs"]]
    assert max(lengths) <= 16 and len(lengths) < 6
    assert sorted(sample["id"] for row in found["packs"] for sample in row) == [f"r{i}" for i in range(6)]


def test_the_held_out_rows_are_those_that_training_does_not_see(shown):
    both, rows = Look(("set", "set@held_out"), 40, None), [{**ROWS[0], "id": f"r{i}"} for i in range(40)]
    train, held_out = shown(rows, both, held_out=0.5)["sources"]
    ids = [{sample["id"] for sample in source["shown"]} for source in (train, held_out)]
    assert ids[0] | ids[1] == {f"r{i}" for i in range(40)} and not ids[0] & ids[1]
    assert ids[1] == {name for name in ids[0] | ids[1] if is_held_out(name, 0.5)} and all(ids)
    assert (train["other_side"], held_out["other_side"]) == (len(ids[1]), len(ids[0]))
    train, held_out = shown(rows, both, held_out=0.5, limit=10)["sources"]
    assert train["other_side"] == held_out["looked_at"] == 10 - train["looked_at"], "of those that `limit` keeps"


def test_only_the_first_records_are_looked_at(shown):
    (source,) = shown(look=Look(("set",), 1, 2))["sources"]
    assert (source["looked_at"], source["samples"], source["is_all"]) == (2, 2, False)
    assert shown(look=Look(("set",), 1, len(ROWS)))["sources"][0]["is_all"]
