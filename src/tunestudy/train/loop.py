"""The recipe. `train` is the whole of it; every step it names stands below it, in the order of the call.

One optimiser step: cut its rows into micro-batches → agree on the target tokens → gradients → clip → move the weights →
count → evaluate → log → save. Everything random or ordered is a pure function of the step, so the loop can start
anywhere.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunestudy.data.batch import Row
from tunestudy.data.loader import Share
from tunestudy.train.checkpoint import Kind
from tunestudy.train.finite import require_finite, require_finite_gradients
from tunestudy.train.gradients import GradientStatistics
from tunestudy.train.logs import perplexity
from tunestudy.train.metrics import Best, Sums
from tunestudy.train.noise import seed_of
from tunestudy.train.optim import set_learning_rates
from tunestudy.train.run import Run
from tunestudy.train.saving import checkpoint_due
from tunestudy.train.trainable import require_gradients
from tunestudy.train.world import World

MEBIBYTE = 2**20
BLIND_MARGIN = 2.0
"""Nats above ln V from which a first loss is worth a warning: right tokens get a seventh of chance, or less."""


def train(run: Run) -> bool:
    """Take all steps that are left; False when asked to stop, with everything saved that going on needs."""
    run.learner.engine.train(True)
    if run.settings.eval_on_start and run.state.step == 0:
        evaluate(run)
    while run.state.step < run.total_steps:
        learning_rate = set_learning_rates(run.learner.optimizer, run.learner.learning_rate, run.state.step)
        taken = take_step(run)
        if taken is None:
            save_before_leaving(run)
            return False
        warn_of_high_loss(run, taken)
        evaluated = evaluate(run) if is_evaluated(run) else None
        lose_patience(run, evaluated)
        if is_logged(run):
            log_training(run, learning_rate, taken.grad_norm)
        if epoch_ends(run):
            close_epoch(run, evaluated)
        save_if_due(run, evaluated)
        tell_progress(run, learning_rate)
    return True


@dataclass(frozen=True, kw_only=True)
class TakenStep:
    """What one optimiser step came to."""

    loss: float | None
    """Mean over its target tokens, before the weights moved; None without any target."""
    grad_norm: float | None
    """Before clipping."""


def take_step(run: Run) -> TakenStep | None:
    """One optimiser step at the rates that the groups have; None, with nothing moved, when a rank was asked to stop."""
    began = time.perf_counter()
    rows = run.material.schedule.rows_of_step(run.state.step)
    shares = run.material.loader.of_step(run.state.step)
    with run.world.at(f"step {run.state.step + 1}"):
        targets, leaving = agree(run, shares)
        if leaving:
            return None
        sums = accumulate_gradients(run, shares, targets, tokens_of(run, rows))
        grad_norm = move_weights(run, targets)
    count(run, sums, rows, time.perf_counter() - began)
    return TakenStep(loss=sums.loss, grad_norm=grad_norm)


def agree(run: Run, shares: list[Share]) -> tuple[int, bool]:
    """Target tokens of the whole step over all ranks, and whether any rank was asked to stop: one all-reduce."""
    targets, stops = run.world.sum_of(sum(share.num_targets for share in shares), bool(run.task.stop))
    return int(targets), stops > 0


def tokens_of(run: Run, rows: Sequence[Row]) -> int:
    """Tokens of rows without padding; of those of a step, over all ranks."""
    return int(run.material.corpus.lengths[[sample for row in rows for sample in row]].sum())


def accumulate_gradients(run: Run, shares: list[Share], targets: int, tokens: int) -> Sums:
    """Gradients of Σ NLL ÷ `targets` over all micro-batches and ranks, and of a mixture's balance loss over `tokens`;
    returns the sums of NLL over all ranks.

    A step without any target has no gradient: all ranks skip it together.
    """
    run.learner.optimizer.zero_grad(set_to_none=True)
    num_sources = len(run.material.corpus.sources)
    mine: list[Tensor] = []
    sums = torch.zeros(2, num_sources, dtype=torch.float64, device=run.world.device)
    for index, share in enumerate(shares if targets else ()):
        torch.manual_seed(seed_of(run.task.job.seed, run.state.step, index, run.world.rank))
        with run.pace.own():
            batch = share.batch().to(run.world.device)
        with (
            run.learner.engine.accumulating(last=index == len(shares) - 1),
            run.learner.experts.on(batch),
            run.learner.mole.on(batch),
        ):
            with run.pace.forward(), run.learner.precision.autocast(), run.learner.noise.on(batch, run.state.step):
                losses = run.learner.engine.losses(
                    batch, label_smoothing=run.settings.label_smoothing_factor, num_sources=num_sources
                )
            loss = run.learner.mole.with_balance(losses.nll_sum, run.state.mole, targets=targets, tokens=tokens)
            run.learner.engine.backward(loss, denominator=targets, scale=run.learner.precision.loss_scale)
        mine.append(losses.nll_by_source)
        sums += torch.stack([losses.nll_by_source, losses.tokens_by_source.double()]).to(sums.device)
        run.task.progress.move()
    nll, counts = run.world.all_reduce_sum(sums).tolist()
    require_finite(run, nll, shares, mine)
    if targets:
        run.learner.mole.end_step(run.world, run.state.mole, tokens=tokens)
    return Sums(nll=nll, targets=[int(value) for value in counts])


def move_weights(run: Run, targets: int) -> float | None:
    """Clip the gradients and take the optimiser's step; returns the gradients' norm before clipping."""
    if targets == 0:
        return None
    if not run.gradients_proven:
        require_gradients(run.learner.trainables, run.world, run.learner.engine.has_gradient)
        run.gradients_proven = True
    run.learner.precision.unscale(run.learner.optimizer)
    run.learner.gates.before_step()
    grad_norm = run.learner.engine.clip(run.learner.trainables, run.settings.max_grad_norm)
    require_finite_gradients(run, grad_norm)
    statistics = GradientStatistics(run.learner.trainables, run.learner.engine) if has_gradient_rows(run) else None
    if run.learner.precision.step(run.learner.optimizer):
        run.learner.gates.after_step(run.state.step)
    if statistics is not None:
        run.logs.gradients(run.state.step + 1, statistics.rows())
    return grad_norm


def warn_of_high_loss(run: Run, taken: TakenStep) -> None:
    """Say, once and on rank 0, when the first loss is far above ln V, that of guessing among V tokens alike."""
    if run.state.step != 1 or taken.loss is None or run.world.rank > 0:
        return
    blind = math.log(run.learner.model.config.get_text_config().vocab_size)
    if taken.loss > blind + BLIND_MARGIN:
        print(
            f"warning: the first step's loss is {taken.loss:.2f}; guessing blindly gives {blind:.2f}. Targets or "
            "labels may be wrong: prompts, padding or placeholders that are learnt, or targets off by one",
            file=sys.stderr,
            flush=True,
        )


def has_gradient_rows(run: Run) -> bool:
    """Whether gradient statistics belong to the step that is under way."""
    return run.settings.log_gradients and _is_beat(run.state.step + 1, run.settings.logging_steps, run.total_steps)


def count(run: Run, sums: Sums, rows: list[Row], seconds: float) -> None:
    """Add the step to the run's counters. Samples and tokens follow from the rows, alike on all ranks."""
    samples = [sample for row in rows for sample in row]
    sums.tokens = tokens_of(run, rows)
    run.state.count(sums, samples=len(samples), seconds=seconds)
    run.pace.step()


