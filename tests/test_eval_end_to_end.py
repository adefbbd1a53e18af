"""`tunestudy eval` with real models: one by itself, an untouched one in a study, a study with a curve."""

import csv
import json
import os
import string
import subprocess
import sys
from pathlib import Path

import pytest

from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

ALPHABET = string.ascii_letters + string.digits + string.punctuation + " \n"
SEEN = ("mmbench_en", "textvqa", "docvqa", "chartqa", "mathvista")
COLUMNS = ["variant", "benchmark", "metric", "mean", "std", "ci_low", "ci_high", "n_seeds", "delta", "p_value"]


def tunestudy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("tunestudy")
    return subprocess.run([program, *words], cwd=folder, env=os.environ, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny InternVL in a folder, as one would download it."""
    from tinyeyes import model_settings

    from tunestudy.config.model import ModelConfig
    from tunestudy.models.origin import load_processor, load_tokenizer, random_weights
    from tunestudy.models.publish import save_result

    tokenizer = {"type": "characters", "alphabet": ALPHABET}
    settings = ModelConfig.model_validate({**model_settings("internvl"), "tokenizer": tokenizer})
    known = load_tokenizer(settings, Path())
    weights = random_weights(settings, known, seed=0, device="cpu")
    folder = tmp_path_factory.mktemp("models") / "TinyInternVL"
    save_result(weights, known, folder, None, load_processor(settings, Path(), weights))
    return folder


@pytest.mark.slow
def test_a_model_by_itself_on_two_ranks(model: Path, tmp_path: Path) -> None:
    words = ["eval", "--model", str(model), "--benchmarks", "mmb_en", *SEEN[1:], "--output", "tables/A0.csv"]
    words += ["--batch_size", "4", "--num_gpus", "2", "--tiny", "--limit", "6"]
    done = tunestudy(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "tables/A0.csv").open()))
    assert list(rows[0]) == COLUMNS
    assert list(dict.fromkeys(row["benchmark"] for row in rows)) == list(SEEN)
    (study,) = (tmp_path / "results").iterdir()
    (job,) = (study / "jobs").iterdir()
    for row in rows:
        told = json.loads((job / f"eval/{row['benchmark']}.json").read_text())
        assert float(row["mean"]) == pytest.approx(told["metrics"][row["metric"]])
        assert (job / f"eval/{row['benchmark']}.predictions.jsonl").read_text().count("\n") == told["n"] >= 6
    scored = {path: path.stat().st_mtime_ns for path in (job / "eval").glob("*.json")}
    again = tunestudy(tmp_path, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert scored == {path: path.stat().st_mtime_ns for path in (job / "eval").glob("*.json")}


def test_a_misspelt_benchmark_is_told_at_once(model: Path, tmp_path: Path) -> None:
    done = tunestudy(tmp_path, "eval", "--model", str(model), "--benchmarks", "mmb_en", "textva", "--output", "x.csv")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "--benchmarks: there is no benchmark `textva`; did you mean `textvqa`?"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_untouched_model_in_a_study(model: Path, tmp_path: Path) -> None:
    """A0: nothing is trained; the small sets of `--tiny`."""
    text = f"study: a0\nseeds: [1, 2]\nmodel: {{model_name_or_path: {model}}}\nbenchmarks: [chartqa, mmbench_en]\n"
    (tmp_path / "a0.yaml").write_text(f"{text}variants: {{A0: {{stages: []}}}}\ntiny: {{}}\n")
    done = tunestudy(tmp_path, "run", "a0.yaml", "--tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((tmp_path / "results/a0-tiny/report/results.csv").open()))
    assert {(row["variant"], row["benchmark"]) for row in rows} == {("A0", "chartqa"), ("A0", "mmbench_en")}


STUDY = """\
study: curve
seeds: [1]
model:
  architecture: qwen3
  config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, head_dim: 16, tie_word_embeddings: true}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}
datasets: {digits: {type: digits, held_out: 0.2, limit: 100}}
benchmarks: {said: {type: exact_match, dataset: digits@held_out, max_new_tokens: 1, limit: 8, checkpoints: all}}
stages:
  base: {data: digits, learning_rate: 3.0e-3, max_steps: 4, effective_batch_size: 8, max_length: 96, save_steps: 2,
         save_total_limit: 5, drop_intermediate: false, save_on_epoch_end: false, eval_on_epoch_end: false}
variants: {trained: {stages: [base]}}
"""


@pytest.mark.slow
def test_a_curve_is_scored_by_run_and_mended_by_eval(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    done = tunestudy(tmp_path, "run", "s.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = (tmp_path / "results/curve/jobs").iterdir()
    curve = sorted(job.glob("eval/checkpoint-*/said.json"))
    assert [path.parent.name for path in curve] == ["checkpoint-2", "checkpoint-4"]
    final = (job / "eval/said.predictions.jsonl").read_text()
    assert curve[1].with_name("said.predictions.jsonl").read_text() == final
    curve[0].unlink()
    plan = make_plan(load_study(tmp_path / "s.yaml"), tmp_path / "results")
    assert [planned.status for planned in plan.jobs] == ["evaluate"]
    trained = (job / "result.json").stat().st_mtime_ns
    done = tunestudy(tmp_path, "eval", "s.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert curve[0].exists()
    assert (job / "result.json").stat().st_mtime_ns == trained
