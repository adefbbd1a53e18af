"""One stage of training, from the job's settings to its published result. The recipe itself is in `loop.py`."""

import sys
from typing import Any

import numpy as np
import torch

from tunestudy.adapters.attach import as_trained
from tunestudy.adapters.mole import install_mole, let_learn
from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.engines import slices_weights
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.schedules import schedule_of
from tunestudy.data.batch import Layout
from tunestudy.data.build import eyes_of
from tunestudy.data.corpus import Corpus
from tunestudy.data.curriculum import Places
from tunestudy.data.loader import Cutter, Loader
from tunestudy.data.order import Schedule
from tunestudy.data.prepare import PreparedData, prepare
from tunestudy.data.vision import Vision
from tunestudy.models.attention import switch_to_segment_attention
from tunestudy.models.components.world import world_of
from tunestudy.models.decoder import base_model_of, blocks_of
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.placement import place
from tunestudy.models.roles import Train, set_trainable, trainable_table
from tunestudy.models.start import load_start
from tunestudy.records.adjusted import Adjusted, read_adjusted
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress
from tunestudy.records.stop import StopRequest
from tunestudy.train import gpu, network
from tunestudy.train.batching import BatchPlan, eval_rows, plan_batches
from tunestudy.train.curriculum import settle_places, tell_drawn
from tunestudy.train.engines import open_engine
from tunestudy.train.evaluate import EvaluationSet
from tunestudy.train.experts import ExpertLoad
from tunestudy.train.gates import GateDrive
from tunestudy.train.gpu import gpu_look
from tunestudy.train.loop import train
from tunestudy.train.loss import LossModel
from tunestudy.train.mole import MoleDrive
from tunestudy.train.network import NetworkLook
from tunestudy.train.noise import EmbeddingNoise
from tunestudy.train.precision import Precision
from tunestudy.train.publish import publish_result, publish_untrained
from tunestudy.train.run import Learner, Material, Task
from tunestudy.train.sampling import Sampler
from tunestudy.train.scores import AskedToLeaveError
from tunestudy.train.start import start_run
from tunestudy.train.trainable import as_text, find_trainables, require_alike
from tunestudy.train.world import World


def run_stage(job: Job, folder: JobDir, world: World, stop: StopRequest) -> bool:
    """Train the job's stage from wherever it stands and publish its result; False when asked to stop on the way."""
    progress = Progress(folder, writes=True, rank=world.rank)
    try:
        if job.settings is None or job.settings.trains_nothing:
            publish_untrained(job, folder, world, progress)
            return True
        assert job.training is not None, "merging has its own room"
        task = Task(job=job, settings=job.training, folder=folder, world=world, stop=stop, progress=progress)
        every = job.training.gpu_sample_s
        of_gpus = gpu_look() if world.rank == 0 else None
        of_network = NetworkLook() if world.size > 1 and world.local_rank == 0 else None  # one rank per host
        with (
            Sampler(folder.gpu_log, gpu.COLUMNS, of_gpus, interval_s=every),
            Sampler(folder.network_log(world.rank), network.COLUMNS, of_network, interval_s=every),
        ):
            return train_and_publish(task)
    finally:
        progress.close()


def train_and_publish(task: Task) -> bool:
    """load → adapter → table → data → order → learner → resume → loop → publish."""
    loaded = load_placed(task)
    model = make_trainable(loaded, task)
    roles = table_of_roles(model, task)
    task.progress.tell(phase="data", vocabulary=model.config.get_text_config().vocab_size)
    vision = loaded.vision
    data = prepare(task.job, task.folder, loaded.tokenizer, task.world, vision)
    if task.world.rank == 0:
        write_json(task.folder.data_report, data.report)
    try:
        places = settle_places(task, loaded, model, data)
    except AskedToLeaveError:
        task.progress.tell(phase="interrupted")
        return False
    material = lay_out(task, model, data, vision, places)
    tell_drawn(task, data, material, places)
    learner = make_learner(task, model, material.total_steps)
    run = start_run(task, material, learner, loaded.identity)
    try:
        task.progress.tell(phase="train")
        finished = train(run)
        task.progress.tell(phase="save" if finished else "interrupted")
        if finished:
            publish_result(run, loaded, roles)
        return finished
    finally:
        run.close()


