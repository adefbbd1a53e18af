"""Public benchmarks in a study file: short forms written out, types by their names, and the data that they need.

benchmarks: [chartqa, mmbench_ko]             # their own public data
benchmarks:
  charts: {type: chartqa, dataset: my_charts} # records of your own in the same columns
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tunestudy.config.benchmark import OWN, PublicBenchmark
from tunestudy.config.definition import Definition, definition, names
from tunestudy.config.errors import StudyError
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.plain import shown
from tunestudy.study.source import KeyPath, Source

OTHER_NAMES = {
    "mmb_en": "mmbench_en",
    "mmb_ko": "mmbench_ko",
    "mmbench_dev_en": "mmbench_en",
    "mmbench_en_dev": "mmbench_en",
    "mmbench_ko_dev": "mmbench_ko",
    "k_mmbench": "mmbench_ko",
    "kmmbench": "mmbench_ko",
    "k_dtc_bench": "k_dtcbench",
    "kdtcbench": "k_dtcbench",
    "infographicvqa": "infovqa",
    "info_vqa": "infovqa",
    "doc_vqa": "docvqa",
    "chart_qa": "chartqa",
    "text_vqa": "textvqa",
    "wikitablequestions": "wtq",
    "tab_fact": "tabfact",
    "ocr_bench": "ocrbench",
    "math_vista": "mathvista",
    "math_verse": "mathverse",
}
"""What benchmarks are called elsewhere → their name here."""

GENERATED = ("synth", "digits")
"""Types of data sets that are small enough for `--tiny` as they are."""


def benchmark_named(written: str) -> str | None:
    """The name of the public benchmark that is meant by exactly this spelling, whatever its case and dashes."""
    folded = written.strip().lower().replace("-", "_")
    found = OTHER_NAMES.get(folded, folded)
    return found if found in names() else None


def write_out_short_form(source: Source) -> None:
    """`benchmarks: [chartqa, mmbench_ko]` → one entry for each, under its name, in place.

    Raises StudyError for an item that is no name, or stands twice.
    """
    listed = source.values.get("benchmarks")
    if not isinstance(listed, list):
        return
    entries: dict[str, Any] = {}
    for index, item in enumerate(listed):
        here: KeyPath = ("benchmarks", index)
        if not isinstance(item, str):
            cure = "to set options, write `benchmarks: {name: {type: …}}`"
            raise StudyError(source.place(here), f"a list holds names of public benchmarks, got {shown(item)}; {cure}")
        name = benchmark_named(item) or item
        if name in entries:
            raise StudyError(source.place(here), f"`{name}` stands twice")
        entries[name] = {"type": item}
        source.moved(here, ("benchmarks", name))
        source.moved(here, ("benchmarks", name, "type"))
    source.values["benchmarks"] = entries


def translate_types(source: Source) -> list[str]:
    """Names of benchmarks as others write them → ours, in place; one printable line for each."""
    printed = []
    for name, entry in _entries(source):
        written = entry.get("type")
        ours = benchmark_named(written) if isinstance(written, str) and written not in OWN else None
        if ours is not None and ours != written:
            entry["type"] = ours
            printed.append(f"{source.place(('benchmarks', name, 'type'))}: {written} → {ours}")
    return printed


def unknown_types(source: Source) -> Iterator[StudyError]:
    """Benchmarks of a type that there is none of, with the nearest that there is."""
    known = (*OWN, *names())
    for name, entry in _entries(source):
        written = entry.get("type")
        if isinstance(written, str) and written not in known:
            cure = did_you_mean(written, (*known, *OTHER_NAMES))
            yield StudyError(source.place(("benchmarks", name, "type")), f"there is no type `{written}`; {cure}")


def supply_data(source: Source, *, tiny: bool, small: Mapping[str, Any]) -> list[StudyError]:
    """Give every public benchmark without a data set its own public one, in place; returns what cannot be given.

    tiny: benchmarks read the small generated set of their definition in place of data that have no small form.
    small: the file's `tiny:`, whose own entries are left alone.
    """
    told = []
    for name, entry in list(_entries(source)):
        kind = entry.get("type")
        if not isinstance(kind, str) or kind not in names():
            continue
        if tiny and not _is_small(source, name, entry, small):
            given = tiny_data(definition(kind))
        elif entry.get("dataset") is None:
            given = public_data(definition(kind))
        else:
            continue
        if given is None:
            told.append(StudyError(source.place(("benchmarks", name)), _without_data(kind, tiny=tiny)))
            continue
        before = entry.get("dataset")
        entry["dataset"] = _added(source, name, kind, given)
        source.moved(("benchmarks", name), ("benchmarks", name, "dataset"))
        if isinstance(before, str):
            _drop_unused(source, before.partition("@")[0])
    return told


def public_data(of: Definition) -> dict[str, Any] | None:
    """The data set of a study that holds a benchmark's public records; None where they are on no hub."""
    return None if of.data is None else {"type": "hub", **of.data.model_dump(exclude_none=True)}


