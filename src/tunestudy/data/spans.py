"""Which characters of a rendered conversation the assistant said.

Templates with `{% generation %}` tags say so themselves. For the others each answer is found by two renderings: it
starts where the generation prompt before it ends, and it ends where the text that follows it begins, which is found by
putting a marker in its place. This holds for templates that strip white space, drop earlier reasoning or add empty
reasoning blocks; one that renders the prompt differently from the conversation is refused, since a model would be
asked in another form than it was taught.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data.example import Example, Message
from tunestudy.data.images import IMAGE_MARK
from tunestudy.data.rejected import Rejected

Span = tuple[int, int]

MARKER = "\u2402answer\u2403"
"""Stands for an answer while its place is looked for; control pictures do not occur in conversations."""

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, the spans in it that are to be learnt, in order and without overlap, and the text with
    which the template closes an answer (`tail`: the stop token and white space)."""

    text: str
    spans: list[Span]
    tail: str


def answer_spans(tokenizer: Any, example: Example, *, last_only: bool) -> Rendered:
    """Render a conversation and find its answers (without their stop tokens).

    Raises Rejected for a record that the template refuses, StudyError for a tokenizer without a template.
    """
    template = _template(tokenizer)
    messages = list(example.messages)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    asked = [i for i in answers if i >= example.num_context]
    if GENERATION_TAG.search(template):
        text, spans = _tagged(tokenizer, template, messages)
        if len(spans) == len(answers):
            spans = spans[-len(asked) :]
        elif len(asked) < len(answers):
            raise Rejected("unstable chat template", "generation blocks and assistant turns differ in number")
    else:
        text = render(tokenizer, messages)
        spans = [_answer_span(tokenizer, messages, i, text) for i in asked]
    spans = [(start, end) for start, end in spans if end > start]
    if not spans:
        raise Rejected("everything masked", "the chat template renders no assistant turn")
    last = answers[-1]
    tail = render(tokenizer, [*messages[:last], {**messages[last], "content": MARKER}]).rpartition(MARKER)[2]
    return Rendered(text, spans[-1:] if last_only else spans, tail)


def _tagged(tokenizer: Any, template: str, messages: list[Message]) -> tuple[str, list[Span]]:
    """The rendered conversation and its `{% generation %}` blocks."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, spans = render_jinja_template(
            [[in_parts(message) for message in messages]],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
    except Exception as error:
        raise _template_problem(error) from error
    return texts[0], list(spans[0])


def _answer_span(tokenizer: Any, messages: list[Message], i: int, text: str) -> Span:
    """Where answer `i` stands in `text`, the rendering of the whole conversation."""
    prompt = render(tokenizer, messages[:i], add_generation_prompt=True)
    if not text.startswith(prompt):
        raise Rejected(
            "unstable chat template",
            f"the prompt before turn {i + 1} is not how the conversation begins; give a chat_template whose "
            "generation prompt is a prefix, or mark answers with {% generation %}",
        )
    masked = render(tokenizer, [*messages[:i], {**messages[i], "content": MARKER}, *messages[i + 1 :]])
    before, found, after = masked.partition(MARKER)
    start, end = len(prompt), len(text) - len(after)
    if not found or MARKER in after or len(before) < start or not text.endswith(after) or end < start:
        raise Rejected("unstable chat template", f"turn {i + 1} cannot be found in the rendered conversation")
    return start, end


def render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
    """The chat template's text of these messages; an image is whatever it writes for one. Raises Rejected."""
    parts = [in_parts(message) for message in messages]
    try:
        text: str = tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:
        raise _template_problem(error) from error
    return text


def in_parts(message: Message) -> dict[str, Any]:
    """A message in the form of vision-language templates, parts of text and images, if it has images."""
    texts = message["content"].split(IMAGE_MARK)
    if len(texts) == 1:
        return dict(message)
    parts: list[dict[str, str]] = []
    for number, text in enumerate(texts):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return {**message, "content": parts}


def rewritten(rendered: Rendered, old: str, new: str) -> Rendered:
    """The same conversation with `new` wherever the text has `old`; answers stay where they are in it."""
    starts = [match.start() for match in re.finditer(re.escape(old), rendered.text)]
    longer = len(new) - len(old)

    def moved(place: int) -> int:
        return place + longer * sum(start + len(old) <= place for start in starts)

    spans = [(moved(start), moved(end)) for start, end in rendered.spans]
    return Rendered(rendered.text.replace(old, new), spans, rendered.tail)


def _template_problem(error: Exception) -> Exception:
    """A template's own refusal (`raise_exception`) rejects the record; any other error is passed on."""
    from jinja2 import TemplateError

    if isinstance(error, TemplateError):
        return Rejected("refused by the chat template", str(error))
    return error


def _template(tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise StudyError(
            at("model.chat_template"),
            "the data are conversations but the tokenizer has no chat template; give one (a jinja2 text or a path)",
            exit_code=Exit.PREFLIGHT_REFUSED,
        )
    template: str = tokenizer.get_chat_template()
    return template
