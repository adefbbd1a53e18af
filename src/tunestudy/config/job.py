"""One resolved unit of work, as `job.json` holds it: all that the worker needs, and nothing of the study's syntax."""

from pydantic import Field

from tunestudy.config.base import Config
from tunestudy.config.benchmark import AnyBenchmark
from tunestudy.config.data import AnyDataset
from tunestudy.config.merge import MergeStage
from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import AnyStage, TrainStage


class Evaluation(Config):
    """A benchmark to run on the job's result; the fingerprint tells whether an old score still counts."""

    benchmark: AnyBenchmark
    fingerprint: str


class Job(Config):
    """One unique stage execution."""

    id: str
    """`<stage>-<first 12 hex digits of the fingerprint>`, and the directory's name under `jobs/`."""
    stage: str
    fingerprint: str = Field(min_length=64, max_length=64)
    seed: int
    variants: tuple[str, ...]
    """Every variant that passes through this job."""
    parents: tuple[str, ...] = ()
    """Ids of the jobs whose published result this one starts from; nearest last."""
    inputs: dict[str, str] = {}
    """Jobs whose results are read beside the start: what is merged (the base's name is `base`), or made experts of.
    Those that are the study's model or lie in a folder are not among them."""
    model: ModelConfig
    settings: AnyStage | None
    """None: the model is only evaluated."""
    datasets: dict[str, AnyDataset] = {}
    """Those that the stage or its evaluations name, with file paths made absolute or relative to `base_dir`."""
    evaluations: dict[str, Evaluation] = {}
    base_dir: str = "."
    """Folder of the study file, relative to the job directory: relative data paths start there."""
    offline: bool = False
    """Everything that it reads of the hub is locked: it finds it in the hub's cache, and asks nobody."""
    keep_checkpoints: tuple[str, ...] = ()
    """Checkpoint names that another job starts from; retention never drops them."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs that must be done before this one."""
        return tuple(dict.fromkeys((*self.parents, *self.inputs.values())))

    @property
    def training(self) -> TrainStage | None:
        """The settings of a job that trains; None for one that merges or only evaluates."""
        return self.settings if isinstance(self.settings, TrainStage) else None

    @property
    def merging(self) -> MergeStage | None:
        """The settings of a job that merges."""
        return self.settings if isinstance(self.settings, MergeStage) else None
