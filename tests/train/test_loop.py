"""What a stage does and leaves, and how it fails."""

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stops import StopAt
from tinyjob import ADAPTER, facts_of, make_job, rows_of, run
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from tunestudy.config.errors import StudyError
from tunestudy.data.batch import Batch
from tunestudy.records.adjusted import Adjusted, write_adjusted
from tunestudy.records.manifest import problems, read_manifest
from tunestudy.records.stop import StopRequest
from tunestudy.train import loop, publish, stage, writer
from tunestudy.train.checkpoint import Snapshot
from tunestudy.train.finite import LossNotFiniteError
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.trainable import UntrainedError

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"


def test_a_stage_learns_and_leaves_what_the_layout_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_job(tmp_path, two_sources=True, eval_on_start=True, eval_steps=5, num_train_epochs=3)
    assert run(folder)
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["role", "parameters", "trainable", "learning", "rate", "adapter"]
    assert table[1].split() == ["language_model", "16,096", "16,096", "0.003", "-"]
    losses = rows_of(folder.loss_log)
    logged = "epoch step train_loss learning_rate gpu_memory_mb sparsity grad_norm tokens target_tokens"
    assert list(losses[0]) == [*logged.split(), "loss/first", "loss/second"]
    assert float(losses[-1]["train_loss"]) < float(losses[0]["train_loss"])
    evaluations = rows_of(folder.eval_log)
    steps = int(losses[-1]["step"])
    assert [int(row["step"]) for row in evaluations] == sorted(
        {0, *range(5, steps + 1, 5), *(steps // 3 * e for e in (1, 2, 3))}
    )
    for row in evaluations:
        assert float(row["perplexity"]) == pytest.approx(math.exp(float(row["eval_loss"])))
    history = json.loads(folder.training_history.read_text())
    assert history["epoch"] == [1, 2, 3]
    assert json.loads(folder.training_log.read_text()) == history
    result = json.loads(folder.result_json.read_text())
    assert result["steps"] == steps
    assert result["tokens"] == int(losses[-1]["tokens"])
    assert result["eval_ids_sha256"] == json.loads(folder.data_report.read_text())["eval"]["ids_sha256"]
    assert problems(folder.model) == []
    state = json.loads(folder.trainer_state.read_text())
    assert state["global_step"] == steps
    assert {"step", "eval_loss"} <= set(state["log_history"][0])


def test_the_logged_loss_is_the_mean_over_target_tokens_since_the_last_row(tmp_path: Path) -> None:
    single = make_job(tmp_path, "one", two_sources=True)
    window = make_job(tmp_path, "three", two_sources=True, logging_steps=3)
    assert run(single)
    assert run(window)
    ones = rows_of(single.loss_log)
    totals = [0, *(int(row["target_tokens"]) for row in ones)]
    nll = [float(row["train_loss"]) * (b - a) for row, a, b in zip(ones, totals, totals[1:], strict=False)]
    for row in rows_of(window.loss_log):
        step = int(row["step"])
        start = (step - 1) // 3 * 3
        assert float(row["train_loss"]) == pytest.approx(
            sum(nll[start:step]) / (totals[step] - totals[start]), rel=1e-9
        )


def test_evaluation_leaves_training_untouched(tmp_path: Path) -> None:
    adapter = {**ADAPTER, "lora_dropout": 0.3}
    without = make_job(tmp_path, "without", adapter=adapter, eval_on_epoch_end=False)
    often = make_job(tmp_path, "often", adapter=adapter, eval_steps=1, eval_on_start=True, neftune_noise_alpha=None)
    assert run(without)
    assert run(often)
    assert facts_of(without)["weights"] == facts_of(often)["weights"]


def test_neither_saving_nor_logging_changes_what_is_learnt(tmp_path: Path) -> None:
    rarely = make_job(
        tmp_path, "rarely", save_steps=None, full_save_steps=None, save_on_epoch_end=False, logging_steps=9
    )
    often = make_job(tmp_path, "often", save_steps=1, full_save_steps=2, log_gradients=True)
    assert run(rarely)
    assert run(often)
    assert facts_of(rarely)["weights"] == facts_of(often)["weights"]
    gradients = rows_of(often.gradient_log)
    assert len(gradients) == 8
    logged = rows_of(often.loss_log)
    assert float(gradients[0]["grad_norm"]) == pytest.approx(min(1.0, float(logged[0]["grad_norm"])), rel=1e-4)
    assert float(gradients[0]["update_ratio"]) > 0


def test_activation_checkpointing_forms_activations_twice_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    real = Qwen3MLP.forward

    def counted(self: Qwen3MLP, hidden: torch.Tensor) -> torch.Tensor:
        calls.append(self.training)
        return real(self, hidden)

    monkeypatch.setattr(Qwen3MLP, "forward", counted)
    plain = make_job(tmp_path, "plain", adapter={**ADAPTER, "lora_dropout": 0.3})
    checkpointed = make_job(
        tmp_path, "checkpointed", adapter={**ADAPTER, "lora_dropout": 0.3}, activation_checkpointing=True
    )
    assert run(plain)
    once = sum(calls)
    calls.clear()
    assert run(checkpointed)
    assert sum(calls) == 2 * once
    assert facts_of(plain)["weights"] == facts_of(checkpointed)["weights"]


def test_the_best_checkpoint_is_published_when_asked(tmp_path: Path) -> None:
    settings = {"learning_rate": 0.3, "eval_steps": 1, "lr_scheduler_type": "constant", "max_grad_norm": None}
    folder = make_job(tmp_path, load_best_model_at_end=True, drop_intermediate=False, **settings)
    assert run(folder)
    best = json.loads(folder.result_json.read_text())["best"]
    evaluations = {int(row["step"]): float(row["eval_loss"]) for row in rows_of(folder.eval_log)}
    assert best["value"] == min(evaluations.values())
    assert best["step"] == min(evaluations, key=lambda step: (evaluations[step], step)) < max(evaluations)
    published = load_file(folder.model / "model.safetensors")
    stored = load_file(folder.checkpoint(best["step"]) / "model.safetensors")
    assert all(torch.equal(published[name], stored[name]) for name in stored)
    assert read_manifest(folder.checkpoint(best["step"]))["metrics"]["eval_loss"] == best["value"]


def test_golden_losses(tmp_path: Path) -> None:
    """Numbers of `tests/golden/make_losses.py`; another CPU may round differently, hence the tolerance."""
    golden = json.loads(GOLDEN.read_text())
    folder = make_job(tmp_path, **golden["settings"])
    assert run(folder)
    losses = [float(row["train_loss"]) for row in rows_of(folder.loss_log)]
    assert losses == pytest.approx(golden["train_loss"], rel=1e-5)


def test_a_step_without_targets_moves_nothing_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.agree
    weights = []

    def agree(run: loop.Run, shares: list) -> tuple[int, bool]:
        weights.append(run.learner.trainables[0].parameter.detach().clone())
        return (0, False) if run.state.step == 2 else real(run, shares)

    monkeypatch.setattr(loop, "agree", agree)
    folder = make_job(tmp_path)
    assert run(folder)
    assert not torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], weights[3])
    third = rows_of(folder.loss_log)[2]
    assert (third["train_loss"], third["grad_norm"]) == ("", "")
    assert json.loads(folder.result_json.read_text())["steps"] == 8


