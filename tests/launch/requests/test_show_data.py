"""`tunestudy data`: which stage shows a data set, what a terminal and a page make of it, and mistakes in names."""

import json
from pathlib import Path

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.requests import show_data as showing
from tunestudy.launch.requests.show_data import as_text, show_data
from tunestudy.report.data_page import render_data
from tunestudy.study.load import LoadedStudy, load_study

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}}
datasets: {upright: {type: digits}, turned: {type: digits, rotate: 90}, idle: {type: digits, rotate: 180}}
defaults: {learning_rate: 1e-3, max_steps: 2, max_length: 80, effective_batch_size: 1}
stages: {first: {data: upright}, second: {data: turned}}
variants: {one: {stages: [first]}, two: {stages: [first, second]}}
"""
SAMPLE = {
    "source": "upright",
    "id": "a<b>",
    "place": "file:1",
    "tokens": 3,
    "learnt": 2,
    "segments": [
        {"kind": "special", "learnt": False, "tokens": 1, "text": "<bos>"},
        {"kind": "image", "learnt": False, "tokens": 16, "text": "image 8×8: 16 tokens"},
        {"kind": "text", "learnt": False, "tokens": 1, "text": "\x1b[31m<script>alert(1)</script>"},
        {"kind": "text", "learnt": True, "tokens": 1, "text": "yes"},
        {"kind": "special", "learnt": True, "tokens": 1, "text": "<eos>"},
    ],
}
SOURCE = {
    "source": "upright",
    "read": 9,
    "looked_at": 5,
    "samples": 4,
    "tokens": 40,
    "learnt": 10,
    "unknown": 3,
    "images": 1,
    "truncated": 2,
    "unreadable": {"not JSON": 1},
    "rejected": {"too long": 1},
    "examples": [{"place": "file:3", "reason": "too long: 99 tokens"}],
    "is_all": False,
    "is_held_out": False,
    "other_side": 3,
    "shown": [SAMPLE],
}
FACTS = {
    "study": "tiny",
    "stage": "first",
    "variants": ["one"],
    "max_length": 80,
    "overlong": "reject",
    "loss_on": "assistant",
    "packing": False,
    "sources": [SOURCE],
    "packs": None,
}


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedStudy:
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study(tmp_path / "study.yaml")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Stage and sources of what the worker plane is asked for, in place of starting it."""
    seen: list[tuple[str, list[str]]] = []

    def answer(job, study, loaded, sources, **_):
        seen.append((job.stage, list(sources)))
        return {"sources": [SOURCE], "packs": None}

    monkeypatch.setattr(showing, "asked_for", answer)
    return seen


def test_a_data_set_is_shown_by_the_first_stage_that_reads_it(loaded, asked, tmp_path, capsys):
    for words in ({}, {"dataset": "turned"}, {"stage": "second"}, {"dataset": "idle", "stage": "first"}):
        assert show_data(loaded, tmp_path / "results", **words) == Exit.DONE
    assert asked == [("first", ["upright"]), ("second", ["turned"]), ("second", ["turned"]), ("first", ["idle"])]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"dataset": "uprihgt"}, "did you mean `upright`?"),
        ({"stage": "frist"}, "did you mean `first`?"),
        ({"variant": "tow"}, "did you mean `two`?"),
        ({"dataset": "idle"}, "no stage trains or evaluates on idle; --stage NAME"),
        ({"dataset": "upright@held_out"}, "held_out of upright is 0"),
        ({"variant": "one", "stage": "second"}, "belongs to stage second and variant one"),
    ],
)
def test_names_that_nothing_has(loaded, asked, tmp_path, words, told):
    with pytest.raises(StudyError) as caught:
        show_data(loaded, tmp_path / "results", **words)
    assert told in caught.value.message and asked == []


def test_nothing_to_show_is_no_success(loaded, asked, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCE, "samples", 0)
    assert show_data(loaded, tmp_path / "results") == Exit.PREFLIGHT_REFUSED


def test_without_colours_learnt_spans_stand_in_brackets_and_escapes_are_seen():
    told = "\n".join(text.plain for text in as_text(FACTS, ("⟦", "⟧")))
    assert "[image 8×8: 16 tokens]␛[31m<script>alert(1)</script>⟦yes<eos>⟧" in told and "\x1b" not in told
    assert "the first 5 of 9 records (3 held out): 4 samples, 40 tokens; 25.0% learnt; 1 image; 2 truncated" in told
    assert "left out: file:3: too long" in told
    assert "3 of 40 tokens (7.5%) are not in the tokenizer's vocabulary" in told
    coloured = list(as_text(FACTS, None))[-1]
    assert "⟦" not in coloured.plain and any("green" in str(span.style) for span in coloured.spans)


def test_packs_have_borders():
    told = "\n".join(text.plain for text in as_text({**FACTS, "packing": True, "packs": [[SAMPLE, SAMPLE]]}, None))
    assert "pack 1: 2 samples, 6 of 80 tokens" in told


def test_the_page_escapes_what_comes_from_data_and_holds_no_token():
    secret = "hf_" + "q" * 24
    segments = [*SAMPLE["segments"], {"kind": "text", "learnt": False, "tokens": 1, "text": secret}]
    page = render_data({**FACTS, "sources": [{**SOURCE, "shown": [{**SAMPLE, "segments": segments}]}]})
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "a&lt;b&gt;" in page
    assert secret not in page and '<span class="text learnt">yes</span>' in page


@pytest.mark.slow
def test_the_real_worker_shows_and_leaves_nothing(loaded, tmp_path, capsys):
    assert show_data(loaded, tmp_path / "results", num_samples=1, num_records=20) == Exit.DONE
    out = capsys.readouterr().out
    assert "upright: the first 20 of 1,797 records: 20 samples" in out and "=⟦0<eos>⟧" in out
    assert not any((tmp_path / "results" / "tiny" / "cache").glob("show-*"))


def test_json_holds_no_token(loaded, asked, tmp_path, monkeypatch, capsys):
    token = "hf_" + "a1B2" * 9
    told = {"sources": [{**SOURCE, "rejected": {f"bad line {token}": 1}}], "packs": None}
    monkeypatch.setattr(showing, "asked_for", lambda *_, **__: told)
    show_data(loaded, tmp_path / "results", as_json=True)
    out = capsys.readouterr().out
    assert token not in out and "bad line" in out and json.loads(out)["study"]
