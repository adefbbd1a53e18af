"""Which images a record has, and where in its text each belongs.

Images stand in the columns `image` (one) or `images` (a list), or inside the parts of a message's content. Their places
are LLaVA's `<image>` markers or those parts; a record without any place has its images before its first question.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tunestudy.data.example import Example, Message
from tunestudy.data.images import IMAGE_MARK, ImageBytes, images_of
from tunestudy.data.rejected import Rejected
from tunestudy.data.sources import Folders

MARKER = re.compile(r"\n?<image>\n?")
"""With the line break that sets it apart from the text: chat templates bring their own."""

COLUMNS = ("image", "images")
OTHER_MEDIA = ("video", "videos", "audio", "audios")
SOURCES = ("image", "path", "bytes", "url", "image_url")
"""Keys under which a content part may name its image."""


def record_images(record: Mapping[str, Any], columns: Mapping[str, str], folders: Folders) -> tuple[ImageBytes, ...]:
    """The images of a record, hashed. columns: field → column. Raises Rejected."""
    found: list[ImageBytes] = []
    for field in COLUMNS:
        value = record.get(columns.get(field, field))
        if value is not None and not (isinstance(value, list | tuple | str) and len(value) == 0):
            found += images_of(value, folders, several=field == "images")
    inline = [image for turns in record.values() for image in _inline(turns, folders)]
    if found and inline:
        raise Rejected("images twice", "both in a column and inside the conversation")
    return tuple(_hashed(image) for image in found or inline)


def _inline(turns: Any, folders: Folders) -> Iterator[ImageBytes]:
    """The images that parts of a conversation's contents name themselves."""
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content") if isinstance(turn, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
                value = next((part[key] for key in SOURCES if part.get(key) is not None), None)
                if isinstance(value, Mapping) and "url" in value:
                    value = value["url"]
                if value is not None:
                    yield from images_of(value, folders, several=False)


def _hashed(image: ImageBytes) -> ImageBytes:
    return image if image.sha256 else replace(image, sha256=hashlib.sha256(image.read()).hexdigest())


def with_images(example: Example, images: tuple[ImageBytes, ...]) -> Example:
    """The example with its images, one mark in its text for each. Raises Rejected where places and images differ."""
    if any(IMAGE_MARK in message["content"] for message in example.messages if message["role"] == "assistant"):
        raise Rejected("images and places differ", "an answer has a place for an image")
    if not images:
        if any(IMAGE_MARK in text for text in _texts(example)):
            raise Rejected("images and places differ", "the text has places for images, the record has none")
        return example
    marked = _each_text(example, lambda text: MARKER.sub(IMAGE_MARK, text))
    count = sum(text.count(IMAGE_MARK) for text in _texts(marked))
    if count == 0:
        marked, count = _in_front(marked, IMAGE_MARK * len(images)), len(images)
    if count != len(images):
        raise Rejected("images and places differ", f"{count} places for images in the text, {len(images)} images")
    return replace(marked, images=images)


def _texts(example: Example) -> list[str]:
    """The texts in which images may have their places: all but answers."""
    asked = [message["content"] for message in example.messages if message["role"] != "assistant"]
    return [*asked, *(text for text in (example.prompt, example.text) if text is not None)]


def _each_text(example: Example, change: Any) -> Example:
    def changed(message: Message) -> Message:
        return message if message["role"] == "assistant" else {**message, "content": change(message["content"])}

    return replace(
        example,
        messages=tuple(changed(message) for message in example.messages),
        prompt=None if example.prompt is None else change(example.prompt),
        text=None if example.text is None else change(example.text),
    )


def _in_front(example: Example, marks: str) -> Example:
    """The marks before the first question."""
    if example.prompt is not None:
        return replace(example, prompt=marks + example.prompt)
    if example.text is not None:
        return replace(example, text=marks + example.text)
    first = next((i for i, message in enumerate(example.messages) if message["role"] == "user"), None)
    if first is None:
        raise Rejected("images and places differ", "no user turn to put the images before")
    asked = {**example.messages[first], "content": marks + example.messages[first]["content"]}
    return replace(example, messages=(*example.messages[:first], asked, *example.messages[first + 1 :]))
