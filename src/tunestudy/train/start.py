"""Where a run starts: at its newest believable checkpoint, or at step 0."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from tunestudy.train.logs import Logs
from tunestudy.train.metrics import TrainState
from tunestudy.train.pace import RankPace
from tunestudy.train.resume import drop_newer, find_start, load_optimizer, load_state, load_weights
from tunestudy.train.run import Learner, Material, Run, Task
from tunestudy.train.saving import Saver, Taken


def start_run(task: Task, material: Material, learner: Learner, base: Mapping[str, Any]) -> Run:
    """A run at the step of its newest full checkpoint, with logs cut back to it; all ranks start at the same step."""
    step = task.world.from_rank_0(_step_on_disk(task, learner, base) if task.world.rank == 0 else 0)
    state = TrainState.begin(len(material.corpus.sources))
    taken = None
    if step > 0:
        state, taken = _restore(task, material, learner, step)
    if task.world.rank == 0:
        drop_newer(task.folder, step)
    logs = Logs(
        task.folder,
        task.settings,
        writes=task.world.rank == 0,
        keep_through_step=step if step > 0 else -1,
        sources=material.corpus.sources,
        in_order=material.order_values is not None,
        eval_sources=material.evaluation.sources if material.evaluation else (),
        gated_modules=list(learner.gates.by_module()),
        expert_modules=learner.experts.modules,
        mole_experts=learner.mole.experts,
    )
    saver = Saver(
        task.folder,
        task.settings,
        model=learner.model,
        trainables=learner.trainables,
        optimizer=learner.optimizer,
        precision=learner.precision,
        pinned=task.job.keep_checkpoints,
        logs=logs.tables,
        facts={"fingerprint": task.job.fingerprint, "base": dict(base), "versions": versions()},
        cut=material.batches.as_json(),
        writes=task.world.rank == 0,
        gather_group=learner.engine.gather_group,
    )
    saver.newest = taken
    logs.history(state.history)
    pace = RankPace(task.folder, task.world, keep_through_step=step if step > 0 else -1)
    pace.watch(learner.engine.between_gatherings(), compiled=task.settings.torch_compile)
    return Run(task=task, material=material, learner=learner, saver=saver, logs=logs, state=state, pace=pace)


def versions() -> dict[str, str]:
    """Of the libraries that numbers and files depend on."""
    return {name: version(name) for name in ("tunestudy", "torch", "transformers", "peft", "safetensors")}


def _step_on_disk(task: Task, learner: Learner, base: Mapping[str, Any]) -> int:
    step, messages = find_start(task.folder, learner.trainables, fingerprint=task.job.fingerprint, base=base)
    for message in messages:
        print(message, file=sys.stderr, flush=True)
    if step or messages:
        print(f"resuming after step {step}" if step else "starting again from step 0", file=sys.stderr, flush=True)
    return step


def _restore(task: Task, material: Material, learner: Learner, step: int) -> tuple[TrainState, Taken]:
    path = task.folder.checkpoint(step)
    stored = load_state(path)
    load_weights(path, learner.trainables)
    load_optimizer(path, learner.optimizer, learner.trainables)
    learner.precision.restore(stored["scaler"])
    state = TrainState.from_json(stored["state"])
    state.resumed_from.append(step)
    if stored["cut"] != material.batches.as_json() and task.world.rank == 0:
        before, now = _words(stored["cut"]), _words(material.batches.as_json())
        print(
            f"steps are cut differently from before ({before}; now {now}): "
            "order of data and counters go on unchanged; sums may round differently and dropout draws other numbers",
            file=sys.stderr,
            flush=True,
        )
    return state, Taken(step=step, kind="full", metrics={})


def _words(cut: Mapping[str, int]) -> str:
    return f"{cut['world_size']} ranks × {cut['accumulation']} micro-batches of {cut['micro_batch']}"
