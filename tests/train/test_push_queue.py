"""A stage that pushes at every save: only a queue on disk differs, and no mishap there reaches training."""

from pathlib import Path

import pytest
from tinyjob import ADAPTER, make_job, rows_of, run

from tunestudy.records.manifest import problems
from tunestudy.records.pushes import num_superseded, waiting

SETTINGS = {
    "adapter": ADAPTER,
    "max_steps": 6,
    "save_steps": 2,
    "full_save_steps": 6,
    "num_records": 24,
    "save_on_epoch_end": False,
}


def test_the_newest_checkpoint_waits_and_training_is_the_same(tmp_path: Path) -> None:
    plain, pushing = tmp_path / "plain", tmp_path / "pushing"
    plain.mkdir()
    pushing.mkdir()
    one = make_job(plain, **SETTINGS)
    other = make_job(pushing, push_to_hub=True, hub_strategy="every_save", **SETTINGS)
    run(one)
    run(other)
    assert waiting(one) == [] and waiting(other) == ["checkpoint-6"] and num_superseded(other) == 2
    assert not problems(other.waiting_pushes / "checkpoint-6")
    assert rows_of(one.loss_log) == rows_of(other.loss_log)
    weights = "adapter_model.safetensors"
    assert (one.model / weights).read_bytes() == (other.model / weights).read_bytes()


def test_a_queue_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunestudy.train.writer.enqueue", refused)
    job = make_job(tmp_path, push_to_hub=True, hub_strategy="all_checkpoints", **SETTINGS)
    assert run(job)
    assert "checkpoint-2 is not queued for its upload" in capsys.readouterr().err
