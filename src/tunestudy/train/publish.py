"""Publishing a stage's result: the best or last weights as stock libraries load them, then result.json."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.job import Job
from tunestudy.models.components.world import world_of
from tunestudy.models.decoder import base_model_of
from tunestudy.models.fold import START
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.mole import mole_of
from tunestudy.models.publish import save_result
from tunestudy.models.quantize import num_values
from tunestudy.models.results import load_merged
from tunestudy.models.start import load_start
from tunestudy.records.atomic import temporary_beside, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, seal
from tunestudy.records.progress import Progress
from tunestudy.records.space import space
from tunestudy.records.untrained import MEBIBYTE, peak_of_process_mb, untrained_result
from tunestudy.train.flops import flops_per_token
from tunestudy.train.loop import epoch_of
from tunestudy.train.resume import load_weights, weight_problems
from tunestudy.train.retention import prune
from tunestudy.train.run import Run
from tunestudy.train.shards import whole_on_rank_0
from tunestudy.train.start import versions
from tunestudy.train.trainable import Trainable
from tunestudy.train.world import World


def publish_result(run: Run, loaded: LoadedModel, roles: Sequence[Mapping[str, Any]]) -> None:
    """Write `model/` and what else is asked for, then result.json, with which the stage is done.

    Only then are checkpoints dropped: until it is done, the last full one is the way on after a kill or a full disk.
    """
    run.saver.finish()
    run.world.after_rank_0()
    with run.world.at("the publication of the result"):
        if run.settings.load_best_model_at_end:
            load_best(run)
        run.learner.engine.finish()
        state = whole_state(run)
    if run.world.rank == 0:
        kind = publish_model(run, loaded, state)
        run.logs.trainer_state(step=run.state.step, epoch=epoch_of(run), best=run.state.best)
        result = result_of(run, roles, kind)
        if run.settings.save_merged and kind == "adapter":
            publish_merged(run, loaded)
        write_json(run.task.folder.result_json, result)
        prune(run.task.folder, run.settings, run.task.job.keep_checkpoints, finished=True)
    run.world.after_rank_0()


def load_best(run: Run) -> None:
    """Put the best checkpoint's weights into the model; one that does not hold is an error, never passed over."""
    assert run.state.best is not None, "the last step is an epoch's end, hence evaluated"
    path = run.task.folder.checkpoint(run.state.best.step)
    if wrong := [*problems(path), *weight_problems(path, run.learner.trainables)]:
        cure = "delete this job's checkpoints to train it anew"
        raise RuntimeError(f"the best checkpoint cannot be published: {'; '.join(wrong[:3])}; {cure}")
    load_weights(path, run.learner.trainables)


def whole_state(run: Run) -> dict[str, Tensor] | None:
    """What the result consists of, whole on rank 0, where ranks hold slices; None where the model itself is whole."""
    group, model = run.learner.engine.gather_group, run.learner.model
    if group is None:
        return None
    learnt = {trainable.name: trainable.parameter for trainable in run.learner.trainables}
    if world_of(model) is not None or mole_of(model) is not None:
        return whole_on_rank_0(learnt, group)
    if hasattr(model, "peft_config"):
        twin = {name: tensor for name, tensor in model.named_parameters() if f".{START}." in name}
        return whole_on_rank_0({**learnt, **twin}, group)
    return whole_on_rank_0(model.state_dict(keep_vars=True), group)


def publish_model(run: Run, loaded: LoadedModel, state: dict[str, Tensor] | None) -> str:
    """Seal `model/`; returns its kind: `adapter`, `mole`, `world` or `full`."""
    return seal_model(run.task.job, run.task.folder, loaded, run.learner.model, step=run.state.step, state=state)


def seal_model(
    job: Job, folder: JobDir, loaded: LoadedModel, model: Any, *, step: int, state: dict[str, Tensor] | None = None
) -> str:
    """The same without a run. OSError(ENOSPC) when the disk is full, whoever noticed."""
    final = folder.model
    prepared = temporary_beside(final)
    with space("to publish the result", folder.root, bytes_of_result(model)), removed_in_the_end(prepared):
        facts = save_result(model, loaded.tokenizer, prepared, state, loaded.processor)
        bits = job.training.quantization if job.training else None
        origin = {
            "fingerprint": job.fingerprint,
            "base": dict(loaded.identity),
            "quantization": None if bits is None else bits.model_dump(),
            "versions": versions(),
        }
        seal(prepared, final, {**facts, **origin, "step": step})
    return str(facts["kind"])


