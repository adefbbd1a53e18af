"""What a worker makes of an error."""

import errno
import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tunestudy.bench.run import is_scored
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Evaluation, Job
from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress
from tunestudy.records.stop import StopRequest
from tunestudy.train.checkpoint import NotFiniteError
from tunestudy.train.finite import LossNotFiniteError
from tunestudy.train.roll_call import RanksLostError
from tunestudy.worker import is_trained, kind_of, no_collections, report_failure, run_job, tell_phase


class OutOfPagesError(torch.OutOfMemoryError):
    """A subclass, as back-ends have them."""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("user", StudyError(at("a"), "CUDA out of memory")),
        ("oom", torch.OutOfMemoryError("x")),
        ("oom", OutOfPagesError("x")),
        ("oom", MemoryError()),
        ("oom", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        ("oom", caused(RuntimeError("the checkpoint could not be written"), MemoryError())),
        ("disk", OSError(errno.ENOSPC, "No space left on device")),
        ("disk", caused(RuntimeError("saving failed"), OSError(errno.EDQUOT, "x"))),
        ("nan", LossNotFiniteError("x")),
        ("nan", NotFiniteError("x")),
        (
            "hang",
            RanksLostError("rank 1 did not go on with the others: Timed out waiting 80ms for recv"),
        ),
        ("error", RanksLostError("rank 1 on h did not go on with the others: Connection closed by peer")),
        ("error", ValueError("CUDA out of memory is what this text says")),
        ("error", OSError(errno.ENOENT, "x")),
    ],
)
def test_kinds(kind: str, error: BaseException) -> None:
    assert kind_of(error) == kind


def test_who_knows_the_cause_overwrites_who_only_lost_others(tmp_path: Path) -> None:
    folder = JobDir(tmp_path)
    for rank, error in [(0, RanksLostError("Timed out waiting 80ms")), (1, MemoryError("m")), (2, ValueError("late"))]:
        report_failure(folder, rank, error)
    told = json.loads(folder.failure_json.read_text())
    assert (told["rank"], told["kind"]) == (1, "oom")
    report_failure(folder, 3, RanksLostError("x"))
    assert json.loads(folder.failure_json.read_text())["rank"] == 1


def test_garbage_is_not_looked_for_while_packages_come_in() -> None:
    """And is again afterwards, also where an import failed."""
    with pytest.raises(ImportError), no_collections():
        assert not gc.isenabled()
        raise ImportError("a package is broken")
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_what_packages_say_of_each_other_is_no_part_of_a_log() -> None:
    """PEFT brings bitsandbytes in, which misses kernels that no job uses, whether it is quantised or not."""
    code = "import tunestudy.worker as door; door.leave_out_of_logs(); import logging\n"
    told = "logging.getLogger('bitsandbytes.backends.cpu.ops').warning('Failed to load CPU gemm_4bit_forward')"
    done = subprocess.run([sys.executable, "-c", code + told], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"{half", b"[]", b"{}"])
def test_what_a_power_loss_left_of_its_files_ends_no_job(tmp_path: Path, content: bytes) -> None:
    """None of these is read for anything that cannot be found or made anew."""
    folder = JobDir(tmp_path)
    folder.eval.mkdir()
    for path in (folder.progress_json, folder.failure_json, folder.result_json, folder.eval_json("b")):
        path.write_bytes(content)
    assert not is_trained(Job.model_construct(fingerprint="f"), folder)
    assert not is_scored(folder, "b", Evaluation.model_construct(fingerprint="f"))
    Progress(folder, writes=False)
    report_failure(folder, 0, ValueError("x"))
    assert json.loads(folder.failure_json.read_text())["message"]
    folder.progress_json.write_bytes(content)
    tell_phase(folder, "done")
    assert json.loads(folder.progress_json.read_text())["phase"] == "done"


def test_a_job_whose_folder_was_deleted_meanwhile_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="was deleted while the job waited for its turn; `tunestudy run` makes it"):
        run_job(JobDir(tmp_path / "jobs" / "base"), StopRequest())
