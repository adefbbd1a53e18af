"""A disk that is really full, under a real worker: what is told, what stays, and what comes of it with room again."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakehub import FakeHub, Fault
from shell import succeed

from tunestudy.config.errors import Exit
from tunestudy.records.hashes import sha256
from tunestudy.records.manifest import problems

STUDY = """\
study: full
seeds: [1]
resources: {retries: {disk: 0}}
model:
  architecture: qwen3
  config: {hidden_size: 64, intermediate_size: 192, num_hidden_layers: 3, num_attention_heads: 4,
           num_key_value_heads: 4, head_dim: 16, max_position_embeddings: 128, tie_word_embeddings: true}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}
datasets: {digits: {type: digits, trim: true, limit: 200}}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: 40, max_length: 80, logging_steps: 1,
           full_save_steps: 5, save_total_limit: 20}
stages: {train: }
variants: {only: {stages: [train]}}
"""


class Disk:
    """A file system of its own, whose size can be set while it is in use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        succeed(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", folder])

    def leave_free(self, num_bytes: int) -> None:
        facts = os.statvfs(self.folder)
        self._resize((facts.f_blocks - facts.f_bfree) * facts.f_bsize + num_bytes)

    def make_room(self) -> None:
        self._resize(2**31)

    def _resize(self, num_bytes: int) -> None:
        succeed(["mount", "-o", f"remount,size={num_bytes}", self.folder])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    yield (made := Disk(tmp_path / "disk"))
    succeed(["umount", "-l", made.folder])


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    (made := FakeHub()).start()
    yield made
    made.stop()


ONE_LONG_EPOCH = (
    STUDY.replace("retries: {disk: 0}", "retries: {disk: 1, wait_s: 1}")
    .replace("limit: 200", "limit: 3200")
    .replace("max_steps: 40", "max_steps: 300")
    .replace("full_save_steps: 5", "full_save_steps: 30, save_steps: 30")
)
"""A row of loss_log.csv is all that is written between two checkpoints."""
OF_HUB = """\
study: full
seeds: [1]
model: {model_name_or_path: org/tiny}
datasets: {digits: {type: digits, limit: 200}}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: 2, max_length: 80}
stages: {train: }
variants: {only: {stages: [train]}}
"""


def begun(folder: Path, *words: str, study: str = STUDY, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(study)
    command = [sys.executable, "-m", "tunestudy.cli", *words, "study.yaml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, text=True, env=env, **pipes)  # type: ignore[call-overload, no-any-return]


def left(folder: Path) -> tuple[str, list[list[str]]]:
    """The result's digest, and its log without what depends on the clock."""
    (job,) = folder.glob("results/full/jobs/*")
    rows = csv.DictReader((job / "loss_log.csv").read_text().splitlines())
    return sha256(job / "model" / "model.safetensors"), [
        [value for name, value in row.items() if name != "tokens_per_s"] for row in rows
    ]


@pytest.mark.slow
@pytest.mark.lab
def test_a_full_disk_costs_time_and_nothing_else(disk: Disk, tmp_path: Path, until: Callable[..., None]) -> None:
    undisturbed = begun(tmp_path / "quiet", "run")
    run = begun(disk.folder, "run")
    until(lambda: list(disk.folder.glob("results/full/jobs/*/checkpoint-5")) or run.poll() is not None, "a checkpoint")
    disk.leave_free(300_000)  # a checkpoint has 1.9 MB, weights and two moments of each; the result a third of that
    told = run.communicate(timeout=100)[0]
    assert run.returncode == Exit.JOBS_FAILED, told
    (job,) = disk.folder.glob("results/full/jobs/*")
    assert f"failed (disk): no space left to publish the result in {job}: about 647.0 kB needed, " in told
    assert "kB free" in told and "next: make room (`tunestudy clean`" in told
    log = (job / "logs" / "rank-0.log").read_text()
    assert f"no space left for checkpoint-10 in {job}: about 1.9 MB needed, " in log and "Traceback" not in log
    whole = list(job.glob("checkpoint-*"))
    assert whole and not any(problems(one) for one in whole) and not list(job.glob(".tmp-*"))
    disk.leave_free(0)
    report = begun(disk.folder.parent, "report", "--results", str(disk.folder / "results"))
    told = report.communicate(timeout=100)[0]
    assert report.returncode == Exit.PREFLIGHT_REFUSED, told
    assert "report: the report cannot be written: No space left on device, 0 B free" in told
    disk.make_room()
    again = begun(disk.folder, "run")
    told = again.communicate(timeout=100)[0]
    assert again.returncode == Exit.DONE, told
    assert json.loads((job / "result.json").read_text())["resumed_from"] == [5]
    assert undisturbed.wait(timeout=100) == Exit.DONE
    assert left(disk.folder) == left(tmp_path / "quiet")


@pytest.mark.slow
@pytest.mark.lab
def test_a_row_of_the_loss_log_that_finds_no_room_is_told_and_leaves_no_half(
    disk: Disk, tmp_path: Path, until: Callable[..., None]
) -> None:
    run = begun(disk.folder, "run", study=ONE_LONG_EPOCH)
    until(lambda: list(disk.folder.glob("results/full/jobs/*/checkpoint-30")) or run.poll() is not None, "a checkpoint")
    disk.leave_free(0)
    told = run.communicate(timeout=100)[0]
    assert run.returncode == Exit.JOBS_FAILED, told
    (job,) = disk.folder.glob("results/full/jobs/*")
    assert f"rank 0 failed: no space left for a line of loss_log.csv in {job}: about " in told
    assert " B needed, 0 B free" in told and "next: make room (`tunestudy clean`" in told
    assert "its pause is over and there still was no room, so it was not started again" in told
    assert "Traceback" not in told and "Traceback" not in (job / "logs" / "rank-0.log").read_text()
    rows = (job / "loss_log.csv").read_bytes()
    assert rows.endswith(b"\n") and rows.count(b"\n") > 30
    disk.make_room()
    again = begun(disk.folder, "run", study=ONE_LONG_EPOCH)
    undisturbed = begun(tmp_path / "quiet", "run", study=ONE_LONG_EPOCH)
    told = again.communicate(timeout=100)[0]
    assert again.returncode == Exit.DONE, told
    assert json.loads((job / "result.json").read_text())["resumed_from"]
    assert undisturbed.wait(timeout=100) == Exit.DONE
    assert left(disk.folder) == left(tmp_path / "quiet")


@pytest.mark.slow
@pytest.mark.lab
def test_a_disk_without_inodes_is_told_as_such(disk: Disk) -> None:
    succeed(["mount", "-o", "remount,nr_inodes=40", disk.folder])
    run = begun(disk.folder, "run")
    told = run.communicate(timeout=100)[0]
    assert run.returncode in (Exit.PREFLIGHT_REFUSED, Exit.JOBS_FAILED), told
    assert "GB free, but no inodes for more files" in told and "Traceback" not in told
    succeed(["mount", "-o", "remount,nr_inodes=10000", disk.folder])
    again = begun(disk.folder, "run")
    told = again.communicate(timeout=100)[0]
    assert again.returncode == Exit.DONE, told


@pytest.mark.slow
@pytest.mark.lab
def test_a_fetch_that_finds_no_room_keeps_what_came_and_goes_on(
    disk: Disk, hub: FakeHub, tmp_path: Path, until: Callable[..., None]
) -> None:
    weights = os.urandom(24_000_000)
    hub.commit("model", "org/tiny", {"config.json": b"{}", "model.safetensors": weights})
    hub.faults.append(Fault("GET /org/tiny/resolve", wait_s=0.005, times=400))  # 64 kB each
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    there = {**kept, **hub.environment(disk.folder / "hf")}
    fetch = begun(tmp_path / "study", "fetch", study=OF_HUB, env=there)
    until(lambda: hub.sent["model.safetensors"] > 1_000_000 or fetch.poll() is not None, "a megabyte")
    disk.leave_free(12_000_000)  # the client writes 10 MB at a time
    told = fetch.communicate(timeout=100)[0]
    assert fetch.returncode == Exit.PREFLIGHT_REFUSED, told
    assert f"no space left for what the hub sends in {disk.folder}/hf/hub: " in told and "Traceback" not in told
    assert "all that came is kept: make room, then `tunestudy fetch study.yaml` goes on" in told
    disk.make_room()
    hub.faults.clear()
    before = hub.sent["model.safetensors"]
    again = begun(tmp_path / "study", "fetch", study=OF_HUB, env=there)
    told = again.communicate(timeout=100)[0]
    assert again.returncode == Exit.DONE, told
    assert 0 < hub.sent["model.safetensors"] - before < len(weights) - 9_000_000
    assert [one.read_bytes() == weights for one in disk.folder.rglob("model.safetensors")] == [True]
