"""A benchmark's curve over training: every checkpoint that was kept, scored as the result is.

The model is built once, as the stage built it to train; each checkpoint's weights are then copied into it.
"""

from typing import TYPE_CHECKING

from tunestudy.adapters.attach import as_trained
from tunestudy.adapters.experts import experts_of
from tunestudy.adapters.mole import install_mole
from tunestudy.bench.advance import Advance
from tunestudy.bench.run import is_scored, score
from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.engines import slices_weights
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.models.decoder import base_model_of
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.placement import place
from tunestudy.models.slicing import slice_blocks
from tunestudy.models.start import load_start
from tunestudy.models.stored import put_back
from tunestudy.records.kept import find_checkpoints
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems
from tunestudy.records.progress import Progress
from tunestudy.records.stop import StopRequest

if TYPE_CHECKING:
    from tunestudy.train.world import World


def score_checkpoints(
    job: Job, folder: JobDir, world: "World", stop: StopRequest, progress: Progress | None = None
) -> bool:
    """Score what is not scored yet of the checkpoints that benchmarks ask for, into `eval/<checkpoint>/`.

    False when a stop was asked for before all was done. `progress` hears of it.
    StudyError for a checkpoint that is damaged.
    """
    built: LoadedModel | None = None
    advance = Advance(world, progress)
    for checkpoint, names in missing_scores(job, folder).items():
        sliced = is_sliced(job, world)
        built = build(job, folder, world) if built is None or sliced else built  # slices cannot be filled again
        put_checkpoint(folder, checkpoint, built)
        if sliced:
            slice_blocks(built.model, world.size, world.device)
        for name in names:
            there = folder.at_checkpoint(checkpoint)
            if world.any(bool(stop)) or not score(name, job, there, world, built, sliced=sliced, stop=stop, on=advance):
                return False
    return True


def missing_scores(job: Job, folder: JobDir) -> dict[str, list[str]]:
    """Checkpoint → benchmarks that have no score of it, by step."""
    if job.training is None or not any(wanted.benchmark.checkpoints for wanted in job.evaluations.values()):
        return {}
    found = {
        checkpoint.name: [
            name
            for name, wanted in job.evaluations.items()
            if wanted.benchmark.wants_checkpoint(checkpoint.step)
            and not is_scored(folder.at_checkpoint(checkpoint.name), name, wanted)
        ]
        for checkpoint in find_checkpoints(folder.root)
    }
    return {checkpoint: names for checkpoint, names in found.items() if names}


def is_sliced(job: Job, world: "World") -> bool:
    """Whether ranks hold slices of the model to score it."""
    return world.size > 1 and job.training is not None and slices_weights(job.training)


def build(job: Job, folder: JobDir, world: "World") -> LoadedModel:
    """The model as the stage began to train it, whole on this rank, where its engine would have it."""
    settings = job.training
    assert settings is not None, "a job that trains nothing has no checkpoints"
    spread = settings.device_map is not None
    loaded = load_start(job, folder, "cpu" if spread or is_sliced(job, world) else world.device)
    if settings.device_map is not None:
        place(base_model_of(loaded.model), settings.device_map)
    if isinstance(settings.adapter, MoleAdapter) and not loaded.continues_adapter:
        factors = experts_of(job, folder, settings.adapter, loaded.model, is_writer=world.rank == 0)
        model = install_mole(loaded.model, settings.adapter, factors)
    else:
        model = as_trained(loaded, settings, seed=job.seed)
    return LoadedModel(model, loaded.tokenizer, loaded.identity, processor=loaded.processor)


def put_checkpoint(folder: JobDir, checkpoint: str, loaded: LoadedModel) -> None:
    """Copy a checkpoint's weights into the model, after every hash in its manifest held."""
    path = folder.root / checkpoint
    if wrong := problems(path) or put_back(loaded.model, path):
        cure = "delete that folder to leave it out of the curve"
        where = at(f"jobs/{folder.root.name}/{checkpoint}")
        raise StudyError(where, f"cannot be scored: {'; '.join(wrong[:3])}; {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