def tiny_data(of: Definition) -> dict[str, Any] | None:
    """The data set that is drawn in a benchmark's columns."""
    return {"type": "synth", **of.tiny} if of.tiny else None


def text_only(study: Study, model_type: str | None, sizes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Benchmarks with images that a model without eyes would be asked: (name, message).

    model_type, sizes: the model's, as far as its configuration is at hand.
    """
    if model_type is None or model_type in SEEING or "vision_config" in sizes:
        return
    for name, benchmark in study.benchmarks.items():
        if (
            isinstance(benchmark, PublicBenchmark)
            and benchmark.definition.images
            and not benchmark.definition.instead_of_images
        ):
            yield name, f"{benchmark.type} shows images, and this study's model ({model_type}) takes none"


SEEING = ("internvl", "gemma3", "qwen3_vl")
"""Architectures that take images, as `models/vision/` has them."""


def curve_warnings(study: Study) -> list[str]:
    """Benchmarks that ask for checkpoints of stages that keep next to none."""
    asked = [name for name, benchmark in study.benchmarks.items() if benchmark.checkpoints]
    trained = [variant.stages for variant in study.variants.values() if variant.stages]
    last = {list(stages)[-1]: list(stages.values())[-1] for stages in trained}
    return [
        f"{', '.join(asked)} of checkpoints: after `{name}` only its last and best are left; "
        "`drop_intermediate: false` and a larger `save_total_limit` keep more"
        for name, stage in last.items()
        if asked and isinstance(stage, TrainStage) and stage.drop_intermediate
    ]


def _entries(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    section = source.values.get("benchmarks")
    for name, entry in section.items() if isinstance(section, dict) else ():
        if isinstance(entry, dict):
            yield name, entry


def _is_small(source: Source, name: str, entry: Mapping[str, Any], small: Mapping[str, Any]) -> bool:
    """Whether a benchmark's data are already what the small study should read."""
    written = entry.get("dataset")
    if not isinstance(written, str):
        return False
    dataset = written.partition("@")[0]
    known = (source.values.get("datasets") or {}).get(dataset)
    generated = isinstance(known, dict) and known.get("type") in GENERATED
    return generated or dataset in (small.get("datasets") or {}) or name in (small.get("benchmarks") or {})


def _added(source: Source, name: str, kind: str, given: dict[str, Any]) -> str:
    """The name of the study's data set of this content, which is added unless it is there."""
    if not isinstance(source.values.get("datasets"), dict):
        source.values["datasets"] = {}
    datasets = source.values["datasets"]
    free = next(one for one in _names_for(kind) if datasets.get(one, given) == given)
    datasets[free] = given
    source.moved(("benchmarks", name), ("datasets", free))
    return free


def _names_for(kind: str) -> Iterator[str]:
    yield from (kind, f"benchmark-{kind}")
    number = 2
    while True:
        yield f"benchmark-{kind}-{number}"
        number += 1


def _drop_unused(source: Source, dataset: str) -> None:
    """Take a data set out that only a benchmark read: the small study does without, and it need not be there."""
    values = source.values
    places = [values.get(key) for key in ("benchmarks", "defaults", "stages", "variants")]
    if not any(_mentions(place, dataset) for place in places):
        (values.get("datasets") or {}).pop(dataset, None)


def _mentions(value: Any, dataset: str) -> bool:
    if isinstance(value, str):
        return value.partition("@")[0] == dataset
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_mentions(one, dataset) for one in inner)


def _without_data(kind: str, *, tiny: bool) -> str:
    if tiny:
        return f"{kind} has no small generated set; give it a `dataset` under `tiny.benchmarks`"
    return f"`dataset` is missing: the records of {kind} are on no hub; give them as a data set of the study"
