"""progress.json, sampled GPUs, half precision's switchboard."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import TrainStage
from tunestudy.records import progress as progress_module
from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress
from tunestudy.train.gpu import COLUMNS, sample
from tunestudy.train.precision import Precision


def test_progress_is_written_by_a_thread_at_its_own_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict] = []
    monkeypatch.setattr(progress_module, "write_json", lambda _path, value: written.append(value))
    progress = Progress(JobDir(tmp_path), writes=True)
    for step in range(1000):
        progress.tell(step=step, phase="train")
    progress.close()
    assert len(written) <= 3
    assert written[-1]["step"] == 999
    assert {"t", "phase", "attempt", "pid", "host", *progress_module.FIELDS} <= written[-1].keys()


def test_elapsed_time_adds_up_over_attempts(tmp_path: Path) -> None:
    folder = JobDir(tmp_path)
    folder.progress_json.write_text(json.dumps({"elapsed_s": 100.0, "started_at": 5.0}))
    progress = Progress(folder, writes=True)
    progress.close()
    told = json.loads(folder.progress_json.read_text())
    assert told["elapsed_s"] >= 100.0
    assert told["started_at"] == progress.first_began == 5.0
    assert told["t"] <= time.time()


def test_phases_nest_and_other_ranks_write_nothing(tmp_path: Path) -> None:
    progress = Progress(JobDir(tmp_path), writes=False)
    progress.tell(phase="train")
    assert progress.during("evaluate", lambda: progress._facts["phase"]) == "evaluate"
    assert progress._facts["phase"] == "train"
    progress.close()
    assert not list(tmp_path.iterdir())


def test_a_benchmark_goes_on_with_what_was_told_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = JobDir(tmp_path)
    folder.progress_json.write_text(json.dumps({"phase": "save", "step": 7, "loss": 0.5, "attempt": 1, "t": 1.0}))
    monkeypatch.setenv("TUNESTUDY_ATTEMPT", "2")
    progress = Progress(folder, writes=True, goes_on="benchmark")
    progress.tell(doing="said")
    progress.close()
    told = json.loads(folder.progress_json.read_text())
    assert (told["phase"], told["step"], told["loss"], told["attempt"]) == ("benchmark", 7, 0.5, 2)
    assert told["moved"] is None and told["t"] > 1.0


def moved(progress: Progress) -> float | None:
    """As it would be written."""
    return progress._moved


def test_only_what_is_at_work_is_asked_to_move(tmp_path: Path) -> None:
    progress = Progress(JobDir(tmp_path), writes=False, goes_on="benchmark")
    with progress.at_work():
        first = moved(progress)
        progress.tell(doing="x")
        assert first is not None and (moved(progress) or 0) > first
    progress.tell(doing="y")
    assert moved(progress) is None


@pytest.mark.parametrize(
    ("counts", "computed_s", "moves"), [(True, 0.5, True), (True, 0.01, False), (False, 1.0, False)]
)
def test_a_large_tensor_in_work_is_no_standstill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: bool, computed_s: float, moves: bool
) -> None:
    clock = SimpleNamespace(time=time.time, monotonic=lambda: 100.0, process_time=lambda: 10.0)
    monkeypatch.setattr(progress_module, "time", clock)
    progress = Progress(JobDir(tmp_path), writes=False, computing_counts=counts)
    before = moved(progress)
    clock.monotonic, clock.process_time = lambda: 101.0, lambda: 10.0 + computed_s
    progress._look_at_computing()
    assert (moved(progress) != before) is moves


class NvmlError(Exception):
    """What a device answers that has no such sensor."""


def test_a_gpu_without_a_sensor_leaves_its_field_empty() -> None:
    def no_power(_device: object) -> int:
        raise NvmlError

    nvml = SimpleNamespace(
        NVMLError=NvmlError,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=87),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=3 * 2**20),
        nvmlDeviceGetPowerUsage=no_power,
    )
    row = sample(nvml, 1)
    assert tuple(row) == COLUMNS
    assert (row["device"], row["utilisation_percent"], row["memory_mb"], row["power_w"]) == (1, 87, 3.0, None)


def precision(dtype: str = "float32", **settings: object) -> Precision:
    stage = TrainStage.model_validate({"data": ["d"], "learning_rate": 0.1, **settings})
    model = ModelConfig(model_name_or_path="x", dtype=dtype)
    return Precision(stage, model, torch.device("cpu"))


@pytest.mark.parametrize(
    ("dtype", "settings", "expected"),
    [
        ("float32", {}, torch.float32),
        ("float32", {"bf16": True}, torch.bfloat16),
        ("float32", {"fp16": True}, torch.float16),
        ("bfloat16", {}, torch.bfloat16),
    ],
)
def test_matrices_are_multiplied_in_the_wanted_type(dtype: str, settings: dict, expected: torch.dtype) -> None:
    chosen = precision(dtype, **settings)
    with chosen.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is expected


def test_an_overflow_skips_the_step_lowers_the_scale_and_the_scale_resumes() -> None:
    half = precision(fp16=True)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    before = float(half.loss_scale)
    weight.grad = torch.tensor([torch.inf, 1.0])
    half.unscale(optimizer)
    half.step(optimizer)
    assert torch.equal(weight, torch.ones(2))
    assert float(half.loss_scale) == before / 2
    resumed = precision(fp16=True)
    resumed.restore(json.loads(json.dumps(half.state())))
    assert float(resumed.loss_scale) == before / 2
    assert precision().state() is None
