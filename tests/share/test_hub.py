"""Pushing with the real client: what arrives is compared, refusals are told plainly, what may pass is told apart."""

from pathlib import Path

import pytest
from fakehub import FakeHub, Fault

from tunestudy.share.hub import DOWNLOADED_BYTES, Hub, PassingError, Place, Pushed, RefusedError

PLACE = Place(repo="me/it")


def push(folder: Path, place: Place = PLACE, **files: bytes) -> Pushed:
    made = {}
    for name, content in {"weights": b"w" * 20_000, "config": b"{}", **files}.items():
        made[f"{name}.safetensors" if name == "weights" else f"{name}.json"] = path = folder / name
        path.write_bytes(content)
    return Hub(answer_s=5).push(place, made, "test", download=DOWNLOADED_BYTES)


def commits(server: FakeHub) -> int:
    return len(server.repos["model", "me/it"].commits)


def test_what_is_pushed_is_downloaded_and_compared_and_a_second_push_makes_no_commit(
    server: FakeHub, login: str, tmp_path: Path
) -> None:
    first = push(tmp_path)
    assert (first.changed, first.downloaded, commits(server)) == (2, 2, 2)
    assert server.repos["model", "me/it"].commits[first.commit]["weights.safetensors"] == b"w" * 20_000
    second = push(tmp_path)
    assert (second.changed, second.commit, commits(server)) == (0, first.commit, 2)
    third = push(tmp_path, config=b'{"a": 1}')
    assert (third.changed, commits(server)) == (1, 3)


def test_a_branch_is_made_and_main_stays_as_it_is(server: FakeHub, login: str, tmp_path: Path) -> None:
    push(tmp_path, Place(repo="me/it", revision="trial", private=True))
    repo = server.repos["model", "me/it"]
    assert "config.json" in repo.commits[repo.refs["trial"]]
    assert "config.json" not in repo.commits[repo.refs["main"]]
    assert repo.private


@pytest.mark.parametrize(
    ("fault", "wait_s"),
    [
        (Fault("/commit/main", status=500), 0),  # which the client does not try again by itself
        (Fault("/commit/main", status=429, retry_after=7), 7),
        (Fault("/commit/main", cut_after=10), 0),
        (Fault("PUT /lfs", status=503, times=20), 0),
        (Fault("PUT /lfs", cut_after=1000, times=20), 0),
        (Fault("repos/create", status=502, times=20), 0),
    ],
    ids=lambda one: f"{one.where} {one.status or 'cut'}" if isinstance(one, Fault) else "",
)
def test_what_may_pass_is_told_as_such_and_the_next_push_sends_no_byte_twice(
    server: FakeHub, login: str, tmp_path: Path, fault: Fault, wait_s: float
) -> None:
    server.faults.append(fault)
    with pytest.raises(PassingError) as told:
        push(tmp_path)
    assert told.value.wait_s == wait_s
    server.faults.clear()
    assert push(tmp_path).changed == 2
    assert sum(count for name, count in server.sent.items() if len(name) == 64) == 20_000


def test_a_hub_that_fails_while_what_it_holds_is_compared_is_asked_again(
    server: FakeHub, login: str, tmp_path: Path
) -> None:
    server.faults.append(Fault("HEAD /me/it/resolve", status=503, times=20))
    with pytest.raises(PassingError, match="503"):
        push(tmp_path)
    server.faults.clear()
    assert push(tmp_path).changed == 0


def test_a_put_that_fails_for_a_moment_is_tried_again_by_the_client(
    server: FakeHub, login: str, tmp_path: Path
) -> None:
    server.faults.append(Fault("PUT /lfs", status=503, times=2))
    assert push(tmp_path).changed == 2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault("/commit/main", status=413, message="too large"), "no room for me/it.*413.*too large"),
        (Fault("/commit/main", status=403, message="Private repository storage limit reached"), "no room.*403"),
        (Fault("/commit/main", status=403), "may not write to me/it .403.: `hf auth login`"),
        (Fault("repos/create", status=401), "takes no token from here .401.: `hf auth login`, or HF_TOKEN"),
        (Fault("/commit/main", status=422, message="bad card"), "refuses me/it .422.: bad card"),
    ],
)
def test_refusals_say_what_to_do_and_never_show_the_token(
    server: FakeHub, login: str, tmp_path: Path, fault: Fault, told: str
) -> None:
    fault.message += f" {login}"
    server.faults.append(fault)
    with pytest.raises(RefusedError, match=told) as refused:
        push(tmp_path)
    assert login not in str(refused.value)


def test_without_a_token_the_login_is_named(
    server: FakeHub, login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RefusedError, match="hf auth login"):
        push(tmp_path)


def test_another_account_s_repository_is_refused(server: FakeHub, login: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="may not write to you/it"):
        push(tmp_path, Place(repo="you/it"))


def test_content_that_comes_back_changed_is_noticed(server: FakeHub, login: str, tmp_path: Path) -> None:
    server.spoilt.add("weights.safetensors")
    with pytest.raises(PassingError, match=r"other content back than was sent: weights\.safetensors"):
        push(tmp_path)


def test_a_hub_that_never_answers_is_given_up(server: FakeHub, login: str, tmp_path: Path) -> None:
    server.faults.append(Fault("repos/create", wait_s=3, times=20))
    path = tmp_path / "config"
    path.write_bytes(b"{}")
    with pytest.raises(PassingError, match="cannot be reached"):
        Hub(answer_s=0.1).push(PLACE, {"config.json": path}, "test", download=DOWNLOADED_BYTES)


def test_offline_is_told(login: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RefusedError, match="HF_HUB_OFFLINE is set"):
        push(tmp_path)
