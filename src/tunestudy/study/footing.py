"""Equal footing: differences between variants that make their scores hard to compare, unless they are meant."""

from collections.abc import Callable, Iterator
from typing import Any

from tunestudy.config.order import Curriculum, order_words
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Intent, Study, Variant

_ASPECTS: dict[Intent, tuple[str, Callable[[TrainStage], Any]]] = {
    "effective_batch_size": ("the effective batch size", lambda stage: stage.effective_batch_size),
    "steps": ("how long it trains", lambda stage: _length(stage)),
    "tokens": (
        "how samples become tokens",
        lambda stage: _words(
            max_length=stage.max_length, packing=stage.packing, overlong=stage.overlong, loss_on=stage.loss_on
        ),
    ),
    "data": ("the data", lambda stage: " + ".join(_part(part) for part in stage.data)),
    "order": ("the order of samples", lambda stage: order_words(stage.order)),
    "evaluation": (
        "the evaluation rows",
        lambda stage: _words(
            eval_data="+".join(map(_part, stage.eval_data)) or "held out",
            eval_subset_size=stage.eval_subset_size,
            eval_subset_seed=stage.eval_subset_seed,
        ),
    ),
}


def footing_warnings(study: Study) -> list[str]:
    """One line for each stage and aspect in which variants differ without saying so in `intends:`.

    Stages of one name are compared with each other. A variant that lacks a stage is a point along the way of the
    others and no surprise; the same stage run differently is.
    """
    return [line for stage in _stage_names(study) for line in _stage_warnings(study, stage)]


def _stage_warnings(study: Study, stage: str) -> Iterator[str]:
    for aspect, (words, value_of) in _ASPECTS.items():
        groups: dict[Any, list[str]] = {}
        for name, variant in study.variants.items():
            if stage in variant.training and not _is_meant(aspect, variant):
                groups.setdefault(value_of(variant.training[stage]), []).append(name)
        if len(groups) > 1:
            told = "; ".join(f"{value} in {_names(names)}" for value, names in groups.items())
            yield f"{words} of `{stage}` differs: {told}. If that is meant, say `intends: [{aspect}]` in the variant"


def _is_meant(aspect: Intent, variant: Variant) -> bool:
    """Whether a variant declares the aspect; other data also come in another order."""
    return aspect in variant.intends or (aspect == "order" and "data" in variant.intends)


def seen_rows_warnings(study: Study) -> list[str]:
    """One line for each benchmark or evaluation that scores rows which a stage of the variant trains on.

    `name` in `data:` trains on all but the held-out rows of a data set; scored by its plain name, those come back.
    """
    trained = {
        name: {part.dataset for stage in variant.training.values() for part in stage.data}
        for name, variant in study.variants.items()
    }
    of_benchmarks = [
        _seen_rows(f"benchmark `{name}`", scored.dataset, [v for v, data in trained.items() if scored.dataset in data])
        for name, scored in study.benchmarks.items()
    ]
    of_stages = [
        _seen_rows(f"eval_data of `{stage}`", dataset, [name for name, both in overlaps.items() if dataset in both])
        for stage, overlaps in ((stage, _overlaps(study, stage)) for stage in _stage_names(study))
        for dataset in sorted(set().union(*overlaps.values()))
    ]
    return [line for line in (*of_benchmarks, *of_stages) if line]


def parts_warnings(study: Study) -> list[str]:
    """One line for each variant whose stages take parts of one curriculum that do not join: samples that no stage sees,
    or that several do. A variant with one such stage, or that `intends` other data, means it."""
    return [
        f"{', '.join(stages)} of {name} together {told} of what they sort: other samples, or as often, than a variant "
        "that sorts all of it. If that is meant, say `intends: [data]` in the variant"
        for name, variant in study.variants.items()
        if "data" not in variant.intends
        for stages in _parts_of_one_order(variant)
        if (told := _unjoined([_take(variant.training[stage]) for stage in stages]))
    ]


def _parts_of_one_order(variant: Variant) -> list[list[str]]:
    """Stages that take parts of the same samples in the same order, where there are several."""
    groups: dict[str, list[str]] = {}
    for name, stage in variant.training.items():
        if isinstance(stage.order, Curriculum) and stage.order.take != (0.0, 1.0):
            alike = stage.order.model_dump_json(exclude={"take", "buckets"})
            groups.setdefault(f"{alike} {'+'.join(map(_part, stage.data))}", []).append(name)
    return [stages for stages in groups.values() if len(stages) > 1]


def _take(stage: TrainStage) -> tuple[float, float]:
    assert isinstance(stage.order, Curriculum)
    return stage.order.take


def _unjoined(parts: list[tuple[float, float]]) -> str:
    """What the parts leave out of 0 to 1 or take twice, in words; empty where they join."""
    told, reached = [], 0.0
    for start, end in [*sorted(parts), (1.0, 1.0)]:
        if start > reached:
            told.append(f"leave out {reached:g} to {start:g}")
        elif start < reached:
            told.append(f"take {start:g} to {min(end, reached):g} twice")
        reached = max(reached, end)
    return " and ".join(told)


def _overlaps(study: Study, stage: str) -> dict[str, set[str]]:
    """For each variant that has the stage: the data sets that it both trains and evaluates on."""
    settings = {name: variant.training[stage] for name, variant in study.variants.items() if stage in variant.training}
    return {
        name: {part.dataset for part in one.data} & {part.dataset for part in one.eval_data}
        for name, one in settings.items()
    }


def _seen_rows(what: str, dataset: str, variants: list[str]) -> str:
    if not variants:
        return ""
    return (
        f"{what} scores `{dataset}`, rows that {_names(variants)} trained on: its scores will flatter. "
        f"`{dataset}@held_out` scores rows kept from training"
    )


def _stage_names(study: Study) -> list[str]:
    return list(dict.fromkeys(stage for variant in study.variants.values() for stage in variant.training))


def _length(stage: TrainStage) -> str:
    return f"{stage.max_steps} steps" if stage.max_steps else f"{stage.num_train_epochs:g} epochs"


def _part(part: Any) -> str:
    options = [f"×{part.weight:g}"] if part.weight is not None else []
    options += [f"at most {part.max_samples}"] if part.max_samples else []
    return " ".join([part.dataset, *options])


def _words(**values: Any) -> str:
    return ", ".join(f"{key} {str(value).lower()}" for key, value in values.items())


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
