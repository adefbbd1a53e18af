"""Asking a judge over HTTP: several at once, again after what may pass, and never for longer than was said.

Source of the request's form: OpenAI, API reference, "Create chat completion", which vLLM, SGLang, llama.cpp, Ollama and
most providers follow.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import aiohttp

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.judge import Judge
from tunestudy.data.fetch.download import retry_after_s
from tunestudy.records.redact import HIDDEN, redact

T = TypeVar("T")

PASSING = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 after which the same request may succeed."""

LONGEST_PAUSE_S = 60.0

SHOWN = 160
"""Characters of a reply that an error shows."""

REMINDER = "Your last reply was no such JSON. Reply with the JSON object alone."


class NoReplyError(Exception):
    """What became of a request that was given up; `passing`: another attempt may succeed."""

    def __init__(self, message: str, *, passing: bool = False, wait_s: float | None = None) -> None:
        self.passing, self.wait_s = passing, wait_s
        super().__init__(message)


@dataclass(frozen=True)
class Reply(Generic[T]):
    """A judge's reply, and what was read in it."""

    text: str
    value: T


class Client:
    """Connections to one judge; an asynchronous context."""

    def __init__(self, judge: Judge) -> None:
        """StudyError when the key's variable is not set."""
        self._judge = judge
        self._key = _key_of(judge)
        self._turn = asyncio.Semaphore(judge.concurrency)
        self._session: aiohttp.ClientSession | None = None
        self.has_replied = False
        """Whether it has said anything at all."""
        self._silent = 0
        """Attempts that met with silence: no connection, or no reply in time."""

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(total=self._judge.timeout_s)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, prompt: str, read: Callable[[str], T]) -> Reply[T]:
        """The judge's reply; `read` raises ValueError for one that cannot be used. Raises NoReplyError."""
        messages = [{"role": "user", "content": prompt}]
        problem = NoReplyError("not asked, as no request before was answered")
        for attempt in range(self._judge.max_retries + 1):
            try:
                async with self._turn:
                    if self._is_gone():
                        break
                    text = await self._post(messages)
                return Reply(text, read(text))
            except ValueError as error:
                problem = NoReplyError(self._plain(f"a reply that cannot be read ({error})"), passing=True)
                messages = [messages[0], {"role": "user", "content": REMINDER}]
            except NoReplyError as error:
                problem = error
            if not problem.passing or attempt == self._judge.max_retries:
                break
            pause = self._judge.backoff_s * 2**attempt if problem.wait_s is None else problem.wait_s
            await asyncio.sleep(min(pause, LONGEST_PAUSE_S))
        raise problem

    def _is_gone(self) -> bool:
        """Whether it has been silent for so long that asking on would only cost hours of timeouts."""
        return not self.has_replied and self._silent >= self._judge.concurrency * (self._judge.max_retries + 1)

    async def _post(self, messages: list[dict[str, str]]) -> str:
        """One attempt. Raises NoReplyError, and ValueError for a reply of another form."""
        assert self._session is not None
        body: dict[str, Any] = {"model": self._judge.model, "messages": messages}
        if self._judge.temperature is not None:
            body["temperature"] = self._judge.temperature
        try:
            async with self._session.post(self._judge.endpoint, json=body, allow_redirects=False) as response:
                text = await response.text(errors="replace")
                if response.status != 200:
                    raise NoReplyError(
                        self._plain(f"HTTP {response.status}: {text}"),
                        passing=response.status >= 500 or response.status in PASSING,
                        wait_s=retry_after_s(response.headers.get("Retry-After", "")),
                    )
        except TimeoutError:
            self._silent += 1
            raise NoReplyError(f"no reply within {self._judge.timeout_s:g} s", passing=True) from None
        except aiohttp.ClientConnectorError:
            self._silent += 1
            raise NoReplyError("no connection", passing=True) from None
        except aiohttp.ClientError as error:
            raise NoReplyError(f"the connection broke off ({type(error).__name__})", passing=True) from None
        self.has_replied = True
        return self._without_key(_content(text))

    def _plain(self, message: str) -> str:
        """On one line, short, and without anything secret: a server may send back what it was sent."""
        line = " ".join(redact(self._without_key(message)).split())
        return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, HIDDEN) if self._key else text


def _content(body: str) -> str:
    """The text of the first choice. Raises ValueError."""
    import json

    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, TypeError, LookupError):
        raise ValueError(f"no chat completion: {body}") from None
    if not isinstance(content, str):
        raise ValueError(f"no text: {body}")
    return content


def _key_of(judge: Judge) -> str:
    if judge.api_key_env is None:
        return ""
    key = os.environ.get(judge.api_key_env, "").strip()
    if not key:
        message = f"the environment variable {judge.api_key_env} is not set where the job runs; export the judge's key"
        raise StudyError(at("benchmarks.judge.api_key_env"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    return key