def load_placed(task: Task) -> LoadedModel:
    """What the stage starts from, its parts where `device_map` wants them."""
    loaded = load_start(task.job, task.folder, loading_device(task))
    if task.settings.device_map is not None:
        place(base_model_of(loaded.model), task.settings.device_map)
    return loaded


def loading_device(task: Task) -> torch.device:
    """Where weights go when they are read: not to a GPU that will keep a slice or a part of them only.

    In host memory they are pages of the file, which the ranks of a host share; a page nobody touches costs nothing.
    """
    later = (slices_weights(task.settings) and task.world.size > 1) or task.settings.device_map is not None
    return torch.device("cpu") if later else task.world.device


def make_trainable(loaded: LoadedModel, task: Task) -> Any:
    """The model with its adapter attached and exactly the stage's weights unfrozen, held in float32."""
    settings, job = task.settings, task.job
    if isinstance(settings.adapter, MoleAdapter):
        model = with_mixture(loaded, task, settings.adapter)
    else:
        model = as_trained(loaded, settings, seed=job.seed)
    if settings.adapter is None:
        default: Train = ("world_projector",) if world_of(model) else "all"
        set_trainable(model, settings.train or default, key=f"stages.{job.stage}.train")
    if settings.activation_checkpointing:
        checkpoint_activations(base_model_of(model))
    return model


def with_mixture(loaded: LoadedModel, task: Task, adapter: MoleAdapter) -> Any:
    """The model with its mixture of experts, the parent's to go on with or a new one, and nothing else that learns."""
    from tunestudy.adapters.experts import experts_of

    place = f"stages.{task.job.stage}"
    if task.settings.train not in (None, "none"):
        raise StudyError(
            at(f"{place}.train"), "a mixture's result holds its gates and experts alone; leave train out beside it"
        )
    if task.settings.torch_compile:
        raise StudyError(
            at(f"{place}.torch_compile"), "gates of a mixture are told of each batch anew, which compiling would repeat"
        )
    if task.settings.engine == "fsdp2" or slices_weights(task.settings):
        raise StudyError(
            at(f"{place}.engine"), "gates need their weights before a block gathers its own; use ddp, or ZeRO stage 2"
        )
    if loaded.continues_adapter:
        return let_learn(loaded.model, adapter)
    factors = experts_of(task.job, task.folder, adapter, loaded.model, is_writer=task.world.rank == 0)
    return install_mole(loaded.model, adapter, factors)