def bytes_of_result(model: Any) -> int:
    """About as many as a result takes: of an adapter what was trained, else the whole model."""
    of_adapter = hasattr(model, "peft_config") or mole_of(model) is not None
    return sum(one.nbytes for one in model.parameters() if one.requires_grad or not of_adapter)


@contextmanager
def removed_in_the_end(prepared: Path) -> Iterator[None]:
    """What is left of a folder that was not published goes."""
    try:
        yield
    finally:
        shutil.rmtree(prepared, ignore_errors=True)


def publish_merged(run: Run, loaded: LoadedModel) -> None:
    """Seal `merged/`: the published adapter folded into its base, in full precision, as a plain model."""
    final = run.task.folder.merged
    prepared = temporary_beside(final)
    needed = sum(tensor.nbytes for tensor in base_model_of(run.learner.model).parameters())
    with space("to publish the merged model", run.task.folder.root, needed), removed_in_the_end(prepared):
        save_result(load_merged(run.task.folder, run.world.device), loaded.tokenizer, prepared, None, loaded.processor)
        seal(prepared, final, {"kind": "full", "fingerprint": run.task.job.fingerprint, "versions": versions()})


def result_of(run: Run, roles: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """The content of result.json."""
    state, progress, material = run.state, run.task.progress, run.material
    lengths = material.corpus.lengths.astype(float)
    return {
        "fingerprint": run.task.job.fingerprint,
        "status": "done",
        "started_at": progress.first_began,
        "finished_at": progress.now(),
        "duration_s": round(progress.elapsed_s, 3),
        "train_s": round(state.train_s, 3),
        "eval_s": round(state.eval_s, 3),
        "save_s": round(state.save_s, 3),
        "steps": state.step,
        "epochs": epoch_of(run),
        "tokens": state.tokens,
        "target_tokens": state.target_tokens,
        "samples": state.samples,
        "final_train_loss": state.last_train_loss,
        "best": None if state.best is None else dict(vars(state.best)),
        "trainable_params": run.learner.num_trainable,
        "effective_params": run.learner.num_effective,
        "sparsity": run.learner.gates.sparsity() if run.learner.gates.total else None,
        "gates": run.learner.gates.total,
        "total_params": num_parameters(run.learner.model, run.learner.trainables),
        "peak_memory_mb": peak_memory_mb(run.world),
        "flops_per_token": flops_per_token(
            base_model_of(run.learner.model),
            context=float((lengths * (lengths + 1) / 2).sum() / lengths.sum()),
            target_share=material.corpus.num_targets / material.corpus.num_tokens,
        ),
        **material.batches.as_json(),
        "effective_batch_size": material.batches.effective,
        "roles": list(roles),
        "eval_ids_sha256": material.evaluation.ids_sha256 if material.evaluation else None,
        "resumed_from": state.resumed_from,
        "stopped_early": state.stopped_at is not None,
        "model_kind": kind,
    }


def publish_untrained(job: Job, folder: JobDir, world: World, progress: Progress) -> None:
    """The result of a job that trains nothing: its start model loads; a part that the stage adds is published."""
    loaded = load_start(job, folder, world.device if job.settings is None else "cpu")
    if world.rank == 0:
        kind = "base" if job.settings is None else seal_model(job, folder, loaded, loaded.model, step=0)
        result = untrained_result(
            job.fingerprint,
            progress,
            kind=kind,
            total_params=num_parameters(loaded.model),
            memory_mb=peak_memory_mb(world),
            world_size=world.size,
        )
        write_json(folder.result_json, result)
    world.after_rank_0()


def num_parameters(model: Any, trainables: Sequence[Trainable] = ()) -> int:
    """Of model and adapters; the untrained twin that PEFT keeps of a module trained in full does not count.

    trainables: also those that an engine has taken out of the model.
    """
    counted = {id(p): p for name, p in model.named_parameters() if ".original_module." not in name}
    counted |= {id(trainable.parameter): trainable.parameter for trainable in trainables}
    return sum(map(num_values, counted.values()))


def peak_memory_mb(world: World) -> float:
    """Peak memory (MiB) of this rank's GPU, or of its process where it has none."""
    if world.device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(world.device) / MEBIBYTE, 1)
    return peak_of_process_mb()
