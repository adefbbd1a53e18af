"""A tokenizer with one token per character, for models that are trained from scratch on small generated text."""

from collections.abc import Sequence
from typing import Any

from tunestudy.config.model import CharacterTokenizer

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Ids 0 to 3; the alphabet follows in its own order."""


def character_tokenizer(settings: CharacterTokenizer, special: Sequence[str] = ()) -> Any:
    """A `PreTrainedTokenizerFast`; a character outside the alphabet becomes `<unk>`, nothing is added on its own.

    special: more tokens that are whole in a text, such as an architecture's for images.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = dict.fromkeys(settings.alphabet)  # in order, without repetitions
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *characters, *special])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=list(special),
    )
