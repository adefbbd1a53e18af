"""One canonical record, whatever format it came in."""

import hashlib
import json
from dataclasses import dataclass, replace

from tunestudy.data.images import ImageBytes

Message = dict[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True)
class Example:
    """A canonical record: a conversation, or a prompt with its completion, or text."""

    messages: tuple[Message, ...] = ()
    num_context: int = 0
    """Messages at the start that are never targets (the prompt of a conversational prompt/completion)."""
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    choices: tuple[str, ...] = ()
    images: tuple[ImageBytes, ...] = ()
    """In the order of their marks in the text."""
    rationale: str | None = None
    """What is learnt in front of the answer, with its separator; no part of the answer, nor of what the record is."""

    def as_learnt(self) -> "Example":
        """With the rationale written in front of the completion, or of the last assistant turn."""
        if self.rationale is None:
            return self
        if self.completion is not None:
            return replace(self, completion=self.rationale + self.completion, rationale=None)
        last = max(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        answer = {**self.messages[last], "content": self.rationale + self.messages[last]["content"]}
        return replace(self, messages=(*self.messages[:last], answer, *self.messages[last + 1 :]), rationale=None)

    @property
    def reference(self) -> str:
        """The answer: the completion, or the last assistant turn."""
        if self.completion is not None:
            return self.completion
        answers = [message["content"] for message in self.messages if message["role"] == "assistant"]
        return answers[-1] if answers else ""

    def content_hash(self) -> bytes:
        """128 bits over prompts and answers; system prompts do not make a record another one."""
        turns = [[m["role"], m["content"].strip()] for m in self.messages if m["role"] != "system"]
        parts = [turns, self.prompt, self.completion, self.text]
        parts += [image.sha256 for image in self.images]
        return hashlib.blake2b(json.dumps(parts, ensure_ascii=False).encode(), digest_size=16).digest()
