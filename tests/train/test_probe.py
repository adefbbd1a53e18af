"""A probe times real steps and leaves one file."""

from pathlib import Path

import pytest
from tinyjob import make_job

from tunestudy.config.job import Job
from tunestudy.data.order import Schedule
from tunestudy.records.atomic import read_json
from tunestudy.train.probe import TIMED, main, num_evaluations


@pytest.mark.parametrize("settings", [{}, {"max_steps": 3, "adapter": {"lora_r": 2}}])
def test_measures_steps_of_the_whole_stage(tmp_path: Path, settings: dict[str, object]) -> None:
    folder = make_job(tmp_path, eval_data=["first"], eval_steps=3, **settings)
    main(str(folder.root))
    told = read_json(folder.root / "probe.json")
    steps = settings.get("max_steps", 8)
    assert told["total_steps"] == steps
    assert told["timed_steps"] == (TIMED if steps == 8 else 1)
    assert told["step_s"] > 0
    assert told["evaluation_s"] > 0
    assert told["evaluations"] == (4 if steps == 8 else 1)
    assert told["tokens_per_step"] > 8
    assert told["device"] == "cpu"
    assert not folder.result_json.exists()
    assert not list(folder.root.glob("checkpoint-*"))


def test_full_checkpoints_of_epochs_are_timed_as_such(tmp_path: Path) -> None:
    folder = make_job(tmp_path, full_save_steps=None, checkpoint_mode="full")
    main(str(folder.root))
    assert read_json(folder.root / "probe.json")["saved_kind"] == "full"


def test_evaluations_are_counted_as_the_loop_makes_them(tmp_path: Path) -> None:
    folder = make_job(tmp_path, eval_data=["first"], eval_steps=5, eval_on_start=True, num_train_epochs=2)
    settings = Job.model_validate(read_json(folder.job_json)).settings
    assert settings is not None

    class Rows:
        def epoch_of_step(self, step: int) -> int:
            return step // 5

        def first_step_of_epoch(self, epoch: int) -> int:
            return epoch * 5

    rows: Schedule = Rows()  # type: ignore[assignment]
    assert num_evaluations(settings, rows, 10) == 3, "steps 5 and 10 end an epoch too; one before the first step"
    assert num_evaluations(settings, rows, 7) == 3, "the last epoch is cut short: 5 and 7"
    assert num_evaluations(settings.model_copy(update={"eval_on_epoch_end": False}), rows, 12) == 3
    none = settings.model_copy(update={"eval_on_epoch_end": False, "eval_steps": None, "eval_on_start": False})
    assert num_evaluations(none, rows, 10) == 0