def is_logged(run: Run) -> bool:
    return _is_beat(run.state.step, run.settings.logging_steps, run.total_steps)


def log_training(run: Run, learning_rate: float, grad_norm: float | None) -> None:
    """One row of loss_log.csv about the steps since the last one."""
    state = run.state
    run.logs.training(
        {
            "epoch": epoch_of(run),
            "step": state.step,
            "train_loss": state.window.loss,
            "learning_rate": learning_rate,
            "gpu_memory_mb": gpu_memory_mb(run.world),
            "sparsity": run.learner.gates.sparsity(),
            "grad_norm": grad_norm,
            "tokens": state.tokens,
            "target_tokens": state.target_tokens,
            "tokens_per_s": round(state.window.tokens / state.window_s, 3),
            **order_value(run),
            **state.window.loss_by_source(run.material.corpus.sources),
        }
    )
    run.logs.sparsity(epoch=epoch_of(run), step=state.step, gates=run.learner.gates)
    run.pace.write(state.step)
    log_experts(run)
    run.logs.mole(epoch=epoch_of(run), step=state.step, rows=run.learner.mole.rows(state.mole))
    state.mole.window, state.mole.window_tokens = [], 0
    if state.window.loss is not None:
        state.last_train_loss = state.window.loss
    state.window, state.window_s = Sums.zero(len(run.material.corpus.sources)), 0.0


