"""The words that tables of other programs are written in: what one of their keys becomes in a study.

A rule takes the key's value and a view of the whole configuration, and returns path → value, to write. A path
begins with the part of the study that it belongs to: `study`, `model`, `stage`, `adapter`, `quantization`, `dataset`
(every data set), `resources` or `env`. Two paths hold entries of data sets, `data` and `eval_data`; `impossible` says
what of the value is not carried while the rest is.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tunestudy.study.source import resolve_scalar


class NotNeededError(Exception):
    """The key asks for what a study does anyway, or has no part in it; the text says which."""


class ImpossibleError(Exception):
    """The key has no counterpart; the text says why, and what to do."""


ADAPTER_TO_MERGE = "a stage begins from a whole model: merge the adapter into it first (`tunestudy merge`)"
"""Of an adapter that a configuration begins at."""

Rule = Callable[[Any, "View"], dict[str, Any]]
"""(value, view) → path: value. Raises NotNeededError or ImpossibleError."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A data set of the other program as an entry of `datasets:` and an item of a stage's `data:`."""

    name: str
    values: dict[str, Any]
    weight: float | None = None
    told: tuple[str, ...] = ()
    """What is another way here than there; no reason to refuse."""
    impossible: tuple[tuple[str, str], ...] = ()
    """Keys of its declaration that have no counterpart, with reasons."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One trainer: its keys, its defaults, and what makes its configuration no study."""

    name: str
    title: str
    source: str
    """Where its options are declared, for the documentation."""
    rules: Mapping[str, Rule]
    families: tuple[tuple[str, Rule], ...] = ()
    """(beginning of keys, rule) for groups of options that meet the same fate."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Its own defaults by key, where they matter; a function of the view where they depend on other keys."""
    notes: Callable[["View"], list[str]] = lambda _view: []
    """What to look at, for all that tables know."""
    habits: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    """Path → (value, why): what it does without a key for it, where tunestudy does otherwise."""
    refusal: Callable[["View"], str | None]
    """Why a configuration cannot be a study at all; None when it can."""
    has_adapter: Callable[["View"], bool]
    marks: frozenset[str] = frozenset()
    """Keys that speak of this program though other tables know them, too."""

    def rule_of(self, key: str) -> Rule | None:
        """The rule for a key; None for one that the program does not have."""
        if key in self.rules:
            return self.rules[key]
        return next((rule for start, rule in self.families if key.startswith(start)), None)


@dataclass(frozen=True, kw_only=True)
class View:
    """A configuration as its program understands it: what is given, over the program's defaults."""

    program: Program
    given: Mapping[str, Any]
    """Without the keys that are left empty."""
    gpus: int
    home: Path
    """The folder of the file."""
    target: Path
    """The folder that the study file will be in: paths in it are relative to that."""

    def __getitem__(self, key: str) -> Any:
        """The value of a key, given or by default; None without either."""
        if key in self.given:
            return self.given[key]
        default = self.program.defaults.get(key)
        return default(self) if callable(default) else default

    def on(self, key: str) -> bool:
        """Whether a switch is on, in any of the ways in which YAML files say so."""
        return truth(self[key]) is True

    @cached_property
    def has_adapter(self) -> bool:
        return self.program.has_adapter(self)

    @cached_property
    def is_multimodal(self) -> bool:
        """Whether the model sees images, as far as its name and the keys tell."""
        names = " ".join(
            str(self.given.get(key, "")) for key in ("model_name_or_path", "model", "base_model", "template")
        )
        return bool(_SEES.search(names)) or any(key in self.given for key in _OF_IMAGES)

    def found(self, written: str) -> Path | None:
        """A file or folder that the configuration names, looked for as its program would: from the folder of the file
        and those above it (where the program's own repository may be), then from here."""
        if "\n" in written or len(written) > 1000:
            return None
        places = (self.home, *list(self.home.resolve().parents)[:4], Path.cwd())
        return next((place / written for place in places if (place / written).exists()), None)