class Poisoned(LossModel):
    """Its second source has an infinite loss from the third step on."""

    steps = 0

    def forward(self, batch: object, **options: object) -> LossSums:
        sums = super().forward(batch, **options)
        if self.training:
            self.steps += 1
        if self.steps >= 3:
            sums.nll_by_source[1] = torch.inf
        return sums


def test_a_loss_that_is_not_finite_names_step_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LossModel", Poisoned)
    folder = make_job(tmp_path, two_sources=True)
    said = "the loss of step 3 is not finite, in data of second: micro-batch 1 of rank 0, samples [01]-[0-9]+, .*; the "
    with pytest.raises(LossNotFiniteError, match=said + r"loss before it was [0-9.]+; a lower learning_rate"):
        run(folder)


class Steep(LossModel):
    """Its loss is finite, and its gradient is not."""

    def forward(self, batch: Batch, **options: object) -> LossSums:
        sums = super().forward(batch, **options)
        return replace(sums, nll_sum=sums.nll_sum + (sums.nll_sum * 0).sqrt())


def test_gradients_that_are_not_finite_move_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LossModel", Steep)
    with pytest.raises(LossNotFiniteError, match=r"the gradients of step 1 are not finite \(norm nan\)"):
        run(make_job(tmp_path))


def test_a_trainable_tensor_that_nothing_uses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def set_trainable(model: torch.nn.Module, *_: object, **__: object) -> None:
        model.forgotten = torch.nn.Linear(2, 2)

    monkeypatch.setattr(stage, "set_trainable", set_trainable)
    with pytest.raises(UntrainedError, match=r"2 trainable tensors .* forgotten.weight, forgotten.bias"):
        run(make_job(tmp_path))


