"""Models whose tokenizers differ: rows of embeddings and heads are matched by token, never by number.

Read off tokenizer.json alone (https://huggingface.co/docs/tokenizers), so that nothing is imported for models whose
tokenizers are the same, as nearly all are.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.merge.source import Source
from tunestudy.merge.view import Rows, View

BY_TOKEN = re.compile(
    r"(?:^|\.)(?:embed_tokens|lm_head|wte|word_embeddings|tok_embeddings|embed_in|embed_out|output)\."
)
"""Modules whose tensors may have a row for each token."""

Tokens = dict[str, int]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens, and how many rows the model has for them."""

    name: str
    tokens: Tokens
    num_rows: int
    definition: dict[str, Any]
    """tokenizer.json."""


@dataclass(frozen=True)
class Matched:
    """What the result's vocabulary is, where the inputs' differ."""

    num_rows: int
    num_tokens: int
    added: dict[str, int]
    """Model → tokens that it brought along."""
    definition: dict[str, Any] | None
    """tokenizer.json of the result; None: the first one's as it is."""
    sources: dict[str, Source] = field(default_factory=dict)
    """The inputs, all with the result's rows."""

    def as_json(self) -> dict[str, Any]:
        return {"tokens": self.num_tokens, "added": self.added}


def match(
    sources: Mapping[str, Source],
    folders: Mapping[str, tuple[Path, Path]],
    policy: Literal["base", "union"],
    key: str,
) -> Matched | None:
    """The sources with their rows matched by token; None when all have the same tokens, or none has a tokenizer.

    sources: the base first, if there is one: with `base` its tokens are the result's. folders: where a source's
    tokenizer lies, and its config.json.
    """
    found = {name: read_vocabulary(name, *folders[name]) for name in sources}
    first, *others = found.values()
    known = [one.tokens for one in found.values() if one.tokens]
    if all(one.num_rows == first.num_rows for one in others) and all(tokens == known[0] for tokens in known):
        return None
    if unknown := [name for name, one in found.items() if not one.tokens]:
        cure = "put the tokenizer's files into its folder"
        raise StudyError(at(key), f"{', '.join(unknown)}: has no tokenizer.json to match rows by; {cure}")
    num_rows = {name: by_token(source, found[name]) for name, source in sources.items()}
    if numbered := [name for name, tensors in num_rows.items() if not tensors]:
        message = (
            f"their tokens differ, and no embeddings of {', '.join(numbered)} have as many rows as its config.json "
            "says (vocab_size), so that none can be matched; give all models one tokenizer, or mend config.json"
        )
        raise StudyError(at(key), message, exit_code=Exit.PREFLIGHT_REFUSED)
    tokens, added = dict(first.tokens), dict[str, int]()
    definition = None
    if policy == "union":
        tokens, added = _united(first, others)
        definition = _united_definition(first, others, tokens, key) if len(tokens) > len(first.tokens) else None
    total = max(first.num_rows, max(tokens.values()) + 1)
    rows = {name: _rows_of(one, tokens, total) for name, one in found.items()}
    rows[first.name] = np.where(np.arange(total) < first.num_rows, np.arange(total), -1)
    for token, row in tokens.items():
        if token not in first.tokens:
            rows[first.name][row] = -1  # a row of padding until now, which means nothing
    views: dict[str, Source] = {
        name: View(source, rows=_plan(name, num_rows[name], sources, rows)) for name, source in sources.items()
    }
    return Matched(total, len(tokens), added, definition, views)


def read_vocabulary(name: str, tokenizer: Path, model: Path) -> Vocabulary:
    """Of one input; no tokens where its folder has no tokenizer.json."""
    definition = _json(tokenizer / "tokenizer.json") or {}
    try:
        tokens = read_tokens(definition) if definition else {}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{tokenizer / 'tokenizer.json'} is no tokenizer's: {error}"
        raise StudyError(at(name), message, exit_code=Exit.PREFLIGHT_REFUSED) from error
    config = _json(model / "config.json") or {}
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size") or 0
    if not isinstance(rows, int):
        message = f"{model / 'config.json'}: vocab_size must be a whole number, got {rows!r}"
        raise StudyError(at(name), message, exit_code=Exit.PREFLIGHT_REFUSED)
    if tokens and rows and max(tokens.values()) >= rows:
        message = f"its tokenizer has {max(tokens.values()) + 1} tokens and its model {rows} rows for them"
        raise StudyError(at(name), message, exit_code=Exit.PREFLIGHT_REFUSED)
    return Vocabulary(name, tokens, rows, definition)


def by_token(source: Source, vocabulary: Vocabulary) -> list[str]:
    """The tensors that have a row for each token."""
    rows = vocabulary.num_rows
    return [name for name, info in source.tensors.items() if info.shape[:1] == (rows,) and BY_TOKEN.search(name)]


def write_tokenizer(matched: Matched, prepared: Path) -> None:
    """The result's tokenizer.json, and its number of rows in config.json.

    StudyError where the tokenizers library does not read it the way it is meant.
    """
    path = prepared / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    owner = config if "vocab_size" in config or "text_config" not in config else config["text_config"]
    owner["vocab_size"] = matched.num_rows
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if matched.definition is None:
        return
    from tokenizers import Tokenizer

    text = json.dumps(matched.definition, ensure_ascii=False, indent=2)
    made = Tokenizer.from_str(text)
    expected = read_tokens(matched.definition)
    wrong = [token for token, row in expected.items() if made.token_to_id(token) != row]
    if wrong:
        cure = "use vocabulary: base"
        raise StudyError(at("vocabulary"), f"no tokenizer holds all tokens: {wrong[0]!r} would move; {cure}")
    (prepared / "tokenizer.json").write_text(text, encoding="utf-8")


