"""The sweep of learning rates: what it suggests, and that it leaves nothing behind but its files."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tinyjob import ADAPTER, make_job, rows_of
from tinyranks import start

from tunestudy.records.atomic import write_json
from tunestudy.report.lr_plot import lr_plot
from tunestudy.train.lr_find import main, suggestion

STUDY = """\
study: sweep
seeds: [1]
model:
  architecture: qwen3
  config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1,
           head_dim: 16, max_position_embeddings: 128, tie_word_embeddings: true}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}
datasets: {digits: {type: digits, trim: true, held_out: 0.2}}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: 3, max_length: 80}
stages: {base: , adapt: }
variants:
  alone: {stages: [base]}
  both: {stages: [base, adapt]}
"""


def curve(fall_at: float, rates: list[float]) -> list[dict[str, float]]:
    """A loss that falls around `fall_at` and explodes a hundredfold above."""
    rows = []
    for step, rate in enumerate(rates):
        loss = 1.0 + 2.0 / (1.0 + (rate / fall_at) ** 2) + (rate / (100 * fall_at)) ** 2
        rows.append({"step": step + 1, "learning_rate": rate, "loss": loss, "smoothed": loss})
    return rows


def test_suggests_where_the_loss_falls_fastest() -> None:
    rates = [10 ** (-7 + 7 * i / 99) for i in range(100)]
    found = suggestion(curve(1e-3, rates))
    assert found is not None and 0.5e-3 < found < 2e-3


def test_suggests_nothing_when_the_loss_never_falls() -> None:
    rates = [10 ** (-7 + 7 * i / 49) for i in range(50)]
    rows = [{"step": i, "learning_rate": rate, "loss": 1.0 + i, "smoothed": 1.0 + i} for i, rate in enumerate(rates)]
    assert suggestion(rows) is None
    assert suggestion([]) is None


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_sweep_rises_geometrically_and_ends_when_it_diverges(tmp_path: Path, adapter: dict | None) -> None:
    folder = make_job(tmp_path, adapter=adapter)
    write_json(folder.root / "request.json", {"from": 1e-5, "to": 1e3, "steps": 40})
    main(str(folder.root))
    rows = rows_of(folder.root / "lr_find.csv")
    rates = [float(row["learning_rate"]) for row in rows]
    ratios = [b / a for a, b in itertools.pairwise(rates)]
    assert rates[0] == pytest.approx(1e-5) and max(ratios) == pytest.approx(min(ratios))
    told = json.loads((folder.root / "lr_find.json").read_text())
    if adapter is None:  # the adapter's loss saturates: norms bound what rank 4 can do to this model
        assert told["diverged_at"] is not None and len(rows) < 40
    assert told["suggested"] is None or 1e-5 < told["suggested"] < told["lowest_loss_at"] * 1.01
    assert not folder.model.exists() and not list(folder.root.glob("checkpoint-*"))


@pytest.mark.slow
def test_two_ranks_sweep_as_one(tmp_path: Path) -> None:
    losses = []
    for ranks in (1, 2):
        folder = make_job(tmp_path, f"r{ranks}", per_device_train_batch_size=2)
        write_json(folder.root / "request.json", {"from": 1e-5, "to": 1e-1, "steps": 20})
        assert start(folder, ranks, "tunestudy.train.lr_find").wait(timeout=300) == 0
        losses.append([float(row["loss"]) for row in rows_of(folder.root / "lr_find.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_picture_is_svg_with_the_suggestion() -> None:
    rates = [10 ** (-7 + i / 10) for i in range(60)]
    losses = [3.0 + math.sin(i) for i in range(60)]
    root = ET.fromstring(lr_plot(rates, losses, losses, 1e-4))
    lines = [element.get("class") for element in root.iter() if element.tag.endswith(("polyline", "line"))]
    assert {"raw", "mean", "pick"} <= set(lines)
    assert "http" not in ET.tostring(root, encoding="unicode").replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
def test_command_needs_parents_and_leaves_the_study_alone(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(STUDY)

    def lr_find(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tunestudy.cli", "lr-find", "sweep.yaml", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    early = lr_find("--variant", "both")
    assert early.returncode == 3 and "--only alone@base" in early.stderr
    assert not (tmp_path / "results").exists()
    done = lr_find("--from", "1e-5", "--to", "1", "--steps", "30")
    assert done.returncode == 0, done.stderr
    assert "alone, stage base: " in done.stdout and "lr_find.svg" in done.stdout
    study = tmp_path / "results" / "sweep"
    assert (study / "lr-find").is_dir() and not (study / "plan.json").exists() and not (study / "jobs").exists()
    assert lr_find("--variant", "bothh").stderr.count("did you mean `both`?") == 1
    assert lr_find("--from", "1", "--to", "0.1").returncode == 2
