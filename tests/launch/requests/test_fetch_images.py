"""`tunestudy fetch` from the command line to the plan that knows what came."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from badweb import Server

from tunestudy.config.data import FileDataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.data.fetch.wanted import fetch_dir
from tunestudy.data.sources import Folders
from tunestudy.launch.requests.fetch_images import fetch_drawn, with_fetch
from tunestudy.launch.requests.fetch_study import Wish, fetch_study
from tunestudy.launch.run import run_study
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.checks import image_problems
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import read_lock
from tunestudy.study.identity import Identities
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

pytestmark = pytest.mark.alone

STUDY = """\
study: pictures
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets:
  pool:
    path: pool.jsonl
    fetch: {allow_loopback: true, per_host: 4, backoff_s: 0.05}
  words: {path: words.jsonl}
defaults: {data: pool, learning_rate: 1e-3, effective_batch_size: 2, max_steps: 1}
stages: {base: }
variants: {one: {stages: [base]}}
"""


@pytest.fixture(scope="module")
def server():
    server = Server()
    server.start()
    yield server
    server.stop()


def write_study(tmp_path: Path, urls: list[str], text: str = STUDY) -> Path:
    rows = [{"image": url, "prompt": "?", "completion": "!"} for url in urls]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "study.yaml").write_text(text)
    return tmp_path / "study.yaml"


def command(tmp_path: Path, *options: str) -> list[str]:
    places = ["fetch", str(tmp_path / "study.yaml"), "--results", str(tmp_path / "results")]
    return [sys.executable, "-m", "tunestudy.cli", *places, *options]


@pytest.mark.slow
def test_from_the_command_line_to_the_plan(tmp_path, server):
    loaded = load_study(
        write_study(tmp_path, [server.url(f"image/{i}") for i in range(3)] + [server.url("status/404")])
    )
    study = StudyDir(tmp_path / "results" / "pictures")
    before = make_plan(loaded, tmp_path / "results").jobs[0].job
    (problem,) = image_problems(Asked(loaded, [before], study, starts=True))
    assert str(problem) == "datasets.pool: its images have not been fetched; first `tunestudy fetch STUDY`"

    foreseen = subprocess.run(command(tmp_path, "--dry-run"), capture_output=True, text=True, check=True).stdout
    assert "pool: 4 records name 4 images, 4 different URLs on 1 hosts" in foreseen and not server.seen

    done = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pool: 3 of 4 images are here" in done.stdout and "1  http 404" in done.stdout
    assert not list(study.fetch.glob("request-*"))

    after = make_plan(loaded, tmp_path / "results").jobs[0].job
    lock = read_lock(tmp_path / "pictures.lock")
    assert lock.items == () and len(lock.images["pool"]["shards"]) == 1
    assert after.fingerprint != before.fingerprint
    assert make_plan(loaded, tmp_path / "results").jobs[0].job.fingerprint == after.fingerprint
    assert list(image_problems(Asked(loaded, [after], study, starts=True))) == []


@pytest.mark.slow
def test_an_interrupt_reaches_the_worker(tmp_path, server):
    write_study(tmp_path, [server.url(f"image/{i}?wait=0.2") for i in range(60)])
    server.seen.clear()
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not server.seen and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and "`tunestudy fetch study.yaml` goes on" in output


def test_which_data_sets_are_fetched_for(tmp_path):
    loaded = load_study(write_study(tmp_path, ["http://example.com/a.jpg"]))
    assert list(with_fetch(loaded, "")) == list(with_fetch(loaded, "pool")) == ["pool"]
    with pytest.raises(StudyError, match="no data set `pol`; did you mean `pool`"):
        with_fetch(loaded, "pol")
    with pytest.raises(StudyError, match="`words` is no data set of the hub, and has no `fetch"):
        fetch_study(loaded, tmp_path / "results", Wish(dataset="words"))


def test_a_study_that_names_nothing_needs_nothing(tmp_path, capsys):
    none = load_study(write_study(tmp_path, ["x"], STUDY.replace("    fetch:", "    # fetch:")))
    assert fetch_study(none, tmp_path / "results", Wish()) == Exit.DONE
    assert "nothing to fetch: study.yaml names nothing on the hub" in capsys.readouterr().out
    with pytest.raises(StudyError, match="the study names nothing on the hub"):
        fetch_study(none, tmp_path / "results", Wish(update=["all"]))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("where", ["pool.jsonl", "."])
def test_both_planes_find_the_same_folder(tmp_path, where):
    text = STUDY.replace("path: pool.jsonl", f"path: {where}")
    (tmp_path / "data").mkdir()
    loaded = load_study(write_study(tmp_path / "data", ["http://example.com/a.jpg"], text))
    study = StudyDir(tmp_path / "results" / "pictures")
    told = Identities(loaded.study, tmp_path / "data", study).datasets["pool"]["images"]
    folders = Folders(tmp_path / "data", study.cache)
    assert told == [fetch_dir(loaded.study.datasets["pool"], folders).root.name, None]


def test_a_data_set_without_urls_is_what_it_was(tmp_path):
    loaded = load_study(write_study(tmp_path, ["http://example.com/a.jpg"]))
    told = Identities(loaded.study, tmp_path, StudyDir(tmp_path / "results")).datasets["words"]
    old = FileDataset(path="words.jsonl").model_dump(exclude={"path", "fetch"})
    assert told.keys() == {*old, "content"}


def test_a_wrong_key_is_told_with_the_nearest(tmp_path):
    with pytest.raises(StudyError, match=r"retrys.*retries"):
        load_study(write_study(tmp_path, ["x"], STUDY.replace("per_host: 4", "retrys: 4")))


def test_num_samples_is_datacomp_s_own_key_and_an_alias_elsewhere(tmp_path):
    (tmp_path / "meta.csv").write_text("uid,url,text\na,http://example.com/a.jpg,b\n")
    pool = "  pool: {type: datacomp, path: meta.csv, num_samples: 5}\n  words: {path: words.jsonl, num_samples: 7}\n"
    text = STUDY[: STUDY.index("  pool:")] + pool + STUDY[STUDY.index("defaults:") :]
    loaded = load_study(write_study(tmp_path, [], text))
    assert loaded.study.datasets["pool"].num_samples == 5 and loaded.study.datasets["words"].limit == 7
    assert list(with_fetch(loaded, "")) == ["pool"]


@pytest.mark.slow
def test_a_pool_that_is_drawn_here_is_fetched_once_and_by_run_alone(tmp_path, capfd):
    drawn = "{type: datacomp, drawn: {count: 30}, num_samples: 20}"
    text = STUDY.replace("  words: {path: words.jsonl}\n", f"  words: {drawn}\n")
    loaded = load_study(write_study(tmp_path, ["https://example.com/1.jpg"], text))
    before = make_plan(loaded, tmp_path / "results")
    assert not any("datasets.words" in line for line in before.warnings), "nothing that a user has to do"
    assert fetch_drawn(loaded, tmp_path / "results") == Exit.DONE
    told = capfd.readouterr().out
    assert "words: " in told and "of 20 images are here" in told and "pool" not in told, "the web is left to `fetch`"
    assert fetch_drawn(loaded, tmp_path / "results") == Exit.DONE
    assert capfd.readouterr().out == ""
    after = make_plan(loaded, tmp_path / "results")
    assert before.inputs["datasets"]["words"] != after.inputs["datasets"]["words"]


@pytest.mark.slow
def test_a_run_of_some_waits_for_their_images_alone(tmp_path):
    """The refusal names what the chosen variants read, and nothing of the others."""
    text = STUDY.replace("  words: {path: words.jsonl}\n", "  other: {path: pool.jsonl, fetch: {min_side: 2}}\n")
    two = "two: {stages: [base], overrides: {base: {data: other}}}"
    text = text.replace("one: {stages: [base]}", f"one: {{stages: [base]}}, {two}")
    loaded = load_study(write_study(tmp_path, ["https://example.com/1.jpg"], text))
    told = {}
    for only in ((), ("two",)):
        with pytest.raises(StudyError) as refused:
            run_study(loaded, tmp_path / "results", only=only, quiet=True)
        told[only] = str(refused.value)
    assert "datasets.pool" in told[()] and "datasets.other" in told[()]
    assert "datasets.pool" not in told[("two",)] and "datasets.other" in told[("two",)]
