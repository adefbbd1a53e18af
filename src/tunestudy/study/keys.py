"""Keys that are unknown or in the wrong place, and sections of the wrong shape."""

from collections.abc import Iterator

from tunestudy.config.errors import StudyError
from tunestudy.study.aliases import known_aliases
from tunestudy.study.nearest import did_you_mean, nearest
from tunestudy.study.plain import shown
from tunestudy.study.source import Source
from tunestudy.study.surface import HOME, KEYS, STAGE_TYPES, Level, mappings, merges, stage_mappings

_ENTRIES = {
    "datasets": "data set",
    "benchmarks": "benchmark",
    "stages": "stage",
    "variants": "variant",
}


_OF_OTHERS_TOO = frozenset().union(*(KEYS[level] for level in KEYS if level not in ("merge", "stage")))
"""Keys whose home may be elsewhere."""


def shape_mistakes(source: Source) -> Iterator[StudyError]:
    """Sections that are no mappings. What comes later relies on there being none."""
    values = source.values
    for key in (
        "defaults",
        "model",
        "resources",
        "report",
        "env",
        "estimate",
        "trackers",
        "alerts",
        "expect",
        *_ENTRIES,
    ):
        if key in values and values[key] is not None and not isinstance(values[key], dict):
            yield StudyError(source.place((key,)), f"must be a mapping of keys, got {shown(values[key])}")
        elif key in values and values[key] is None:
            values[key] = {}
    for key, word in _ENTRIES.items():
        section = values.get(key)
        for name, entry in section.items() if isinstance(section, dict) else ():
            if not isinstance(entry, dict) and not (key == "stages" and entry is None):
                yield StudyError(source.place((key, name)), f"a {word} is a mapping of keys, got {shown(entry)}")
            elif key == "variants":
                yield from _variant_mistakes(source, name)
    if not values.get("variants"):
        yield StudyError(source.place(("variants",)), "`variants:` is missing: each is one row of the final table")


def _variant_mistakes(source: Source, name: str) -> Iterator[StudyError]:
    variant = source.values["variants"][name]
    path = ("variants", name)
    stages = variant.get("stages")
    if "stages" not in variant and "from" not in variant:
        yield StudyError(
            source.place(path), "needs `stages: [first, second]`; `stages: []` is the model as it comes, only evaluated"
        )
    elif stages is not None and not (isinstance(stages, list) and all(isinstance(stage, str) for stage in stages)):
        yield StudyError(source.place((*path, "stages")), f"must be a list of stage names, got {shown(stages)}")
    overrides = variant.get("overrides")
    if overrides is not None and not isinstance(overrides, dict):
        yield StudyError(source.place((*path, "overrides")), f"must map stages to keys, got {shown(overrides)}")
    for stage, entry in overrides.items() if isinstance(overrides, dict) else ():
        if not isinstance(entry, dict):
            yield StudyError(
                source.place((*path, "overrides", stage)),
                f"must hold keys of the stage, e.g. `{stage}: {{learning_rate: 1e-4}}`, got {shown(entry)}",
            )


def unknown_keys(source: Source) -> Iterator[StudyError]:
    """Every key that is not known where it stands."""
    for level, path, mapping in mappings(source.values):
        for key in mapping:
            if key not in KEYS[level]:
                yield StudyError(source.place((*path, key)), f"there is no key `{key}` here; {_cure(key, level)}")


def unknown_stage_types(source: Source) -> Iterator[StudyError]:
    """Types of stages that there are none of, and types where a stage's own entry must say it."""
    for path, stage in stage_mappings(source.values):
        written = stage.get("type")
        if written is None:
            continue
        where = source.place((*path, "type"))
        if written not in STAGE_TYPES:
            yield StudyError(where, f"there is no type {shown(written)}; {did_you_mean(str(written), STAGE_TYPES)}")
        elif path == ("defaults",) and written != "train":
            yield StudyError(where, "`defaults:` are of stages that train; say it in an entry of `stages:`")
        elif path[0] == "variants" and (written == "merge") != merges(source.values, path):
            yield StudyError(where, "a stage trains or merges in all variants alike; write a second one in `stages:`")


SLIP = 0.85
"""Likeness to a key of the same mapping from which that is meant, whatever others are called so elsewhere."""


def _cure(key: str, level: Level) -> str:
    if level == "merge" and key in KEYS["stage"]:
        return f"this stage merges, and takes no steps: `{key}` is of stages that train"
    if level == "stage" and key in KEYS["merge"] and key not in _OF_OTHERS_TOO:
        return f"it belongs {HOME['merge']}; this one trains"
    if slip := nearest(key, KEYS[level], cutoff=SLIP):
        return f"did you mean `{slip}`?"
    homes = [HOME[other] for other in KEYS if other != level and key in KEYS[other] and key != "type"]
    if homes:
        return f"it belongs {' or '.join(homes)}"
    close = nearest(key, KEYS[level] | known_aliases(level))
    if close:
        return f"did you mean `{close}`?"
    for other, keys in KEYS.items():
        elsewhere = nearest(key, keys)
        if elsewhere:
            return f"nearest is `{elsewhere}`, which belongs {HOME[other]}"
    return did_you_mean(key, sorted(KEYS[level]))
