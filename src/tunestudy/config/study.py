"""The study file as objects. `study/load.py` makes them from YAML; overrides and matrices are already applied."""

from typing import Literal

from pydantic import Field

from tunestudy.config.alerts import AlertSettings, Expected
from tunestudy.config.base import Config, neutral
from tunestudy.config.benchmark import AnyBenchmark
from tunestudy.config.data import AnyDataset
from tunestudy.config.estimate import EstimateSettings
from tunestudy.config.model import ModelConfig
from tunestudy.config.resources import Resources
from tunestudy.config.stage import AnyStage, TrainStage
from tunestudy.config.trackers import TrackerSettings

Intent = Literal["data", "order", "tokens", "steps", "effective_batch_size", "model", "seeds", "evaluation"]


class Variant(Config):
    """One row of the final table: its stages with this variant's overrides already applied."""

    stages: dict[str, AnyStage]
    """In order; empty for the untouched base model."""
    priority: int = neutral(0)
    """Higher runs first."""
    intends: tuple[Intent, ...] = ()
    """Differences from the other variants that are meant; any other is a warning."""
    description: str = neutral("")
    """For the report."""

    @property
    def training(self) -> dict[str, TrainStage]:
        """Those of its stages that train."""
        return {name: stage for name, stage in self.stages.items() if isinstance(stage, TrainStage)}


class ReportSettings(Config):
    """How results are compared."""

    baseline: str | None = None
    """The variant that others are compared with; default: the first."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Level below which a corrected p-value counts as a difference."""
    correction: Literal["holm", "bonferroni", "none"] = "holm"
    """Of p-values, over all comparisons with the baseline."""
    require: dict[str, str] = {}
    """Conditions on mean results, `"<variant>.<benchmark>": ">= 0.7"`; a broken one makes `report` exit with 4.
    `*` stands for every variant that is not named."""


class Study(Config):
    """A validated study."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name, and the folder's name under results."""
    description: str = neutral("")
    """What it is about, for the report."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """One trial per variant and seed."""
    model: ModelConfig
    """What every variant starts from."""
    datasets: dict[str, AnyDataset] = {}
    """By names of your own."""
    benchmarks: dict[str, AnyBenchmark] = {}
    """By names of your own, or a list of public ones' names."""
    variants: dict[str, Variant] = Field(min_length=1)
    """Rows of the final table, by name."""
    resources: Resources = Resources()
    """What jobs may use of machines."""
    env: dict[str, str] = neutral({})
    """Environment variables of every job. Tokens do not belong here."""
    report: ReportSettings = ReportSettings()
    """How results are compared."""
    estimate: EstimateSettings = neutral(EstimateSettings())
    """What is known or believed of its cost."""
    trackers: TrackerSettings = neutral(TrackerSettings())
    """How the runs of `report_to` are called."""
    alerts: AlertSettings = neutral(AlertSettings())
    """What calls for attention while jobs run."""
    expect: Expected = neutral({})
    """Bands in which figures are expected to lie, by a column of the logs or `<variant>.<benchmark>`."""