def order_value(run: Run) -> dict[str, float | None]:
    """Of a curriculum by numbers: the mean of what the samples since the last row are sorted by."""
    values, step = run.material.order_values, run.state.step
    if values is None:
        return {}
    before = (step - 1) // run.settings.logging_steps * run.settings.logging_steps
    rows = [row for one in range(before, step) for row in run.material.schedule.rows_of_step(one)]
    of_samples = values[[sample for row in rows for sample in row]]
    known = of_samples[~np.isnan(of_samples)]
    return {"order_value": float(known.mean()) if known.size else None}


def log_experts(run: Run) -> None:
    """One row of expert_log.csv about the steps since the last one; nothing without experts."""
    if not run.learner.experts.modules:
        return
    with run.world.at(f"the log of step {run.state.step}"):
        window = run.learner.experts.settle(run.world, run.state.expert_window)
    run.logs.experts(epoch=epoch_of(run), step=run.state.step, window=window)
    run.state.expert_window = {}


def is_evaluated(run: Run) -> bool:
    settings, step = run.settings, run.state.step
    on_beat = settings.eval_steps is not None and step % settings.eval_steps == 0
    return on_beat or (settings.eval_on_epoch_end and epoch_ends(run))


def evaluate(run: Run) -> Sums | None:
    """One row of eval_log.csv; None for a stage without evaluation rows."""
    if run.material.evaluation is None:
        return None
    began = time.perf_counter()
    evaluation = run.material.evaluation
    with run.world.at(f"the evaluation after step {run.state.step}"):
        found = run.task.progress.during(
            "evaluate",
            lambda: evaluation.evaluate(run.learner.engine, run.learner.precision, run.world, run.task.progress),
        )
    epoch, step = epoch_of(run), run.state.step
    run.logs.evaluation(epoch=epoch, step=step, sums=found.sums, sources=evaluation.sources)
    run.logs.samples(step=step, rows=found.samples)
    run.state.eval_s += time.perf_counter() - began
    return found.sums


def lose_patience(run: Run, evaluated: Sums | None) -> None:
    """End the stage with this step when too many evaluations in a row brought no lower loss. Alike on all ranks."""
    patience, state = run.settings.early_stopping_patience, run.state
    loss = None if evaluated is None else evaluated.loss
    if patience is None or loss is None:
        return
    if state.lowest_eval_loss is None or loss < state.lowest_eval_loss - run.settings.early_stopping_threshold:
        state.lowest_eval_loss, state.evaluations_without_gain = loss, 0
        return
    state.evaluations_without_gain += 1
    if state.evaluations_without_gain >= patience:
        state.stopped_at = state.step


def epoch_ends(run: Run) -> bool:
    """Whether the step just taken was its epoch's last, or the stage's."""
    step = run.state.step
    return step == run.total_steps or run.material.schedule.epoch_of_step(step) != run.material.schedule.epoch_of_step(
        step - 1
    )


