"""What follows from a stage's engine."""

from tunestudy.config.deepspeed import zero_stage
from tunestudy.config.stage import TrainStage


def slices_weights(stage: TrainStage) -> bool:
    """Whether each of several ranks holds a slice of the frozen weights, too: the model may not fit one device."""
    if stage.engine == "fsdp2":
        return stage.fsdp2.shard == "all"
    return stage.engine == "deepspeed" and zero_stage(stage.deepspeed) == 3
