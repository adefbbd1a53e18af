"""What synthetic image-text data are: kinds, tasks, sizes, languages; without any drawing, so that plans can check."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tunestudy.config.base import Config, neutral

SynthKind = Literal["chart", "document", "table", "shapes"]
SynthLanguage = Literal["en", "ko", "both"]
ChartType = Literal["bar", "line", "pie"]
SynthShape = Literal[
    "plain",
    "chartqa",
    "docvqa",
    "infovqa",
    "textvqa",
    "ocrbench",
    "mathvista",
    "mathverse",
    "charxiv",
    "wtq",
    "tabfact",
    "mmbench",
    "kdtc",
    "blink",
]

TASKS: dict[SynthKind, dict[str, int]] = {
    "chart": {"value": 56, "argmax": 56, "argmin": 56, "comparison": 56, "difference": 56, "count": 56},
    "document": {"ocr": 56, "line": 56, "field": 112},
    "table": {"lookup": 112, "superlative": 112, "count": 112, "sum": 112, "statement": 112},
    "shapes": {"position": 28, "count": 28, "colour": 28, "size": 28, "depth": 28, "claim": 28},
}
"""Tasks of each kind → the smallest image side in pixels at which they can be drawn legibly."""

WITHOUT_CHOICES = frozenset({"ocr", "comparison", "statement", "claim"})
"""Tasks that are always open or yes/no, whatever `answer_form` says."""

CHART_TYPES: dict[ChartType, int] = {"bar": 56, "line": 56, "pie": 112}
"""Types of charts → the smallest image side."""

ITEMS: dict[SynthKind, tuple[int, int, int, int]] = {
    "chart": (3, 6, 14, 12),
    "document": (3, 8, 12, 40),
    "table": (4, 8, 15, 20),
    "shapes": (2, 5, 7, 12),
}
"""Usual fewest and most items, pixels of the image's side that each of them takes, most whatever the size."""

SMALLEST_UNPRINTED = 112
FEWEST_ITEMS = 2