def close_epoch(run: Run, evaluated: Sums | None) -> None:
    """Add the epoch to training_history.json."""
    state = run.state
    values = {
        "epoch": run.material.schedule.epoch_of_step(state.step - 1) + 1,
        "train_loss": state.epoch_sums.loss,
        "val_loss": None if evaluated is None else evaluated.loss,
        "perplexity": None if evaluated is None else perplexity(evaluated.loss),
        "epoch_time": round(state.epoch_s, 3),
        "gpu_memory_mb": gpu_memory_mb(run.world),
        "trainable_params": run.learner.num_trainable,
        "effective_params": run.learner.num_effective,
        "sparsity": run.learner.gates.sparsity(),
        "tokens": state.tokens,
    }
    for name, value in values.items():
        state.history[name].append(value)
    state.epoch_sums, state.epoch_s = Sums.zero(len(run.material.corpus.sources)), 0.0
    run.logs.history(state.history)


def save_if_due(run: Run, evaluated: Sums | None) -> None:
    """Take the checkpoint that belongs to this step, if any."""
    run.saver.check()
    metric = run.settings.metric_for_best_model
    metrics = {"train_loss": run.state.last_train_loss, "eval_loss": None if evaluated is None else evaluated.loss}
    value = metrics[metric]
    improved = value is not None and (run.state.best is None or value < run.state.best.value)
    kind = checkpoint_due(run.settings, run.state.step, epoch_ends=epoch_ends(run), improved=improved)
    if kind is None:
        return
    if improved and value is not None:
        run.state.best = Best(step=run.state.step, metric=metric, value=value)
    known = {name: value for name, value in metrics.items() if value is not None}
    take_checkpoint(run, kind, known)


def take_checkpoint(run: Run, kind: Kind, metrics: Mapping[str, float]) -> None:
    """All ranks bring their slices, where they have slices; rank 0 writes in the background."""
    label = label_of(run)
    with run.world.at(f"the checkpoint of step {run.state.step}"):
        run.state.expert_window = run.learner.experts.settle(run.world, run.state.expert_window)
        run.task.progress.during("save", lambda: run.saver.save(kind, run.state, metrics=metrics, label=label))


def save_before_leaving(run: Run) -> None:
    """A full checkpoint of where the run stands, unless that is on the disk already.

    It is no candidate for the best one: a run that was never interrupted would not have it.
    """
    newest = run.saver.newest
    taken = newest is not None and (newest.step, newest.kind) == (run.state.step, "full")
    if run.state.step > 0 and (not taken or run.world.any(run.saver.gave_up(run.state.step))):
        metrics = newest.metrics if newest is not None and newest.step == run.state.step else {}
        take_checkpoint(run, "full", metrics)
    run.saver.finish()


def label_of(run: Run) -> str:
    """What a checkpoint of this step is called beside its step: `epoch1-step500`, or `epoch1` at the epoch's end."""
    epoch = run.material.schedule.epoch_of_step(run.state.step - 1) + 1
    return f"epoch{epoch}" if epoch_ends(run) else f"epoch{epoch}-step{run.state.step}"


def tell_progress(run: Run, learning_rate: float) -> None:
    """Leave the step's figures for progress.json and the bar."""
    state = run.state
    seconds_a_step = state.train_s / state.step
    run.task.progress.tell(
        step=state.step,
        total_steps=run.total_steps,
        epoch=epoch_of(run),
        loss=state.window.loss if state.window.loss is not None else state.last_train_loss,
        learning_rate=learning_rate,
        tokens_per_s=round(state.tokens / state.train_s, 1),
        eta_s=round((run.total_steps - state.step) * seconds_a_step, 1),
        memory_mb=gpu_memory_mb(run.world),
        sparsity=run.learner.gates.sparsity() if run.learner.gates.total else None,
    )


def epoch_of(run: Run) -> float:
    """Epochs completed, as a fraction of the one under way."""
    step = run.state.step
    if step == 0:
        return 0.0
    epoch = run.material.schedule.epoch_of_step(step - 1)
    done = (step - run.material.schedule.first_step_of_epoch(epoch)) / run.material.schedule.steps_in_epoch(epoch)
    return round(epoch + done, 6)


def gpu_memory_mb(world: World) -> float | None:
    """Peak memory allocated on this rank's GPU (MiB); None on the CPU."""
    if world.device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(world.device) / MEBIBYTE, 1)


def _is_beat(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last
