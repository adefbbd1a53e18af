"""What `expect:` names must be there: figures that are logged, scores, stages and variants."""

from collections.abc import Callable, Iterator

from tunestudy.config.alerts import METRICS, Band
from tunestudy.config.errors import Place, StudyError
from tunestudy.config.study import Study
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.source import KeyPath

Locate = Callable[[KeyPath], Place]


def expectation_mistakes(study: Study, locate: Locate) -> Iterator[StudyError]:
    """Every band about something that there is not."""
    stages = {stage for variant in study.variants.values() for stage in variant.stages}
    figures = [*METRICS, *(f"loss/{name}" for name in study.datasets)]
    scores = [f"{variant}.{name}" for variant in (*study.variants, "*") for name in study.benchmarks]
    for metric, bands in study.expect.items():
        where, known = locate(("expect", metric)), [*figures, *scores]
        if metric not in figures and metric not in scores:
            message = f"there is no figure `{metric}`; {did_you_mean(metric, known)}"
            yield StudyError(where, message)
        for band in bands:
            yield from (StudyError(where, message) for message in _about(band, study, stages))
            if metric in scores and band.is_about_steps:
                yield StudyError(where, "a score comes once, at the end: leave out the steps")
            if metric in scores and band.stop:
                yield StudyError(where, "a score comes once its job is done: there is nothing left to stop")


def _about(band: Band, study: Study, stages: set[str]) -> Iterator[str]:
    for name in band.stages:
        if name not in stages:
            yield f"no variant has a stage `{name}`; {did_you_mean(name, sorted(stages))}"
    for name in band.variants:
        if name not in study.variants:
            yield f"there is no variant `{name}`; {did_you_mean(name, study.variants)}"
