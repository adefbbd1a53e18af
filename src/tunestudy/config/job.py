"""One resolved unit of work, as `job.json` holds it: all that the worker needs, and nothing of the study's syntax."""

from pydantic import Field

from tunestudy.config.base import Config
from tunestudy.config.benchmark import AnyBenchmark
from tunestudy.config.data import AnyDataset
from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import TrainStage


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
    model: ModelConfig
    settings: TrainStage | None
    """None: the model is only evaluated."""
    datasets: dict[str, AnyDataset] = {}
    """Those that the stage or its evaluations name, with file paths made absolute or relative to `base_dir`."""
    evaluations: dict[str, Evaluation] = {}
    base_dir: str = "."
    """Folder of the study file, relative to the job directory: relative data paths start there."""
    keep_checkpoints: tuple[str, ...] = ()
    """Checkpoint names that another job starts from; retention never drops them."""
