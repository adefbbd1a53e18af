"""One token per character, there and back."""

import pytest

from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.tokenizer import SPECIAL, character_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(CharacterTokenizer(alphabet="abc é\n=漢ab"))


def test_ids_follow_the_alphabet(tokenizer):
    assert tokenizer("abc").input_ids == [4, 5, 6]
    assert len(tokenizer) == len(SPECIAL) + len("abc é\n=漢")  # repeated characters count once


@pytest.mark.parametrize("text", ["a b", "\n\na", "  ", "é=漢", "ab\ncé = 漢"])
def test_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_foreign_characters_become_unknown(tokenizer):
    assert tokenizer("aZb").input_ids == [4, tokenizer.unk_token_id, 5]


def test_special_tokens(tokenizer):
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id] == [
        0,
        1,
        2,
        3,
    ]


def test_offsets_are_those_of_characters(tokenizer):
    offsets = tokenizer("aé\nb", return_offsets_mapping=True).offset_mapping
    assert [tuple(pair) for pair in offsets] == [(0, 1), (1, 2), (2, 3), (3, 4)]
