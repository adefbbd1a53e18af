"""One try of `tune-batch` in its process: what it measures, and that memory is told as such."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyjob import ADAPTER, make_job

from tunestudy.records.atomic import write_json
from tunestudy.records.layout import JobDir
from tunestudy.train import try_batch
from tunestudy.train.loss import LossModel
from tunestudy.train.run import Run
from tunestudy.train.try_batch import is_out_of_memory, longest_rows, main


def tried(folder: JobDir, memory_bytes: int | None = None) -> dict[str, Any]:
    write_json(folder.root / "request.json", {"memory_bytes": memory_bytes})
    main(str(folder.root))
    found: dict[str, Any] = json.loads((folder.root / "try.json").read_text())
    return found


def test_any_way_of_cutting_learns_the_same(tmp_path: Path) -> None:
    first = None
    for number, (micro, checkpointing) in enumerate([(1, False), (4, False), (4, True)]):
        settings = {"per_device_train_batch_size": micro, "activation_checkpointing": checkpointing}
        found = tried(make_job(tmp_path, f"j{number}", effective_batch_size=8, max_grad_norm=1.0, **settings))
        assert found["fits"] and found["accumulation"] == 8 // micro and not found["draws"]
        assert len(found["seconds"]) == try_batch.TIMED and found["tokens_per_s"] > 0 and found["samples_per_s"] > 0
        assert 0 <= found["wait_share"] <= 1 and 0 < found["peak_bytes"] < found["limit_bytes"]
        first = first or found["learnt"]
        assert len(first) == 4 and None not in first
        assert found["learnt"] == pytest.approx(first, rel=1e-4)


def test_with_dropout_losses_are_compared_without_it(tmp_path: Path) -> None:
    learnt = []
    for micro in (1, 4):
        folder = make_job(
            tmp_path,
            f"m{micro}",
            adapter={**ADAPTER, "lora_dropout": 0.5},
            effective_batch_size=4,
            per_device_train_batch_size=micro,
        )
        found = tried(folder)
        assert found["draws"]
        learnt.append(found["learnt"])
    assert len(learnt[0]) == 1 and learnt[0] == pytest.approx(learnt[1], rel=1e-5)


def test_memory_is_filled_with_the_longest_samples_and_twice_where_gradients_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], list[int]]] = []

    def watched(run: Run) -> list[tuple[int, ...]]:
        rows = longest_rows(run)
        lengths = run.material.corpus.lengths
        seen.append(([int(lengths[list(row)].sum()) for row in rows], sorted(map(int, lengths), reverse=True)))
        return rows

    monkeypatch.setattr(try_batch, "longest_rows", watched)
    for number, (effective, batches) in enumerate([(2, 1), (8, 2)]):
        settings = {"effective_batch_size": effective, "per_device_train_batch_size": 2}
        found = tried(make_job(tmp_path, f"j{number}", num_train_epochs=1.0, max_steps=None, **settings))
        rows, lengths = seen[-1]
        assert rows == lengths[: 2 * batches] and found["longest_tokens"] == sum(lengths[:2])


@pytest.mark.parametrize("packing", [False, True])
def test_a_process_above_its_limit_does_not_fit(tmp_path: Path, packing: bool) -> None:
    folder = make_job(tmp_path, packing=packing)
    with pytest.raises(SystemExit) as left:
        tried(folder, memory_bytes=10**6)
    told = json.loads((folder.root / "try.json").read_text())
    assert left.value.code == 3 and told["fits"] is False and "0.00 GB are allowed" in told["why"]
    assert told["peak_bytes"] > told["limit_bytes"] == 10**6


def test_a_card_that_refuses_only_the_longest_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, sizes = LossModel.forward, []

    def scarce(self: LossModel, batch: Any, **options: Any) -> Any:
        sizes.append(batch.num_tokens)
        if batch.num_tokens > 1 and len(sizes) > 1 and batch.num_tokens >= max(sizes) and len(sizes) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return forward(self, batch, **options)

    folder = make_job(tmp_path, effective_batch_size=4, per_device_train_batch_size=4)
    monkeypatch.setattr(LossModel, "forward", scarce)
    with pytest.raises(SystemExit):
        tried(folder)
    assert json.loads((folder.root / "try.json").read_text())["why"].startswith("CUDA out of memory")
    assert len(sizes) == 3, "two steps to warm up, and then the longest"


def test_what_is_memory_and_what_is_not() -> None:
    assert is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
