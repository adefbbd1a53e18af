"""The queue and the loop that empties it, against a hub that fails on purpose."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from fakehub import FakeHub, Fault
from published import WEIGHTS, checkpoint, make_published, publish, seal_files, target_of

from tunestudy.config.errors import Exit
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems
from tunestudy.records.pushes import enqueue, num_superseded, read_pushed, take, waiting
from tunestudy.share.drain import Drain, main
from tunestudy.share.hub import Hub


def drain(folder: JobDir, *, strategy: str = "every_save", most_failures: int = 3) -> Drain:
    return Drain(
        study=folder.study,
        targets=[target_of(folder, strategy=strategy)],
        card_of=lambda hub, job, repo: f"# {repo}\n",
        hub=Hub(answer_s=5),
        backoff_s=0.0,
        most_failures=most_failures,
        say=lambda text: None,
    )


def run(one: Drain) -> bool:
    return one.once(one.left(unscored=True), lambda seconds: True)


def files(server: FakeHub) -> dict[str, bytes]:
    repo = server.repos["model", "me/it"]
    return repo.commits[repo.refs["main"]]


def test_a_newer_checkpoint_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    folder = make_published(tmp_path)
    assert enqueue(folder, checkpoint(folder, 5), keep_older=False) == []
    waits = folder.waiting_pushes / "checkpoint-5"
    assert not problems(waits) and not problems(folder.checkpoint(5))
    assert (waits / "adapter_model.safetensors").samefile(folder.checkpoint(5) / "adapter_model.safetensors")
    assert enqueue(folder, checkpoint(folder, 10), keep_older=False) == ["checkpoint-5"]
    assert (waiting(folder), num_superseded(folder)) == (["checkpoint-10"], 1)
    enqueue(folder, checkpoint(folder, 15), keep_older=True)
    assert waiting(folder) == ["checkpoint-10", "checkpoint-15"]


def test_one_that_is_being_uploaded_is_left_to_it(tmp_path: Path) -> None:
    folder = make_published(tmp_path)
    enqueue(folder, checkpoint(folder, 5), keep_older=False)
    taken = take(folder, "checkpoint-5")
    assert enqueue(folder, checkpoint(folder, 10), keep_older=False) == []
    assert taken is not None and (taken / "MANIFEST.json").is_file()
    assert take(folder, "checkpoint-7") is None


def test_retention_does_not_reach_what_waits(server: FakeHub, login: str, tmp_path: Path) -> None:
    folder = make_published(tmp_path, result=False)
    enqueue(folder, checkpoint(folder, 5), keep_older=False)
    shutil.rmtree(folder.checkpoint(5))
    assert run(drain(folder))
    assert files(server)["adapter_model.safetensors"] == b"at 5"
    assert "resume/state.json" not in files(server)
    assert waiting(folder) == [] and not any(folder.current_push.iterdir())


@pytest.mark.parametrize(
    ("strategy", "where"), [("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-5")]
)
def test_whole_checkpoints_lie_in_a_folder_with_what_training_goes_on_from(
    server: FakeHub, login: str, tmp_path: Path, strategy: str, where: str
) -> None:
    folder = make_published(tmp_path, result=False)
    enqueue(folder, checkpoint(folder, 5), keep_older=False)
    assert run(drain(folder, strategy=strategy))
    assert {f"{where}/resume/state.json", f"{where}/MANIFEST.json", "adapter_model.safetensors"} <= files(server).keys()


def test_the_last_checkpoint_holds_nothing_of_those_before_it(server: FakeHub, login: str, tmp_path: Path) -> None:
    folder = make_published(tmp_path, result=False)
    for step, own in ((5, "resume/experts.json"), (10, "resume/optimizer.safetensors")):
        files_there = {"adapter_model.safetensors": b"w", "resume/state.json": b"{}", own: b"{}"}
        seal_files(folder.checkpoint(step), files_there, kind="full", step=step)
        enqueue(folder, folder.checkpoint(step), keep_older=True)
        assert run(drain(folder, strategy="checkpoint"))
    left = {name for name in files(server) if name.startswith("last-checkpoint/resume/")}
    assert left == {"last-checkpoint/resume/state.json", "last-checkpoint/resume/optimizer.safetensors"}


@pytest.mark.parametrize("said", ["", '[{"job": "ada'])
def test_a_run_that_ended_before_it_said_what_to_push_leaves_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    (tmp_path / "input").write_text(said)
    monkeypatch.setattr(os, "nice", lambda step: step)
    with open(tmp_path / "input") as given:
        monkeypatch.setattr(sys, "stdin", given)
        assert main(str(tmp_path)) == Exit.INTERRUPTED
    assert "the run ended before it said what to push" in capsys.readouterr().out


def test_a_result_is_pushed_once_with_its_card_and_again_when_it_was_made_anew(
    server: FakeHub, login: str, tmp_path: Path
) -> None:
    folder = make_published(tmp_path)
    one = drain(folder)
    assert run(one) and len(one.pushed) == 1
    assert (files(server)["adapter_model.safetensors"], files(server)["README.md"]) == (WEIGHTS, b"# me/it\n")
    noted = read_pushed(folder)["model"]
    assert noted["repo"] == "me/it" and noted["commit"] in server.repos["model", "me/it"].commits
    assert noted["verified"] == {"downloaded": 5, "by_hash": 0}
    assert drain(folder).left(unscored=True) == []
    publish(folder, b"other weights")
    assert run(drain(folder)) and files(server)["adapter_model.safetensors"] == b"other weights"


def test_a_hub_that_is_down_leaves_the_queue_as_it_is_and_the_next_push_goes_on(
    server: FakeHub, login: str, tmp_path: Path
) -> None:
    folder = make_published(tmp_path)
    enqueue(folder, checkpoint(folder, 5), keep_older=False)
    server.faults.append(Fault("/commit/main", status=500, times=3))
    down = drain(folder)
    assert not run(down) and down.failures == 3 and not down.pushed
    assert [item.key for item in drain(folder).left(unscored=True)] == ["checkpoint-5", "model"]
    again = drain(folder)
    assert run(again) and [item.key for item, _ in again.pushed] == ["checkpoint-5", "model"]


def test_pauses_double_and_the_hub_s_own_wish_counts(server: FakeHub, login: str, tmp_path: Path) -> None:
    folder = make_published(tmp_path)
    server.faults += [Fault("/commit/main", status=500, times=2), Fault("/commit/main", status=429, retry_after=60)]
    one, pauses = drain(folder, most_failures=9), []
    one.backoff_s = 2.0
    assert one.once(one.left(unscored=True), lambda seconds: pauses.append(seconds) or True)
    assert 1.5 <= pauses[0] <= 2.5 and 3 <= pauses[1] <= 5 and pauses[2] == 60


def test_what_was_damaged_while_it_waited_is_left_out_and_told(server: FakeHub, login: str, tmp_path: Path) -> None:
    folder = make_published(tmp_path, result=False)
    enqueue(folder, checkpoint(folder, 5), keep_older=False)
    (folder.waiting_pushes / "checkpoint-5" / "adapter_model.safetensors").write_bytes(b"at 6")
    one = drain(folder)
    assert run(one) and "does not match its SHA-256" in next(iter(one.refused.values()))
    assert ("model", "me/it") not in server.repos


def test_a_refusal_does_not_keep_the_others_from_their_places(server: FakeHub, login: str, tmp_path: Path) -> None:
    folder, other = make_published(tmp_path), make_published(tmp_path, "second")
    one = drain(folder)
    one.targets = [target_of(other, "you/it"), target_of(folder)]
    assert run(one) and list(one.refused) == [other.root.name]
    assert "README.md" in files(server)