_SEES = re.compile(
    r"(?i)vl\b|[-_]vl[-_]|vision|llava|internvl|idefics|paligemma|pixtral|smolvlm|minicpm-v|omni|gemma-3-(?:4|12|27)b"
)
_OF_IMAGES = frozenset(
    [
        "image_max_pixels",
        "max_pixels",
        "processor_type",
        "freeze_vit",
        "freeze_aligner",
        "freeze_vision_tower",
        "vit_lr",
        "aligner_lr",
        "freeze_multi_modal_projector",
        "freeze_mm_modules",
        "env.MAX_PIXELS",
    ]
)


def truth(value: Any) -> bool | None:
    """true and false in the spellings of YAML 1.1 and of command lines; None for what is neither."""
    if isinstance(value, str):
        return {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False}.get(
            value.lower()
        )
    return bool(value) if isinstance(value, bool) or value in (0, 1) else None


def plain(value: Any) -> Any:
    """A number that was written as text, as command lines and YAML 1.1 have `1e-4`; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,3}(?:_\d{3})+", value):
        return int(value.replace("_", ""))
    resolved = resolve_scalar(value) if isinstance(value, str) and value else value
    return resolved if isinstance(resolved, int | float) else value


def listed(value: Any) -> list[Any]:
    """A list, also of what is written as one text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, list) else [value]


def to(path: str) -> Rule:
    """The same under another name."""
    return lambda value, _view: {path: plain(value)}


def switch(on: dict[str, Any], off: dict[str, Any] | None = None) -> Rule:
    """true and false mean these; `off=None`: false asks for nothing."""

    def rule(value: Any, _view: View) -> dict[str, Any]:
        state = truth(value)
        if state is None:
            raise ImpossibleError("must be true or false")
        if not state and off is None:
            raise NotNeededError("switched off")
        return on if state else off or {}

    return rule


def words(path: str, known: Mapping[Any, Any], cure: str = "") -> Rule:
    """One of these values means one of ours; others have no counterpart."""

    def rule(value: Any, _view: View) -> dict[str, Any]:
        if value not in known:
            raise ImpossibleError(f"there is no {value} here; {cure or 'known are ' + ', '.join(map(str, known))}")
        return {path: known[value]}

    return rule


def idle(reason: str) -> Rule:
    """Not needed, whatever its value."""

    def rule(_value: Any, _view: View) -> dict[str, Any]:
        raise NotNeededError(reason)

    return rule


OFF: tuple[Any, ...] = (False, None, "none", "None", "no", "false", "False", 0, "", "disabled", [], {})


def cannot(reason: str, *, unless: Collection[Any] = OFF) -> Rule:
    """Impossible, unless the value asks for nothing."""

    def rule(value: Any, _view: View) -> dict[str, Any]:
        if any(type(value) is type(none) and value == none for none in unless):
            raise NotNeededError("asks for what is so anyway")
        raise ImpossibleError(reason)

    return rule


def of_adapter(rule: Rule) -> Rule:
    """Only with an adapter."""

    def within(value: Any, view: View) -> dict[str, Any]:
        if not view.has_adapter:
            raise NotNeededError("there is no adapter")
        return rule(value, view)

    return within


def when(key: str, rule: Rule) -> Rule:
    """Only while another switch is on."""

    def within(value: Any, view: View) -> dict[str, Any]:
        if not view.on(key):
            raise NotNeededError(f"{key} is off")
        return rule(value, view)

    return within


def few_bits(width: int, *, held: Callable[[View], str], cure: str) -> Rule:
    """A switch for weights in 4 or 8 bits. held: the type to compute in; cure: how this program gets an adapter."""

    def rule(value: Any, view: View) -> dict[str, Any]:
        if not truth(value):
            raise NotNeededError("switched off")
        if not view.has_adapter:
            raise ImpossibleError(f"weights in few bits cannot be trained in full; {cure}")
        compute = {"quantization.bnb_4bit_compute_dtype": held(view)} if width == 4 else {}
        return {f"quantization.load_in_{width}bit": True, **compute}

    return rule
