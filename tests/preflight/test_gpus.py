"""What is made of nvidia-smi, which is played by a script on PATH."""

from pathlib import Path

import pytest

from tunestudy.preflight import gpus, packages
from tunestudy.preflight.points import Point
from tunestudy.study.load import load_study

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}, dtype: bfloat16}
datasets: {digits: {type: digits}}
variants: {untrained: {stages: []}}
"""
CARD = "0, GPU-a, NVIDIA H200, 143771, 12, 570.86.10, 9.0"
HEALTHY = "0, 0"
SOUND = "00000000:3B:00.0, No, No"


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Points by name, when nvidia-smi answers so."""

    def ask(
        *,
        cards: str = CARD,
        health: str = HEALTHY,
        rows: str = SOUND,
        apps: str = "",
        kernel: str = "",
        code: int = 0,
        study: str = STUDY,
    ) -> dict[str, Point]:
        programs = tmp_path / "bin"
        programs.mkdir(exist_ok=True)
        for name, text in (("cards", cards), ("health", health), ("rows", rows), ("apps", apps), ("kernel", kernel)):
            (programs / name).write_text(text + "\n")
        script = (
            f'#!/bin/sh\ncd {programs}\ncase "$1" in *compute-apps*) cat apps;; *remapped*) cat rows;; '
            f"*ecc*) cat health;; "
            f"*) cat cards;; esac\nexit {code}\n"
        )
        for name, text in (("nvidia-smi", script), ("dmesg", f"#!/bin/sh\ncat {programs}/kernel\n")):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        file = tmp_path / "study.yaml"
        file.write_text(study)
        return {point.check: point for point in gpus.gpu_points(load_study(file).study, [])}

    monkeypatch.setattr(gpus, "cuda_of_torch", lambda: "12.8")
    return ask


def test_a_card_on_which_all_is_well(points):
    found = points()
    assert {point.state for point in found.values()} == {"ok"}
    assert found["GPUs"].found == "1 × NVIDIA H200"


@pytest.mark.parametrize(
    ("asked", "check", "state", "told"),
    [
        (
            {"cards": CARD.replace("570.86.10", "470.57.02")},
            "driver",
            "refused",
            "470.57.02 is too old for torch's CUDA",
        ),
        ({"cards": CARD.replace("9.0", "7.5")}, "precision", "warning", "emulated on compute capability 7.5"),
        ({"cards": CARD.replace(" 12,", " 90000,")}, "GPUs free", "warning", "90,000 of 143,771 MiB"),
        ({"apps": "GPU-a, 77, /usr/bin/python, 900 MiB"}, "GPUs free", "warning", "process 77 (python, 900 MiB)"),
        ({"health": "0, 3"}, "GPU health", "warning", "3 uncorrected"),
        ({"health": "0, [N/A]", "rows": "3B, [N/A], [N/A]"}, "GPU health", "ok", "no memory errors"),
        ({"rows": "3B, No, Yes"}, "GPU health", "warning", "could not be remapped"),
        ({"rows": "3B, 1, 0"}, "GPU health", "warning", "wait for a reset"),
        ({"kernel": "[1.2] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off"}, "GPU health", "warning", "Xid 79 on"),
        ({"cards": "No devices were found"}, "GPUs", "refused", "names no GPU: No devices were found"),
        ({"cards": "\x00\xff;;; , ,\n7", "code": 0}, "GPUs", "refused", "names no GPU"),
        ({"cards": "NVIDIA-SMI has failed", "code": 9}, "GPUs", "refused", "does not work: NVIDIA-SMI has failed"),
        ({"cards": f"{CARD}\n1, GPU-b, NVIDIA A100, 1, 1, 1, 8.0"}, "GPUs", "warning", "2 × NVIDIA A100, NVIDIA H200"),
    ],
)
def test_what_is_wrong_is_told(points, asked, check, state, told):
    point = points(**asked)[check]
    assert (point.state, told in point.found) == (state, True), point
    assert point.remedy or state == "ok"


def test_a_driver_that_hangs_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    asked = gpus.answer_of
    monkeypatch.setattr(gpus, "answer_of", lambda command: asked(command, patience_s=0.05))
    seen = gpus.look()
    assert (seen.answer.state, seen.gpus) == ("silent", ())


def test_gpus_that_the_study_asks_for_and_the_machine_lacks(points, monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "look", lambda: gpus.Seen(gpus.Answer("absent"), ()))
    assert points()["GPUs"].state == "ok"
    assert points(study=STUDY + "resources: {gpus: 2}\n")["GPUs"].state == "refused"
    elsewhere = points(study=STUDY + "resources: {gpus: 2, executor: slurm}\n")
    assert {name: point.state for name, point in elsewhere.items()} == {"GPUs": "not needed"}, "a login node has none"


def test_a_torch_for_cpus_beside_gpus(monkeypatch):
    monkeypatch.setattr(packages, "_version", lambda name: "2.13.0+cpu")
    monkeypatch.setattr(packages, "cuda_of_torch", lambda: None)
    assert packages.torch_point(4).state == "refused"
    assert packages.torch_point(0).state == "ok"