def checkpoint_activations(model: Any) -> None:
    """Form activations again in the backward pass. Newer transformers have a new name for it."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def table_of_roles(model: Any, task: Task) -> list[dict[str, Any]]:
    """Parameters, trainable ones, rate and adapter per role; rank 0 prints it before step 1."""
    settings = task.settings
    table = trainable_table(
        model,
        learning_rate=settings.learning_rate,
        learning_rates=settings.learning_rates,
        adapter=settings.adapter.type if settings.adapter else None,
    )
    part = world_of(model)
    if part is not None:  # it lies outside the model
        params = sum(parameter.numel() for parameter in part.encoder.parameters())
        table.append(
            {"role": "world_encoder", "params": params, "trainable": 0, "learning_rate": None, "adapter": None}
        )
    if task.world.rank == 0:
        print(as_text(table), flush=True)
    return table


def lay_out(
    task: Task, model: Any, data: PreparedData, vision: Vision | None, places: Places | None = None
) -> Material:
    """Cut the data into steps and evaluations; `places` are those of a curriculum."""
    settings, job = task.settings, task.job
    check_best(task, data.eval)
    for corpus in (data.train, data.eval):
        check_world_targets(task, model, corpus)
    adjusted = read_adjusted(task.folder)
    batches = cut_batches(task, adjusted)
    layout = choose_layout(model, task)
    of_samples, values = (places.of_samples, places.values) if places is not None else (None, None)
    schedule = Schedule(data.train, settings, job.seed, batches.effective, of_samples)
    eyes = eyes_of(vision, job, task.folder)
    cutter = Cutter(layout=layout, rank=task.world.rank, world_size=task.world.size, eyes=eyes)
    evaluation = None
    if data.eval is not None:
        evaluation = EvaluationSet(data.eval, settings, cutter, micro_batch=eval_rows(settings, batches, adjusted))
    return Material(
        corpus=data.train,
        schedule=schedule,
        order_values=values,
        batches=batches,
        evaluation=evaluation,
        loader=Loader(data.train, schedule, cutter, batches.micro_batch, settings.dataloader_num_workers),
        total_steps=schedule.total_steps(settings.num_train_epochs, settings.max_steps),
    )


def cut_batches(task: Task, adjusted: Adjusted) -> BatchPlan:
    """How steps are cut: as the study says, or smaller after the job has run out of memory, which rank 0 tells."""
    planned = plan_batches(task.settings, task.world.size, stage=task.job.stage)
    batches = planned.at_most(adjusted.per_device_train_batch_size)
    if batches != planned and task.world.rank == 0:
        print(
            f"per_device_train_batch_size is {batches.micro_batch} in place of {planned.micro_batch}, with "
            f"{batches.accumulation} accumulation steps in place of {planned.accumulation}: {adjusted.why} "
            f"(delete {task.folder.adjusted_json.name} to go back)",
            file=sys.stderr,
            flush=True,
        )
    return batches


def choose_layout(model: Any, task: Task) -> Layout:
    """Samples laid end to end where the model's attention can keep them apart, else padded."""
    padding = task.settings.padding
    if padding == "right" or (padding == "auto" and task.job.model.attn_implementation != "sdpa"):
        return "right"
    obstacle = switch_to_segment_attention(model)
    if obstacle is not None and padding == "free":
        where = at(f"stages.{task.job.stage}.padding")
        raise StudyError(where, f"free does not work with this model: {obstacle}; use right")
    return "free" if obstacle is None else "right"


def check_best(task: Task, eval_corpus: Corpus | None) -> None:
    """`load_best_model_at_end` needs something that tells the best, and that no cadence of logging changes."""
    settings = task.settings
    if settings.load_best_model_at_end and (eval_corpus is None or settings.metric_for_best_model != "eval_loss"):
        raise StudyError(
            at(f"stages.{task.job.stage}.load_best_model_at_end"),
            "needs metric_for_best_model: eval_loss and rows to evaluate on (held_out of a data set, or eval_data)",
        )


def check_world_targets(task: Task, model: Any, corpus: Corpus | None) -> None:
    """The tokens of a world part stand for pixels: the output head has no row for them, so none can be a target."""
    part = world_of(model)
    if part is None or corpus is None:
        return
    learnt = np.isin(corpus.ids, part.ids) & corpus.is_target
    if learnt.any():
        cure = "leave loss_on: all out" if task.settings.loss_on == "all" else "take their text out of the answers"
        raise StudyError(
            at(f"stages.{task.job.stage}.loss_on"),
            f"{int(learnt.sum())} targets are tokens of the world part, which stand for pixels and cannot be "
            f"predicted; {cure}",
        )


def make_learner(task: Task, model: Any, total_steps: int) -> Learner:
    """Model, loss, optimiser and schedule at step 0."""
    settings, job = task.settings, task.job
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise StudyError(at(f"stages.{job.stage}.train"), "nothing is trainable: name a role, or give an adapter")
    require_alike(model, task.world)
    loss_model = LossModel(model)
    if settings.packing:
        loss_model.prove_apart()  # now: once the model is in slices, ranks must make the same calls
    if settings.torch_compile:
        for block in blocks_of(model):
            block.compile(dynamic=True)
    engine = open_engine(loss_model, task.world, settings)
    trainables = find_trainables(model, settings)  # now, since an engine may have put slices in their place
    optimizer = engine.optimizer(trainables, settings)
    return Learner(
        model=model,
        engine=engine,
        trainables=trainables,
        optimizer=optimizer,
        learning_rate=schedule_of(settings, total_steps),
        precision=Precision(settings, job.model, task.world.device),
        noise=EmbeddingNoise(model.get_input_embeddings(), settings.neftune_noise_alpha, seed=job.seed),
        gates=GateDrive(model, settings, optimizer, total_steps),
        experts=ExpertLoad(model),
        mole=MoleDrive(model, settings),
    )
