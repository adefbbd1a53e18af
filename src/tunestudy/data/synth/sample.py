"""One synthetic sample: an image, a question about it, and the answer that follows from how it was drawn."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from tunestudy.config.synth import SynthKind, SynthSettings
from tunestudy.data.synth.fonts import Fonts, find_fonts

AnswerType = Literal["number", "text", "choice", "yes_no", "ocr"]
Language = Literal["en", "ko"]

VERSION = 1
"""Raised when the same settings give other pixels or other words than before."""

MODULES: dict[SynthKind, str] = {"chart": "charts", "document": "documents", "table": "tables", "shapes": "shapes"}
LETTERS = "ABCDEF"
YES_NO: dict[Language, tuple[str, str]] = {"en": ("yes", "no"), "ko": ("예", "아니요")}
TRUE_FALSE: dict[Language, tuple[str, str]] = {"en": ("true", "false"), "ko": ("참", "거짓")}


@dataclass(frozen=True, slots=True)
class SynthSample:
    """A record with its ground truth; see docs/synth.md for the keys of `truth`."""

    id: str
    image: Image.Image
    """RGB, `image_size` square."""
    question: str
    """Without the options of a choice; `prompt` has them."""
    answer: str
    """What is to be said: of a choice the letter."""
    answer_type: AnswerType
    choices: tuple[str, ...]
    """Texts of the options in order, or the two words of a yes/no question; empty for an open one."""
    category: str
    """`kind.task`."""
    language: Language
    truth: dict[str, Any]
    """The data behind the image, where each part was drawn, and what the question is about."""

    @property
    def prompt(self) -> str:
        """The question, with a line for each option of a choice."""
        if self.answer_type != "choice":
            return self.question
        options = [f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question, *options])

    @property
    def words(self) -> tuple[str, ...]:
        """Every answer that can be given to `prompt`: letters, yes and no; empty for an open question."""
        return tuple(LETTERS[: len(self.choices)]) if self.answer_type == "choice" else self.choices


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a kind's module is to draw and ask."""

    settings: SynthSettings
    language: Language
    task: str
    fonts: Fonts
    rng: random.Random

    @property
    def size(self) -> int:
        return self.settings.image_size

    def num_items(self, at_most: int | None = None) -> int:
        """A number of items within the settings."""
        fewest, most = self.settings.items
        most = min(most, at_most or most)
        return self.rng.randint(min(fewest, most), most)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its answer, open or yes/no; `wrong` is what a choice may offer beside the answer."""

    question: str
    answer: str
    answer_type: AnswerType
    facts: dict[str, Any]
    """What the question is about, in terms of the data: enough to work out the answer again."""
    wrong: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a kind's module gives back."""

    image: Image.Image
    asked: Asked
    truth: dict[str, Any] = field(default_factory=dict)


def sample(settings: SynthSettings, index: int, fonts: Fonts | None = None) -> SynthSample:
    """Record `index`: a pure function of (seed, kind, index), the other settings, and the font.

    `fonts`: `find_fonts(settings, folder)`, to look for them only once.
    """
    fonts = fonts if fonts is not None else find_fonts(settings, Path())
    rng = random.Random(f"{settings.seed}/{settings.kind}/{index}")
    language = _language(settings, rng)
    wanted = Wanted(settings, language, rng.choice(settings.chosen_tasks), fonts, rng)
    drawn: Drawn = import_module(f"tunestudy.data.synth.{MODULES[settings.kind]}").draw(wanted)
    asked = drawn.asked
    if settings.answer_form == "choice":
        asked = _with_choices(asked, settings.num_choices, rng)
    return SynthSample(
        id=f"{settings.kind}-{settings.seed}-{index:07d}",
        image=drawn.image,
        question=asked.question,
        answer=asked.answer,
        answer_type=asked.answer_type,
        choices=asked.choices,
        category=f"{settings.kind}.{wanted.task}",
        language=language,
        truth={**drawn.truth, "task": wanted.task, "asked": asked.facts},
    )


def _language(settings: SynthSettings, rng: random.Random) -> Language:
    if settings.language == "both":
        return "ko" if rng.random() < settings.korean_share else "en"
    return settings.language


def _with_choices(asked: Asked, count: int, rng: random.Random) -> Asked:
    """The answer among wrong ones; its place is drawn before they are, so that it tells nothing."""
    place = rng.randrange(count)
    wrong = [text for text in dict.fromkeys(asked.wrong) if text != asked.answer]
    assert len(wrong) >= count - 1, f"too few wrong answers for {asked.question}"
    options = wrong[: count - 1]
    rng.shuffle(options)
    options.insert(place, asked.answer)
    facts = {**asked.facts, "answer": asked.answer}
    return Asked(asked.question, LETTERS[place], "choice", facts, asked.wrong, tuple(options))


def yes_or_no(
    question: str, holds: bool, facts: dict[str, Any], language: Language, words: Mapping[Language, tuple[str, str]]
) -> Asked:
    """A question that is answered by one of two words."""
    pair = words[language]
    return Asked(question, pair[0 if holds else 1], "yes_no", facts, choices=pair)


def near_numbers(
    value: int, rng: random.Random, *, near: Sequence[int] = (), count: int = 5, least: int = 0
) -> list[int]:
    """`count` wrong numbers from `least` up: first those of the image, then others about as large."""
    found = [other for other in dict.fromkeys(near) if other != value and other >= least]
    rng.shuffle(found)
    reach = max(2 * count, value // 3)
    pool = [other for other in range(max(least, value - reach), value + reach + 1) if other not in (value, *found)]
    return [*found, *rng.sample(pool, min(count, len(pool)))][:count]


def near_counts(number: int, most: int, wanted: Wanted) -> tuple[str, ...]:
    """Wrong answers to how many of `most` there are: with the right one they are numbers in a row, wherever it is."""
    length = wanted.settings.num_choices
    last_start = max(most, length - 1) - length + 1
    start = wanted.rng.randint(max(0, number - length + 1), min(number, last_start))
    return tuple(str(other) for other in range(start, start + length) if other != number)
