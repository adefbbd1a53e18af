"""Keeping tokens out of everything that is written: logs, snapshots, manifests, reports."""

import os
import re
from collections.abc import Callable
from typing import Any

HIDDEN = "[hidden]"

_TOKEN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{16,}                       # Hugging Face
      | sk-[A-Za-z0-9_-]{16,}                     # OpenAI and those that follow it
      | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
      | glpat-[A-Za-z0-9_-]{16,}
      | AKIA[0-9A-Z]{16}
      | xox[abprs]-[A-Za-z0-9-]{10,}
    )""",
    re.VERBOSE,
)
_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/\s:@]+(?::[^/\s@]*)?(?=@)")
_SECRET_NAME = re.compile(r"(?i)(token(?!iz)|secret|password|passwd|api_?key|credential|private_?key)")
_HEX_40 = re.compile(r"^[0-9a-f]{40}$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name usually holds a secret."""
    return bool(_SECRET_NAME.search(name))


def find_tokens(text: str, *, key: str = "") -> list[str]:
    """Tokens in `text`. 40 hex digits count only under a `key` named like a secret: elsewhere they are a revision."""
    found = [match.group() for match in _TOKEN.finditer(text)]
    found += [match.group() for match in _CREDENTIALS_IN_URL.finditer(text) if ":" in match.group()]
    if is_secret_name(key) and _HEX_40.match(text.strip()):
        found.append(text.strip())
    return found


def redact(text: str) -> str:
    """`text` without tokens, credentials in URLs, and values of this process's secret variables."""
    return _without(text, _environment_secrets())


def _without(text: str, secrets: list[str]) -> str:
    for value in secrets:
        text = text.replace(value, HIDDEN)
    return _CREDENTIALS_IN_URL.sub(HIDDEN, _TOKEN.sub(HIDDEN, text))


def redact_tree(value: Any) -> Any:
    """`redact` on every text inside dicts and lists, keys included."""
    return redactor()(value)


def redactor() -> Callable[[Any], Any]:
    """`redact_tree` for thousands of calls in a row: it looks for secrets in the environment now, and never again."""
    secrets = _environment_secrets()
    return lambda value: _tree_without(value, secrets)


def _tree_without(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _without(value, secrets)
    if isinstance(value, dict):
        return {_tree_without(key, secrets): _tree_without(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tree_without(item, secrets) for item in value]
    return value


def _environment_secrets() -> list[str]:
    values = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= 8}
    return sorted(values, key=len, reverse=True)
