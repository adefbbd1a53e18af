"""What the recipe works with: a task, the material it learns from, the learner, and where the run stands."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunestudy.config.job import Job
from tunestudy.config.schedules import Multiplier
from tunestudy.config.stage import TrainStage
from tunestudy.data.corpus import Corpus
from tunestudy.data.loader import Loader
from tunestudy.data.order import Schedule
from tunestudy.models.quantize import num_values
from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress
from tunestudy.records.stop import StopRequest
from tunestudy.train.batching import BatchPlan
from tunestudy.train.engines import Engine
from tunestudy.train.evaluate import EvaluationSet
from tunestudy.train.experts import ExpertLoad
from tunestudy.train.gates import GateDrive
from tunestudy.train.logs import Logs
from tunestudy.train.metrics import TrainState
from tunestudy.train.mole import MoleDrive
from tunestudy.train.noise import EmbeddingNoise
from tunestudy.train.pace import RankPace
from tunestudy.train.precision import Precision
from tunestudy.train.saving import Saver
from tunestudy.train.trainable import Trainable
from tunestudy.train.world import World


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done, where, and with whom."""

    job: Job
    settings: TrainStage
    folder: JobDir
    world: World
    stop: StopRequest
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is learnt from, and how it is cut up."""

    corpus: Corpus
    schedule: Schedule
    order_values: NDArray[np.float64] | None
    """(N,) what the samples of a curriculum are sorted by, NaN for one without; None where there are no numbers."""
    batches: BatchPlan
    loader: Loader
    evaluation: EvaluationSet | None
    total_steps: int


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What learns, and how it moves."""

    model: Any
    engine: Engine
    trainables: list[Trainable]
    optimizer: torch.optim.Optimizer
    learning_rate: Multiplier
    precision: Precision
    noise: EmbeddingNoise
    gates: GateDrive
    experts: ExpertLoad
    mole: MoleDrive

    @property
    def num_trainable(self) -> int:
        """Numbers that learn."""
        return sum(num_values(trainable.parameter) for trainable in self.trainables)

    @property
    def num_effective(self) -> int:
        """Of those, the ones that no shut gate takes out."""
        return self.num_trainable - self.gates.taken_out()


@dataclass(kw_only=True)
class Run:
    """One stage on one rank, under way."""

    task: Task
    material: Material
    learner: Learner
    saver: Saver
    logs: Logs
    state: TrainState
    pace: RankPace
    gradients_proven: bool = False

    @property
    def settings(self) -> TrainStage:
        return self.task.settings

    @property
    def total_steps(self) -> int:
        """Steps of the stage: fewer than were planned once patience ran out."""
        return self.material.total_steps if self.state.stopped_at is None else self.state.stopped_at

    @property
    def world(self) -> World:
        return self.task.world

    def close(self) -> None:
        """Finish what is being written."""
        try:
            self.saver.close()
        finally:
            self.logs.close()
            self.pace.close()
            self.material.loader.close()
            self.learner.engine.close()
