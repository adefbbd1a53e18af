"""Rows of embeddings matched by token, against dictionaries of token → row."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tunestudy.config.errors import StudyError
from tunestudy.merge.source import FolderSource, Source
from tunestudy.merge.vocabulary import match, write_tokenizer

WIDTH = 4


def make(
    folder: Path, tokens: list[str], *, rows: int | None = None, seed: int = 0, special: tuple[str, ...] = ()
) -> Path:
    """A folder with a WordLevel tokenizer, embeddings, a head of one dimension, and a matrix of as many rows."""
    folder.mkdir()
    rows = rows or len(tokens)
    definition: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": tokens.index(token),
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in special
        ],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: row for row, token in enumerate(tokens) if token not in special},
            "unk_token": tokens[0],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "model.embed_tokens.weight": torch.randn(rows, WIDTH, generator=generator),
        "lm_head.bias": torch.randn(rows, generator=generator),
        "model.layers.0.mlp.up_proj.weight": torch.randn(rows, WIDTH, generator=generator),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def opened(*folders: Path) -> tuple[dict[str, Source], dict[str, tuple[Path, Path]]]:
    sources: dict[str, Source] = {folder.name: FolderSource(folder) for folder in folders}
    return sources, {folder.name: (folder, folder) for folder in folders}


def embedding(source: Source, name: str = "model.embed_tokens.weight") -> torch.Tensor:
    return source.read(name).view(source.tensors[name].shape)


def test_equal_tokenizers_need_nothing(tmp_path: Path) -> None:
    folders = make(tmp_path / "base", ["a", "b"], rows=4), make(tmp_path / "ko", ["a", "b"], rows=4)
    assert match(*opened(*folders), "union", "k") is None


def test_rows_follow_tokens_of_the_base(tmp_path: Path) -> None:
    base, ko = ["u", "a", "b", "c"], ["u", "c", "x", "b", "y"]
    sources, folders = opened(make(tmp_path / "base", base, rows=6), make(tmp_path / "ko", ko, rows=5, seed=1))
    matched = match(sources, folders, "base", "k")
    assert matched is not None and matched.added == {} and matched.num_rows == 6 and matched.num_tokens == 4
    for name in ("model.embed_tokens.weight", "lm_head.bias"):
        ours, its = embedding(sources["base"], name), embedding(sources["ko"], name)
        seen = embedding(matched.sources["ko"], name)
        assert seen.shape == ours.shape
        for row, token in enumerate(base):
            assert torch.equal(seen[row], its[ko.index(token)] if token in ko else ours[row])
        assert torch.equal(seen[4:], ours[4:])  # padding
        assert torch.equal(embedding(matched.sources["base"], name), ours)
    difference = matched.sources["ko"].difference(matched.sources["base"], "model.embed_tokens.weight").view(6, WIDTH)
    assert (difference == 0).all(1).tolist() == [False, True, False, False, True, True]


def test_any_slice_is_a_part_of_the_whole(tmp_path: Path) -> None:
    base, ko = ["u", "a", "b", "c", "d"], ["u", "d", "c", "b"]
    matched = match(*opened(make(tmp_path / "base", base), make(tmp_path / "ko", ko, seed=1)), "base", "k")
    assert matched is not None
    source, name = matched.sources["ko"], "model.embed_tokens.weight"
    whole = source.read(name)
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1):
            assert torch.equal(source.read(name, start, stop), whole[start:stop])
    out = torch.full((30,), 7.0)
    assert source.read(name, 3, 11, out).data_ptr() == out.data_ptr()
    assert torch.equal(out[:8], whole[3:11]) and (out[8:] == 7).all()


def test_union_appends_tokens_of_others(tmp_path: Path) -> None:
    base, en, ko = ["u", "a", "b"], ["u", "a", "x"], ["u", "x", "가", "나"]
    make(tmp_path / "base", base, rows=4)
    make(tmp_path / "en", en, seed=1)
    make(tmp_path / "ko", ko, seed=2, special=("나",))
    sources, folders = opened(*(tmp_path / name for name in ("base", "en", "ko")))
    matched = match(sources, folders, "union", "k")
    assert matched is not None
    assert matched.added == {"en": 1, "ko": 2} and matched.num_rows == 6 and matched.num_tokens == 6
    raw = {name: embedding(source) for name, source in sources.items()}
    seen = {name: embedding(source) for name, source in matched.sources.items()}
    order = ["u", "a", "b", "x", "가", "나"]
    for row, token in enumerate(order):
        has = [name for name, own in (("base", base), ("en", en), ("ko", ko)) if token in own]
        for name, own in (("base", base), ("en", en), ("ko", ko)):
            giver = name if token in own else has[0]
            tokens = {"base": base, "en": en, "ko": ko}[giver]
            assert torch.equal(seen[name][row], raw[giver][tokens.index(token)]), (name, token)
    prepared = tmp_path / "result"
    prepared.mkdir()
    (prepared / "config.json").write_text('{"text_config": {"vocab_size": 4}}')
    write_tokenizer(matched, prepared)
    assert json.loads((prepared / "config.json").read_text()) == {"text_config": {"vocab_size": 6}}
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(prepared / "tokenizer.json"))
    assert [made.token_to_id(token) for token in order] == list(range(6))
    assert made.encode("b 가 x나").ids == [2, 4, 3, 5]
    assert made.decode([4, 5]) == "가"  # special tokens stay special


def bpe(folder: Path, words: list[str], merges: list[tuple[str, str]]) -> Path:
    make(folder, words)
    definition = json.loads((folder / "tokenizer.json").read_text())
    model = {"type": "BPE", "vocab": {word: row for row, word in enumerate(words)}, "merges": [list(m) for m in merges]}
    (folder / "tokenizer.json").write_text(json.dumps({**definition, "model": model}))
    return folder


def test_union_of_merges_splits_words_as_both_do(tmp_path: Path) -> None:
    first = bpe(tmp_path / "base", ["a", "b", "ab"], [("a", "b")])
    other = bpe(tmp_path / "ko", ["c", "d", "a", "cd", "cda"], [("c", "d"), ("cd", "a")])
    matched = match(*opened(first, other), "union", "k")
    assert matched is not None
    (tmp_path / "config.json").write_text('{"vocab_size": 3}')
    write_tokenizer(matched, tmp_path)
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert made.encode("ab cda").tokens == ["ab", "cda"]


def test_tokenizers_of_two_kinds_have_no_union(tmp_path: Path) -> None:
    first = make(tmp_path / "base", ["a", "b"])
    other = bpe(tmp_path / "ko", ["a", "b", "ab"], [("a", "b")])
    with pytest.raises(StudyError, match="different kinds"):
        match(*opened(first, other), "union", "k")


def test_more_tokens_than_rows_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "base", ["a", "b", "c"])
    (tmp_path / "base" / "config.json").write_text('{"vocab_size": 2}')
    with pytest.raises(StudyError, match="3 tokens and its model 2 rows"):
        match(*opened(tmp_path / "base"), "base", "k")


def test_rows_that_differ_without_tokenizer_are_refused(tmp_path: Path) -> None:
    folders = make(tmp_path / "base", ["a", "b"]), make(tmp_path / "ko", ["a", "b", "c"])
    (folders[1] / "tokenizer.json").unlink()
    with pytest.raises(StudyError, match=r"ko: has no tokenizer\.json"):
        match(*opened(*folders), "base", "k")
