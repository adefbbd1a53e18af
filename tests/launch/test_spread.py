"""One job on several hosts, over a real ssh between namespaces: it trains, it stops, and it ends whole."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import LabHosts, lab_hosts
from shell import succeed
from spread_study import job_of, wait_for_step, written

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.failures import sign_in
from tunestudy.launch import spread
from tunestudy.launch.setup_hosts import script_for
from tunestudy.launch.spread import passed_on
from tunestudy.launch.terminals import command_lines
from tunestudy.preflight.hosts import Difference
from tunestudy.study.hosts import Host, read_hostfile
from tunestudy.study.load import load_study


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHosts]:
    with lab_hosts(tmp_path_factory.mktemp("lab") / "net", 2) as hosts:
        yield hosts


def tunestudy(lab: LabHosts, folder: Path, *words: str) -> "subprocess.Popen[str]":
    """`tunestudy …` on h1."""
    command = lab.command(1, [sys.executable, "-m", "tunestudy.cli", *words], folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def wait_until_gone(lab: LabHosts, host: int, seconds: float) -> float:
    began = time.monotonic()
    while lab.processes(host, "tunestudy.worker"):
        assert time.monotonic() - began < seconds, lab.processes(host, "tunestudy.worker")
        time.sleep(0.2)
    return time.monotonic() - began


def training(lab: LabHosts, folder: Path, **settings: Any) -> "subprocess.Popen[str]":
    """The launcher, on the first host, of a study that is under way."""
    written(folder, **settings)
    process = tunestudy(lab, folder, "run", "study.yaml")
    wait_for_step(folder, 5, process)
    return process


@pytest.mark.slow
@pytest.mark.lab
def test_two_hosts_train_one_job_and_it_goes_on_after_a_stop(lab: LabHosts, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    process = training(lab, folder, steps=150, engine="fsdp2")
    assert lab.processes(1, "tunestudy.worker") and lab.processes(2, "tunestudy.worker")
    stopped = tunestudy(lab, folder, "stop", "study.yaml").communicate(timeout=120)[0]
    assert "interrupted" in process.communicate(timeout=120)[0], stopped
    assert process.returncode == Exit.INTERRUPTED
    again = tunestudy(lab, folder, "run", "study.yaml")
    output = again.communicate(timeout=240)[0]
    assert again.returncode == 0, output
    result = json.loads((job_of(folder) / "result.json").read_text())
    assert result["world_size"] == 2 and result["resumed_from"] and result["steps"] == 150
    log = (job_of(folder) / "logs" / "launch.log").read_text()
    assert "[h1] " in log
    assert not lab.processes(1, "on_host") and not lab.processes(2, "on_host")


@pytest.mark.slow
@pytest.mark.lab
def test_the_network_between_hosts_is_measured(lab: LabHosts, tmp_path: Path) -> None:
    folder = written(tmp_path / "work", steps=10)
    process = tunestudy(lab, folder, "netcheck", "study.yaml")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "2 ranks on 2 hosts, gloo" in output and "h1 – h2" in output


@pytest.mark.slow
@pytest.mark.lab
def test_a_host_that_lacks_the_study_is_set_up(tmp_path: Path) -> None:
    with lab_hosts(tmp_path / "net", 2) as lab:
        folder = written(tmp_path / "work", steps=10)
        hidden = lab.run(2, ["mount", "-t", "tmpfs", "tmpfs", str(folder)])
        assert hidden.returncode == 0, hidden.stderr
        refused = tunestudy(lab, folder, "run", "study.yaml")
        assert "host h2: does not see" in refused.communicate(timeout=120)[0]
        assert refused.returncode == Exit.PREFLIGHT_REFUSED
        shown = tunestudy(lab, folder, "setup-hosts", "study.yaml").communicate(timeout=120)[0]
        assert "# h1: nothing to do" in shown and "# h2: does not see" in shown and "tar -C / " in shown
        assert lab.run(2, ["ls", str(folder)]).stdout == "", "showing the script changes nothing"
        done = tunestudy(lab, folder, "setup-hosts", "study.yaml", "--yes").communicate(timeout=120)[0]
        assert "# all hosts are equal now" in done
        assert lab.run(2, ["ls", str(folder)]).stdout.split() == ["hosts.txt", "study.yaml"]
        again = tunestudy(lab, folder, "setup-hosts", "study.yaml", "--yes").communicate(timeout=120)[0]
        assert again == "# h1: nothing to do\n# h2: nothing to do\n"
        (folder / "hosts.txt").write_text("h1 slots=1\nh7 slots=1\n")
        unknown = tunestudy(lab, folder, "setup-hosts", "study.yaml", "--yes")
        assert "host h7: cannot be reached by ssh" in unknown.communicate(timeout=120)[0]
        assert unknown.returncode == Exit.PREFLIGHT_REFUSED


def test_an_ssh_that_is_killed_here_is_a_lost_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    monkeypatch.setattr(spread, "on_host", lambda *_: ["sh", "-c", "read -r told; kill -9 $$"])
    try:
        assert spread.main(str(tmp_path), "h9", "1", "m", "ssh", "h9:1") == spread.UNREACHED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    told = sign_in(capfd.readouterr().err)
    assert told is not None and told.kind == "node_lost"
    assert told.line == "host h9 failed: the connection ended or never began"


def test_the_script_of_a_host_has_what_differs_and_nothing_else() -> None:
    nothing = list(script_for("h9", [], ["/data/a b.jsonl"]))
    assert nothing == []
    (files,) = script_for("h9", [Difference("files", "")], ["/data/a b.jsonl"])
    assert files.startswith("tar -C / --exclude=__pycache__ -cf - 'data/a b.jsonl' | ssh ") and " h9 " in files
    (code,) = script_for("h9", [Difference("code", "")], [])
    assert " src | ssh " in code and "pip" not in code
    packages = list(script_for("h9", [Difference("packages", "")], []))
    assert "pip --disable-pip-version-check freeze" in packages[0] and "--no-deps" in packages[0]
    everything = list(script_for("h9", [Difference("python", "")], ["/data"]))
    assert "-m venv" in everything[0] and len(everything) == 6


@pytest.mark.slow
@pytest.mark.lab
def test_a_slow_and_long_line_is_measured_as_it_is(tmp_path: Path) -> None:
    with lab_hosts(tmp_path / "net", 2) as lab:
        lab.slow_down(rate_mbit=100, delay_ms=10)
        folder = written(tmp_path / "work", steps=10)
        process = tunestudy(lab, folder, "netcheck", "study.yaml")
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    found = json.loads(next((folder / "results").rglob("netcheck.json")).read_text())
    largest = max(found["collectives"], key=lambda row: row["bytes"])
    assert largest["bytes"] == 1 << 24, "the next size would take a minute"
    assert 70 < largest["bus_bytes_per_s"] * 8 / 1e6 <= 100
    assert 0.02 <= found["pairs"][0]["latency_s"] * 2 < 0.06
    assert 70 < found["pairs"][0]["bytes_per_s"] * 8 / 1e6 <= 100


@pytest.mark.slow
@pytest.mark.lab
def test_everything_ends_when_torchrun_of_one_host_is_killed(lab: LabHosts, tmp_path: Path) -> None:
    process = training(lab, tmp_path / "work", steps=100000)
    lab.run(2, ["pkill", "-9", "-f", "torch.distributed.run"])
    wait_until_gone(lab, 2, 30)
    wait_until_gone(lab, 1, 30)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == Exit.JOBS_FAILED, output
    assert "failed (node_lost): host h2 failed: its torchrun was killed by signal 9; rank 0 then said: " in output


@pytest.mark.slow
@pytest.mark.lab
def test_ranks_end_when_their_launcher_is_killed(lab: LabHosts, tmp_path: Path) -> None:
    process = training(lab, tmp_path / "work", steps=100000)
    lab.run(1, ["pkill", "-9", "-f", "tunestudy.cli run|tunestudy.launch.spread"])  # one alone would be replaced
    for host in (1, 2):
        wait_until_gone(lab, host, 30)
    process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.parametrize("lost", ["power", "network"])
def test_the_first_host_ends_its_ranks_when_the_other_is_lost(tmp_path: Path, lost: str) -> None:
    """One that lost the network ends its ranks, too: nobody could stop them from outside."""
    with lab_hosts(tmp_path / "net", 2) as lab:
        process = training(lab, tmp_path / "work", steps=100000)
        lab.power_off(2) if lost == "power" else lab.cut_off(2)
        wait_until_gone(lab, 1, 30)
        if lost == "network":
            wait_until_gone(lab, 2, 60)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == Exit.JOBS_FAILED
        assert "host h2 failed: the connection ended" in output, output


@pytest.mark.slow
@pytest.mark.lab
def test_a_host_that_is_not_there_is_refused_before_anything_starts(lab: LabHosts, tmp_path: Path) -> None:
    folder = written(tmp_path / "work", steps=10, hosts="h1 slots=1\nh9 slots=1\n")
    process = tunestudy(lab, folder, "run", "study.yaml")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 3, output
    assert "h9" in output and "ssh" in output
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host"),
        ("# nobody\n\n", "names no host"),
        ("h1 slots=2\nh2\n", "hosts.txt:2: resources.hostfile: `h2` is not `name slots=N`"),
        ("h1 slots=2\nh1 slots=2\n", "h1 is named twice"),
        ("h1 slots=0\n", "has no slots"),
        ("h1 slots=two\n", "is not `name slots=N`"),
        ("-oProxyCommand=x slots=1\n", "take it for an option"),
    ],
)
def test_a_hostfile_that_is_wrong_is_told_at_its_line(tmp_path: Path, text: str, said: str) -> None:
    folder = written(tmp_path, steps=10, hosts=text)
    with pytest.raises(StudyError, match=r"hosts\.txt") as told:
        load_study(folder / "study.yaml")
    assert said in str(told.value)


def test_ranks_are_the_sum_of_slots(tmp_path: Path) -> None:
    folder = written(tmp_path, steps=10, hosts="h1 slots=3  # big\nh2 slots=1\n")
    study = load_study(folder / "study.yaml").study
    assert study.resources.ranks == 4
    assert study.variants["lora"].stages["adapt"].per_device_train_batch_size == 2
    assert read_hostfile(folder / "hosts.txt") == [Host("h1", 3), Host("h2", 1)]
    with pytest.raises(StudyError, match="is 2, but the hostfile has 4 slots"):
        load_study(folder / "study.yaml", ["resources.ranks=2"])
    with pytest.raises(StudyError, match=r"`nowhere\.txt` is not there"):
        load_study(folder / "study.yaml", ["resources.hostfile=nowhere.txt"])


def test_commands_for_a_terminal_on_each_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "work", steps=10, hosts="h1 slots=2\nh2 slots=2\n")
    monkeypatch.chdir(folder)
    lines = command_lines(load_study(folder / "study.yaml", ["resources.rendezvous_port=4000"]), Path("results"))
    assert [line for line in lines if line.startswith("# on ")] == ["# on h1", "# on h2"]
    typed = [line for line in lines if line.startswith("cd ")]
    for place, line in enumerate(typed):
        assert f"--nnodes=2 --node-rank={place} --nproc-per-node=2 --master-addr=h1 --master-port=4000" in line
        assert "COLOUR=green" in line and line.endswith(str(job_of(folder)))
    assert (job_of(folder) / "job.json").is_file()


@pytest.mark.slow
def test_what_the_commands_start_is_the_job(tmp_path: Path) -> None:
    folder = written(tmp_path / "work", steps=2)
    study = (folder / "study.yaml").read_text().replace("hostfile: hosts.txt, ", "ranks: 1, ")
    (folder / "study.yaml").write_text(study)
    command = [sys.executable, "-m", "tunestudy.cli"]
    printed = succeed([*command, "commands", "study.yaml"], cwd=folder)
    line = next(line for line in printed.splitlines() if line.startswith("cd "))
    succeed(["bash", "-c", line])
    assert (job_of(folder) / "result.json").is_file()


def test_only_what_libraries_read_is_passed_on() -> None:
    here = {"HF_HOME": "a", "SHELL": "b", "CUDA_VISIBLE_DEVICES": "0", "COLOUR": "green", "TUNESTUDY_ENV": '["COLOUR"]'}
    assert passed_on(here) == {"HF_HOME": "a", "COLOUR": "green"}
