"""The shell around a container: signals go in, and a submission that cannot ask for it itself is queued again."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from slurm_study import OnSlurm

from tunestudy.launch.slurm.script import ASKS_FOR_REQUEUE, Submission, script

LOOP = """\
#!/bin/bash
trap 'echo USR1 >>told' USR1
trap 'echo TERM >>told; exit 75' TERM
echo began >>told
for _ in $(seq 200); do sleep 0.05; [ -e leave ] && exit $(<leave); done
"""


class Wrapped:
    """What sbatch would run, with a loop and a scontrol that write down what they are told."""

    def __init__(self, folder: Path, *, scontrol: bool = True) -> None:
        study = OnSlurm(folder, seeds=[1], wrap="env IN=side")
        self.folder = folder
        (folder / "python").write_text(LOOP)
        (folder / "bin").mkdir()
        programs = {"sleep": 'exec /bin/sleep "${1/60/0}"'}
        if scontrol:
            programs["scontrol"] = 'echo "scontrol $*" >>told'
        for name, line in programs.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
            (folder / "bin" / name).chmod(0o755)
        text = script(Submission.of(study.jobs[:1]), study.dir, study.loaded.study.resources, has_gpus=False)
        (folder / "batch").write_text(text)
        told: Any = {**os.environ, "PATH": f"{folder}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
        self.shell = subprocess.Popen(["bash", "batch"], cwd=folder, env=told, stderr=subprocess.DEVNULL)

    def told(self) -> list[str]:
        file = self.folder / "told"
        return file.read_text().split("\n")[:-1] if file.exists() else []


def test_signals_reach_the_loop_and_its_word_is_carried_out(tmp_path: Path, until: Any) -> None:
    inside = Wrapped(tmp_path / "s")
    until(lambda: inside.told() == ["began"])
    inside.shell.send_signal(signal.SIGUSR1)
    until(lambda: inside.told() == ["began", "USR1"])
    (inside.folder / "leave").write_text(str(ASKS_FOR_REQUEUE))
    assert inside.shell.wait(timeout=20) == ASKS_FOR_REQUEUE
    assert inside.told() == ["began", "USR1", "scontrol requeue 7"]


@pytest.mark.parametrize(("leave", "scontrol"), [("0", True), (str(ASKS_FOR_REQUEUE), False)])
def test_nothing_else_is_queued_again(tmp_path: Path, leave: str, scontrol: bool, until: Any) -> None:
    inside = Wrapped(tmp_path / "s", scontrol=scontrol)
    (inside.folder / "leave").write_text(leave)
    assert inside.shell.wait(timeout=20) == int(leave)
    assert inside.told() == ["began"]


def test_a_stop_ends_the_loop_with_its_own_code(tmp_path: Path, until: Any) -> None:
    inside = Wrapped(tmp_path / "s")
    until(lambda: inside.told() == ["began"])
    inside.shell.send_signal(signal.SIGTERM)
    assert inside.shell.wait(timeout=20) == 75 and inside.told() == ["began", "TERM"]