def read_tokens(definition: Mapping[str, Any]) -> Tokens:
    """Token → id, of a tokenizer.json."""
    known = definition["model"]["vocab"]
    tokens = {token: row for row, (token, _) in enumerate(known)} if isinstance(known, list) else dict(known)
    return tokens | {one["content"]: one["id"] for one in definition.get("added_tokens") or ()}


def _rows_of(one: Vocabulary, tokens: Tokens, total: int) -> Ids:
    """(total,) the row of this model for each of the result's; −1 where it has none."""
    rows = np.full(total, -1, np.int64)
    for token, row in tokens.items():
        rows[row] = one.tokens.get(token, -1)
    return rows


def _plan(name: str, tensors: Sequence[str], sources: Mapping[str, Source], rows: Mapping[str, Ids]) -> dict[str, Rows]:
    """Tensor → where each row comes from: of a token that this model lacks, the first model's that has it, so that the
    two do not differ."""
    planned = {}
    for tensor in tensors:
        names = [name, *(other for other in sources if other != name and tensor in sources[other].tensors)]
        runs = _runs(names, tensor, sources, rows)
        as_it_is = len(runs) == 1 and runs[0][:2] == (sources[name], 0)
        if not as_it_is or sources[name].tensors[tensor].shape[0] != runs[0][2]:
            planned[tensor] = Rows(runs)
    return planned


def _runs(
    names: Sequence[str], tensor: str, sources: Mapping[str, Source], rows: Mapping[str, Ids]
) -> tuple[tuple[Source, int, int], ...]:
    """Runs of rows, each of the first of `names` that has it; StudyError for one that none has."""
    owner = np.full(len(rows[names[0]]), -1)
    row = np.full(len(rows[names[0]]), -1)
    for number, other in enumerate(names):
        new = (owner < 0) & (rows[other] >= 0)
        owner[new], row[new] = number, rows[other][new]
    if (owner < 0).any():
        message = (
            f"the result has {len(owner)} rows for tokens, and {tensor} has none for row {int(np.argmin(owner))}: some "
            "model lacks that tensor, and those that have it lack the row; give all models the tensor"
        )
        raise StudyError(at("vocabulary"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    joins = (owner[1:] == owner[:-1]) & (row[1:] == row[:-1] + 1)
    starts = np.flatnonzero(np.concatenate(([True], ~joins)))
    ends = np.append(starts[1:], len(owner))
    return tuple((sources[names[owner[a]]], int(row[a]), int(b - a)) for a, b in zip(starts, ends, strict=True))


def _united(first: Vocabulary, others: Sequence[Vocabulary]) -> tuple[Tokens, dict[str, int]]:
    """The first's tokens and then each other's new ones, in the order of their ids."""
    tokens, added = dict(first.tokens), {}
    free = max(tokens.values()) + 1
    for other in others:
        new = sorted((row, token) for token, row in other.tokens.items() if token not in tokens)
        for _, token in new:
            tokens[token] = free
            free += 1
        if new:
            added[other.name] = len(new)
    return tokens, added


def _united_definition(first: Vocabulary, others: Sequence[Vocabulary], tokens: Tokens, key: str) -> dict[str, Any]:
    """tokenizer.json of the first with all tokens, and with all merges where it has those.

    Tokens that were added to a tokenizer are listed in its vocabulary, too: the library numbers them itself otherwise.
    """
    kinds = {one.definition["model"].get("type") for one in (first, *others)}
    if len(kinds) > 1:
        cure = "use vocabulary: base"
        raise StudyError(at(key), f"their tokenizers are of different kinds ({', '.join(map(str, kinds))}); {cure}")
    definition: dict[str, Any] = json.loads(json.dumps(first.definition))
    model = definition["model"]
    model["vocab"] = _united_scores(first, others, tokens, key) if isinstance(model["vocab"], list) else tokens
    special = {one["content"] for one in definition.get("added_tokens") or ()}
    for other in others:
        for one in other.definition.get("added_tokens") or ():
            if one["content"] not in special and one["content"] not in first.tokens:
                special.add(one["content"])
                definition.setdefault("added_tokens", []).append({**one, "id": tokens[one["content"]]})
        if "merges" in model:
            known = {_pair(merge) for merge in model["merges"]}
            model["merges"] += [merge for merge in other.definition["model"]["merges"] if _pair(merge) not in known]
    if "merges" in model:
        model["merges"] = [list(_pair(merge)) for merge in model["merges"]]
    return definition


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _united_scores(first: Vocabulary, others: Sequence[Vocabulary], tokens: Tokens, key: str) -> list[list[Any]]:
    """A unigram model's list, whose order is the ids: [[token, score]]."""
    scores = {token: score for one in (*reversed(others), first) for token, score in one.definition["model"]["vocab"]}
    listed = sorted(tokens, key=lambda token: tokens[token])
    if [tokens[token] for token in listed] != list(range(len(listed))):
        raise StudyError(at(key), "the base's tokenizer leaves ids out, which its list cannot; use vocabulary: base")
    return [[token, scores.get(token, 0.0)] for token in listed]


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{path} is no JSON: {error}"
        raise StudyError(at(path.name), message, exit_code=Exit.PREFLIGHT_REFUSED) from error
    return found if isinstance(found, dict) else None
