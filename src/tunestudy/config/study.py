"""The study file as objects. `study/load.py` makes them from YAML; overrides and matrices are already applied."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tunestudy.config.base import Config, neutral
from tunestudy.config.benchmark import AnyBenchmark
from tunestudy.config.data import AnyDataset
from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import AnyStage, TrainStage

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

    @property
    def training(self) -> dict[str, TrainStage]:
        """Those of its stages that train."""
        return {name: stage for name, stage in self.stages.items() if isinstance(stage, TrainStage)}


class Resources(Config):
    """What one job gets on a machine. None of it changes a result."""

    slots: int | Literal["auto"] = neutral("auto")
    """Jobs at the same time. `auto`: GPUs ÷ ranks, without GPUs: cores ÷ (ranks × threads)."""
    ranks: int = neutral(1, ge=1)
    """Processes per job: one GPU (or CPU share) each."""
    gpus_per_rank: int = neutral(1, ge=1)
    """More than one for a stage's `device_map`, which spreads a rank's model over them."""
    hostfile: str | None = neutral(None)
    """Spread every job over these machines, reached by ssh: a file of lines `name slots=N`, relative to the study file.
    `ranks` is the sum of their slots then. All see the same files under the same paths."""
    launcher: Literal["ssh", "srun"] = neutral("ssh")
    """`srun`: spread every job over the nodes of the SLURM allocation that tunestudy runs in, `ranks` in all."""
    rendezvous_address: str | None = neutral(None)
    """Where ranks on several hosts meet; default: the first host."""
    rendezvous_port: int = neutral(29500, ge=1, le=65535)
    threads: int | None = neutral(None, ge=1)
    """OMP_NUM_THREADS of a rank; default: 1 on CPU slots."""
    max_retries: int = neutral(1, ge=0)
    """Starts again after a crash that is not the user's mistake."""
    timeout_s: float = neutral(300.0, gt=0)
    """A rank that others have waited for this long counts as lost, and the job as failed."""
    stop_grace_s: float = neutral(120.0, gt=0)
    """Time a job has to save and leave after SIGTERM."""

    @property
    def is_spread(self) -> bool:
        """Whether a job takes several hosts."""
        return self.hostfile is not None or self.launcher == "srun"

    @model_validator(mode="after")
    def _one_list_of_hosts(self) -> Self:
        if self.hostfile is not None and self.launcher == "srun":
            raise ValueError("srun takes the hosts of its allocation; leave hostfile out")
        if self.gpus_per_rank > 1 and (self.ranks > 1 or self.is_spread):
            raise ValueError("gpus_per_rank: a rank with several GPUs is alone; with more ranks each has one")
        return self


class ReportSettings(Config):
    """How results are compared."""

    baseline: str | None = None
    """The variant that others are compared with; default: the first."""
    alpha: float = Field(0.05, gt=0, lt=1)
    correction: Literal["holm", "bonferroni", "none"] = "holm"
    require: dict[str, str] = {}
    """Conditions on mean results, `"<variant>.<benchmark>": ">= 0.7"`; a broken one makes `report` exit with 4.
    `*` stands for every variant that is not named."""


class Study(Config):
    """A validated study."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name, and the folder's name under results."""
    description: str = neutral("")
    seeds: tuple[int, ...] = Field(min_length=1)
    model: ModelConfig
    datasets: dict[str, AnyDataset] = {}
    benchmarks: dict[str, AnyBenchmark] = {}
    variants: dict[str, Variant] = Field(min_length=1)
    resources: Resources = Resources()
    env: dict[str, str] = neutral({})
    """Environment variables of every job. Tokens do not belong here."""
    report: ReportSettings = ReportSettings()
