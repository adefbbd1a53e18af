"""Who may read the page: token, Host header, reading only, nothing outside of the study."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunestudy.records.layout import StudyDir

ADDRESSES = ("/", "/data", "/curves", "/job", "/log", "/sections", "/gallery.html", "/static/live.js", "/nowhere")


def test_without_the_token_nothing_is_told(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root, token=secrets.token_urlsafe(24))
    for address in ADDRESSES:
        answer = client.get(address)
        assert answer.status_code == 403
        assert "tunestudy serve" in answer.text and "half-done" not in answer.text
        assert "set-cookie" not in answer.headers
    assert client.get("/?token=wrong").status_code == 403
    assert client.get("/?token=").status_code == 403
    assert client.get("/?token=%C3%A9%00").status_code == 403


def test_the_token_becomes_a_cookie_that_no_script_reads(half: StudyDir, served: Callable[..., Any]) -> None:
    token = secrets.token_urlsafe(24)
    client = served(half.root, token=token)
    first = client.get(f"/?token={token}")
    assert first.status_code == 200 and "half-done" in first.text and token not in first.text
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and cookie.startswith("tunestudy-8765=")
    assert client.get("/data").status_code == 200  # by the cookie alone
    assert "set-cookie" not in client.get("/data").headers


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8765", True),
        ("127.0.0.1:8765", True),
        ("[::1]:9000", True),
        ("LOCALHOST:9000", True),
        ("evil.example:8765", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8765", False),
        ("192.0.2.7:8765", False),
        ("", False),
        ("[::1", True),
        ("[evil]", False),
    ],
)
def test_a_name_that_a_stranger_could_point_here_is_refused(
    half: StudyDir, served: Callable[..., Any], host: str, allowed: bool
) -> None:
    answer = served(half.root).get("/data", headers={"Host": host})
    assert answer.status_code == (200 if allowed else 421)
    assert allowed or "half-done" not in answer.text


def test_an_open_address_answers_to_its_names_and_numbers(half: StudyDir, served: Callable[..., Any]) -> None:
    token = secrets.token_urlsafe(24)
    client = served(half.root, token=token, loopback=False, names=frozenset({"node7"}))
    for host, status in (("node7:8765", 200), ("192.0.2.7:8765", 200), ("evil.example", 421)):
        assert client.get(f"/data?token={token}", headers={"Host": host}).status_code == status


def test_it_can_only_be_read(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = client.request(method, "/data")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert client.head("/").status_code == 200


def test_other_sites_get_neither_data_nor_frames(half: StudyDir, served: Callable[..., Any]) -> None:
    client = served(half.root)
    stranger = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/data", headers=stranger).status_code == 403
    for address in ADDRESSES:
        headers = client.get(address).headers
        assert "access-control-allow-origin" not in headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-frame-options"] == "DENY" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "address",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/log?id=../../study&name=passwd",
        "/log?id=..&name=secret.log",
        "/log?id={job}&name=../job.json",
        "/log?id={job}&name=..%2F..%2F..%2Fsecret.log",
        "/log?id={job}&name=/etc/passwd",
        "/log?id={job}&name=linked.log",
        "/log?id={job}&name=",
        "/job?id=..",
        "/job?id=linked-job",
        "/job?id=",
    ],
)
def test_nothing_outside_of_the_study_is_served(half: StudyDir, served: Callable[..., Any], address: str) -> None:
    outside = half.root.parent.parent / "secret.log"
    outside.write_text("what nobody may read\n")
    job = next(path for path in sorted(half.jobs.iterdir()) if path.name.startswith("base"))
    (job / "logs").mkdir()
    (job / "logs" / "linked.log").symlink_to(outside)
    (half.jobs / "linked-job").symlink_to(outside.parent)
    answer = served(half.root).get(address.format(job=job.name))
    assert answer.status_code == 404
    assert "what nobody may read" not in answer.text and "root:" not in answer.text


def test_a_job_of_the_plan_that_leads_outside_is_none(
    half: StudyDir, served: Callable[..., Any], tmp_path: Path
) -> None:
    job = sorted(path for path in half.jobs.iterdir() if path.name.startswith("adapt"))[0]
    job.rename(tmp_path / "elsewhere")
    job.symlink_to(tmp_path / "elsewhere")
    assert served(half.root).get(f"/job?id={job.name}").status_code == 404


def test_tokens_and_markup_of_logs_and_answers_do_no_harm(half: StudyDir, served: Callable[..., Any]) -> None:
    secret = "hf_" + secrets.token_hex(12)
    job = next(path for path in half.jobs.iterdir() if (path / "eval").is_dir())
    (job / "logs").mkdir()
    (job / "logs" / "rank-0.log").write_text(f"logging in with {secret}\n<script>alert(1)</script>\n")
    answers = next((job / "eval").glob("*.predictions.jsonl"))
    answers.write_text(f'{{"id": "1", "prediction": "{secret} <b>"}}\n{{"id": "2", "predic')
    client = served(half.root)
    log = client.get(f"/log?id={job.name}&name=rank-0.log")
    assert secret not in log.text and "[hidden]" in log.text
    assert log.headers["content-type"] == "application/json" and log.headers["x-content-type-options"] == "nosniff"
    told = client.get(f"/job?id={job.name}")
    assert secret not in told.text
    assert told.json()["predictions"]["digits"] == [{"id": "1", "prediction": "[hidden] <b>"}]