def test_settings_that_cannot_work_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nothing is trainable"):
        run(make_job(tmp_path, "a", train="none"))
    with pytest.raises(StudyError, match="needs metric_for_best_model: eval_loss"):
        run(make_job(tmp_path, "b", load_best_model_at_end=True, metric_for_best_model="train_loss"))
    with pytest.raises(StudyError, match="9 does not divide by 2 per device"):
        run(make_job(tmp_path, "c", effective_batch_size=9, per_device_train_batch_size=2))


@pytest.mark.parametrize(("asked", "rows"), [(None, 4), (3, 3)])
def test_smaller_batches_for_a_job_that_ran_out_of_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: int | None,
    rows: int,
) -> None:
    """What the launcher leaves in adjusted.json, the stage goes by; the effective batch stays."""
    widest = {True: 0, False: 0}

    class Counting(LossModel):
        def forward(self, batch: Batch, **options: object) -> LossSums:
            widest[self.training] = max(widest[self.training], len(batch.input_ids))
            return super().forward(batch, **options)

    monkeypatch.setattr(stage, "LossModel", Counting)
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 2, "padding": "right"}
    folder = make_job(tmp_path, **settings, eval_steps=1)
    smaller = Adjusted(per_device_train_batch_size=4, per_device_eval_batch_size=asked, why="out of memory")
    write_adjusted(folder, smaller)
    run(folder)
    assert widest == {True: 4, False: rows}
    result = json.loads(folder.result_json.read_text())
    assert (result["micro_batch"], result["accumulation"], result["effective_batch_size"]) == (4, 2, 8)
    assert "is 4 in place of 8, with 2 accumulation steps in place of 1: out of memory" in capsys.readouterr().err


def test_a_disk_that_is_full_at_the_end_is_an_error_and_the_next_run_only_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path, full_save_steps=4)
    with monkeypatch.context() as patch:

        def full_disk(*_: object) -> None:
            raise RuntimeError("I/O error: No space left on device (os error 28)")

        patch.setattr(publish, "save_result", full_disk)
        with pytest.raises(OSError, match="no space left to publish") as caught:
            run(folder)
        assert caught.value.errno == errno.ENOSPC
    assert not folder.result_json.exists()
    assert not [path for path in folder.root.iterdir() if path.name.startswith(".tmp")]
    assert run(folder)
    assert json.loads(folder.result_json.read_text())["resumed_from"] == [8]


def test_the_best_checkpoint_is_not_given_up_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"save_steps": None, "full_save_steps": 2, "save_on_epoch_end": False, "max_steps": 4}
    folder = make_job(tmp_path, load_best_model_at_end=True, eval_steps=1, **settings)
    real = writer.write_checkpoint

    def full_from_step_3(taken: Snapshot, final: Path) -> None:
        if taken.step > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(taken, final)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_checkpoint", full_from_step_3)
        with pytest.raises(OSError, match="no space left for checkpoint-3"):
            run(folder)
    assert run(folder)
    result = json.loads(folder.result_json.read_text())
    assert (result["resumed_from"], result["best"]["step"]) == ([2], 4)


def test_a_best_checkpoint_that_finds_no_space_tells_that_nothing_is_there_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path, load_best_model_at_end=True, eval_steps=1, full_save_steps=None, max_steps=2)
    monkeypatch.setattr(writer, "write_checkpoint", _no_space)
    with pytest.raises(OSError, match="the stage will begin anew, as with full_save_steps: null it writes nothing"):
        run(folder)


def test_a_stop_takes_the_full_checkpoint_that_found_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path, full_save_steps=3, max_steps=6)
    real, tries = writer.write_checkpoint, []

    def full_for_a_while(taken: Snapshot, final: Path) -> None:
        tries.append(taken.step)
        if len(tries) <= 2:  # once more after older ones were pruned
            _no_space()
        real(taken, final)

    monkeypatch.setattr(writer, "write_checkpoint", full_for_a_while)
    assert run(folder, stop=StopAt(4)) is False
    assert tries == [3, 3, 3] and folder.checkpoint(3).is_dir()
    assert run(folder) and json.loads(folder.result_json.read_text())["resumed_from"] == [3]


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_job_without_a_stage_publishes_that_it_is_a_base(tmp_path: Path) -> None:
    from tunestudy.config.job import Job
    from tunestudy.train.world import World
    from tunestudy.worker import is_trained

    folder = make_job(tmp_path)
    job = Job.model_validate_json(folder.job_json.read_text()).model_copy(update={"settings": None})
    assert not is_trained(job, folder)
    assert stage.run_stage(job, folder, World(), StopRequest())
    assert is_trained(job, folder)
    assert json.loads(folder.result_json.read_text())["model_kind"] == "base"
