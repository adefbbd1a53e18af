"""`tunestudy check` on file systems that are really small and on hosts that are really there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import lab_hosts

from tunestudy.preflight import folders
from tunestudy.preflight.checks import folder_problems

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root"),
]

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {digits: {type: digits}}
resources: {hostfile: hosts.txt}
variants: {untrained: {stages: []}}
"""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB and 50 files."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=50", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_file_system_without_room(mounted):
    (problem,) = folder_problems(mounted / "results" / "tiny", 10**9)
    assert " MB are free" in problem.message
    inodes = folders.files_point(mounted)
    assert inodes.state == "refused" and "49 more files" in inodes.found
    point = folders.speed_point(mounted)
    assert point.state == "refused" and "No space left" in point.found
    assert list(mounted.iterdir()) == []


def test_hosts_are_asked_for_themselves_and_for_their_ports(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "study.yaml").write_text(STUDY)
    (work / "hosts.txt").write_text("h1 slots=1\nh2 slots=1\n")
    command = [sys.executable, "-m", "tunestudy.cli", "check", "study.yaml", "--json"]
    with lab_hosts(tmp_path / "lab", 2) as hosts:
        on_h1 = hosts.command(1, command, work)
        told = json.loads(subprocess.run(on_h1, capture_output=True, text=True, check=False).stdout)
        points = {one["check"]: one for one in told["points"]}
        assert [points[name]["state"] for name in ("clock", "rendezvous port")] == ["ok"] * 2
        hosts_told = [one["found"] for one in told["points"] if one["check"] == "hosts" and one["state"] == "ok"]
        assert [words.partition(": ")[0] for words in hosts_told] == ["h1", "h2"]
        assert "2 other clocks" in points["clock"]["found"]
        on_h1 += ["resources.rendezvous_port=22"]  # where sshd listens
        done = subprocess.run(on_h1, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    points = {one["check"]: one for one in json.loads(done.stdout)["points"]}
    assert points["rendezvous port"]["state"] == "refused" and "port 22 of h1" in points["rendezvous port"]["found"]