class SynthSettings(Config):
    """Images with questions whose answers are known exactly, drawn when they are read.

    Record i is a pure function of these settings, i, and the font; no file is read but the font's.
    """

    kind: SynthKind
    """What images show."""
    count: int = Field(gt=0)
    """Records. A longer set begins with the records of a shorter one."""
    seed: int = 0
    """Another one draws other records."""
    language: SynthLanguage = "en"
    """Of questions, answers and everything written in the image. `both`: `korean_share` of the records are Korean."""
    korean_share: float = Field(0.5, ge=0, le=1)
    """Of `language: both`."""
    image_size: int = Field(448, ge=28, le=4096)
    """Side of the square image in pixels."""
    tasks: tuple[str, ...] = ()
    """Default: all that `image_size` and `answer_form` allow. chart: value, argmax, argmin, comparison, difference,
    count; document: ocr, line, field; table: lookup, superlative, count, sum, statement; shapes: position, count,
    colour, size, depth, claim."""
    answer_form: Literal["open", "choice"] = "open"
    """`choice`: options lettered A, B, …, and the letter is the answer. Tasks answered by yes or no are `open`."""
    num_choices: int = Field(4, ge=2, le=6)
    """Options of `answer_form: choice`."""
    min_items: int | None = Field(None, ge=FEWEST_ITEMS)
    """Fewest bars, points, slices, lines, fields, rows or shapes. Default: chart 3, document 3, table 4, shapes 2."""
    max_items: int | None = Field(None, ge=FEWEST_ITEMS)
    """Most of them; a pie has at most 6. Default: chart 6, document 8, table 8, shapes 5, fewer in small images."""
    charts: tuple[ChartType, ...] = ()
    """Types of charts; default: all that `image_size` allows."""
    print_values: bool = True
    """Write values at bars and points. Otherwise they lie on grid lines and are read from the axis; pies always say."""
    font: str | None = None
    """A TrueType or OpenType file, relative to the study file; default: one that this system has for the language."""
    num_workers: int = neutral(1, ge=1)
    """Processes that draw; the records are the same for any number."""

    @property
    def chosen_tasks(self) -> tuple[str, ...]:
        """The tasks named, or all that can be drawn and asked."""
        return self.tasks or tuple(
            task
            for task, smallest in TASKS[self.kind].items()
            if smallest <= self.image_size and not (self.answer_form == "choice" and task in WITHOUT_CHOICES)
        )

    @property
    def chosen_charts(self) -> tuple[ChartType, ...]:
        """The types of charts named, or all that can be drawn."""
        return self.charts or tuple(name for name, smallest in CHART_TYPES.items() if smallest <= self.image_size)

    @property
    def items(self) -> tuple[int, int]:
        """Fewest and most items of an image."""
        fewest, most, _, _ = ITEMS[self.kind]
        most = self.max_items or max(min(most, self._room), self.min_items or FEWEST_ITEMS)
        return self.min_items or min(fewest, most), most

    @property
    def languages(self) -> tuple[Literal["en", "ko"], ...]:
        """The languages that can occur."""
        if self.language == "both":
            return ("en", "ko")
        return (self.language,)

    @property
    def draws_text(self) -> bool:
        """Whether images depend on a font."""
        return self.kind != "shapes"

    @property
    def _room(self) -> int:
        """How many items an image of this size can hold."""
        _, _, pixels, limit = ITEMS[self.kind]
        return min(limit, self.image_size // pixels)

    @model_validator(mode="after")
    def _tasks_can_be_asked(self) -> Self:
        for task in self.tasks:
            if task not in TASKS[self.kind]:
                raise ValueError(f"tasks: {self.kind} has no {task}; it has {', '.join(TASKS[self.kind])}")
            if self.answer_form == "choice" and task in WITHOUT_CHOICES:
                raise ValueError(f"tasks: {task} cannot be asked with choices; use `answer_form: open`")
            if TASKS[self.kind][task] > self.image_size:
                raise ValueError(f"image_size: {task} needs at least {TASKS[self.kind][task]} pixels")
        if not self.chosen_tasks:
            needed = min(TASKS[self.kind].values())
            raise ValueError(f"image_size: a {self.kind} needs at least {needed} pixels, not {self.image_size}")
        return self

    @model_validator(mode="after")
    def _items_can_be_drawn(self) -> Self:
        fewest, most = self.items
        if fewest > most:
            raise ValueError(f"min_items: {fewest} is more than max_items ({most})")
        if most > self._room:
            cure = f"an image of {self.image_size} pixels holds at most {self._room}"
            raise ValueError(f"{'max_items' if self.max_items else 'min_items'}: {most} is too many: {cure}")
        return self

    @model_validator(mode="after")
    def _charts_can_be_drawn(self) -> Self:
        if self.kind != "chart":
            if self.charts or not self.print_values:
                raise ValueError("charts and print_values are for `kind: chart` alone")
            return self
        for name in self.charts:
            if CHART_TYPES[name] > self.image_size:
                raise ValueError(f"image_size: a {name} chart needs at least {CHART_TYPES[name]} pixels")
        if not self.print_values and self.image_size < SMALLEST_UNPRINTED:
            raise ValueError(f"image_size: an axis that can be read needs at least {SMALLEST_UNPRINTED} pixels")
        return self


class OutputShape(Config):
    """The columns of a known benchmark, and what of ours fits into them."""

    kinds: tuple[SynthKind, ...]
    tasks: tuple[str, ...] = ()
    """The tasks that fit; empty: all."""
    answer_form: Literal["open", "choice"] | None = None
    """None: either."""
    num_choices: int | None = None
    """None: any number."""


OUTPUT_SHAPES = {
    "plain": OutputShape(kinds=("chart", "document", "table", "shapes")),
    "chartqa": OutputShape(kinds=("chart",), answer_form="open"),
    "docvqa": OutputShape(kinds=("document",), tasks=("line", "field"), answer_form="open"),
    "infovqa": OutputShape(kinds=("chart",), answer_form="open"),
    "textvqa": OutputShape(kinds=("document",), tasks=("line", "field"), answer_form="open"),
    "ocrbench": OutputShape(kinds=("document",), tasks=("line", "field"), answer_form="open"),
    "mathvista": OutputShape(
        kinds=("chart",), tasks=("value", "difference", "count", "comparison"), answer_form="open"
    ),
    "mathverse": OutputShape(
        kinds=("chart",), tasks=("value", "difference", "count", "comparison"), answer_form="open"
    ),
    "charxiv": OutputShape(kinds=("chart",), answer_form="open"),
    "wtq": OutputShape(kinds=("table",), tasks=("lookup", "superlative", "count", "sum"), answer_form="open"),
    "tabfact": OutputShape(kinds=("table",), tasks=("statement",), answer_form="open"),
    "mmbench": OutputShape(kinds=("shapes", "chart", "table", "document"), answer_form="choice", num_choices=4),
    "kdtc": OutputShape(kinds=("document", "table", "chart"), answer_form="choice", num_choices=4),
    "blink": OutputShape(kinds=("shapes",), answer_form="choice"),
}
"""Columns of known benchmarks; `data/synth/columns.py` makes them."""


def fitted(values: dict[str, Any]) -> dict[str, Any]:
    """Options of a data set with `shape`, with what the shape decides filled in. Raises ValueError for what it cannot
    hold; whatever else is wrong with them is found later."""
    name, kind, tasks = values.get("shape", "plain"), values.get("kind"), values.get("tasks", ())
    if name not in tuple(OUTPUT_SHAPES) or kind not in tuple(TASKS) or not isinstance(tasks, tuple):
        return values  # tuples, since a mapping cannot be looked up in a dict
    shape = OUTPUT_SHAPES[name]
    if kind not in shape.kinds:
        raise ValueError(f"kind: {name} is made of {', '.join(shape.kinds)}, not {kind}")
    fixed: dict[str, Any] = {"answer_form": shape.answer_form, "num_choices": shape.num_choices}
    needed = {key: value for key, value in fixed.items() if value is not None}
    for key, value in needed.items():
        if values.get(key, value) != value:
            raise ValueError(f"{key}: {name} needs {value}")
    size = values.get("image_size", SynthSettings.model_fields["image_size"].default)
    if shape.tasks and not tasks and isinstance(size, int):
        needed["tasks"] = tuple(task for task in shape.tasks if TASKS[kind][task] <= size) or shape.tasks
    if shape.tasks and (wrong := [task for task in tasks if task not in shape.tasks]):
        raise ValueError(f"tasks: {name} has no place for {wrong[0]}; it has {', '.join(shape.tasks)}")
    return {**values, **needed}
