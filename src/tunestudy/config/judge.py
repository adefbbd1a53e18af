"""A language model that judges answers: where it is, and what it is asked.

What it is asked is one YAML file per metric in `config/judge_prompts/` (`default` for all others), and part of a
score's fingerprint like the judge's name.
"""

import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from tunestudy.config.base import Config, neutral

HOME = Path(__file__).parent / "judge_prompts"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JudgePrompts(Config):
    """What a judge is asked about one answer: jinja2 templates over `question`, `options` (a list of (letter, text)),
    `answers`, `response`, and for `score` also `extracted`."""

    version: int = Field(ge=1)
    source: str = neutral("")
    """Whose protocol it follows."""
    extract: str | None = None
    """Asks which answer the response gives; the judge replies `{"answer": …}`, null for none."""
    score: str | None = None
    """Asks whether that answer is right; the judge replies `{"score": 0}` or 1. Without it, the metric's rules say."""
    only_unread: bool = False
    """Only of responses in which the metric's own rules find no answer."""


class Judge(Config):
    """A judge behind an OpenAI-compatible URL."""

    url: str
    """Up to `/v1`; `/chat/completions` is added unless it is there."""
    model: str = Field(min_length=1)
    """As the server names it."""
    temperature: float | None = Field(0.0, ge=0)
    """null: left out of the request, for models that refuse it."""
    api_key_env: str | None = neutral(None)
    """Name of the environment variable that holds the key. The key itself stands in no file."""
    max_retries: int = neutral(4, ge=0)
    """Further attempts after an error, a timeout or a reply that cannot be read."""
    timeout_s: float = neutral(60.0, gt=0)
    """Of one attempt."""
    backoff_s: float = neutral(1.0, ge=0)
    """Pause before the first further attempt; it doubles each time, to a minute, unless the server says how long."""
    concurrency: int = neutral(8, ge=1)
    """Requests at once, of each rank."""
    prompts: JudgePrompts = None  # type: ignore[assignment]  # the benchmark fills in its metric's

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`{value}` is no URL such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("the URL holds credentials or a query; name the key's variable in api_key_env instead")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            raise ValueError("must be the name of an environment variable, such as JUDGE_API_KEY, never the key itself")
        return value

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


@cache
def prompts_of(metric: str) -> JudgePrompts:
    """What a judge is asked where answers are otherwise scored by that metric."""
    import yaml

    own = HOME / f"{metric}.yaml"
    text = (own if own.is_file() else HOME / "default.yaml").read_text(encoding="utf-8")
    return JudgePrompts.model_validate(yaml.safe_load(text))
