"""A study that trains two models, merges them and learns a mixture of them, through the command line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

STUDY = """
study: merging
seeds: [1]
model:
  architecture: qwen3
  config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, head_dim: 16, tie_word_embeddings: true}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}
datasets:
  upright: {type: digits, held_out: 0.2, limit: 120}
  rotated: {type: digits, rotate: 90, held_out: 0.2, limit: 120}
benchmarks:
  choice:
    {type: multiple_choice, dataset: rotated@held_out, choices: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
     limit: 12}
defaults: {effective_batch_size: 8, per_device_train_batch_size: 4, max_length: 96, eval_subset_size: 8,
           logging_steps: 1}
stages:
  base: {data: upright, learning_rate: 3.0e-3, max_steps: 4}
  english: {data: upright, learning_rate: 3.0e-3, max_steps: 4}
  korean: {after: base, data: rotated, learning_rate: 3.0e-3, max_steps: 4}
  merged:
    type: merge
    method: dare_ties
    base: base
    models:
      en: {stage: english, weight: 0.6, density: 0.5}
      ko: {stage: korean, weight: 0.4, density: 0.5}
  gates:
    data: [upright, rotated]
    learning_rate: 1.0e-2
    max_steps: 4
    adapter:
      type: mole
      lora_r: 4
      min_energy: 0.05
      target: language_model
      target_modules: [q_proj, down_proj]
      experts: {en: english, ko: korean, none: null}
variants:
  merged: {stages: [base, english, korean, merged]}
  mixture: {stages: [base, english, korean, merged, gates]}
"""


def tunestudy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("tunestudy")
    return subprocess.run(
        [program, *words], cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=500
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "merging.yaml").write_text(STUDY)
    done = tunestudy(folder, "run", "merging.yaml")
    logs = [path.read_text()[-3000:] for path in folder.glob("results/merging/jobs/*/logs/rank-0.log")]
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *logs])
    return folder


def job_of(finished: Path, stage: str) -> Path:
    [found] = (finished / "results/merging/jobs").glob(f"{stage}-*")
    return found


def test_stages_before_the_merge_are_shared(finished: Path) -> None:
    names = sorted(path.name.split("-")[0] for path in (finished / "results/merging/jobs").iterdir())
    assert names == ["base", "english", "gates", "korean", "merged"]


def test_both_variants_are_in_the_table(finished: Path) -> None:
    with open(finished / "results/merging/report/results.csv", encoding="utf-8") as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {"merged", "mixture"}
    for stage in ("merged", "gates"):
        assert json.loads((job_of(finished, stage) / "eval/choice.json").read_text())["n"] == 12


def test_the_merge_says_what_it_merged(finished: Path) -> None:
    told = json.loads((job_of(finished, "merged") / "merge_report.json").read_text())
    assert set(told["models"]) == {"en", "ko"} and told["method"] == "dare_ties"
    assert all(0 <= share["zero_share"] < 1 for role in told["roles"].values() for share in role["models"].values())


def test_the_merged_model_loads_in_stock_transformers(finished: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 6, 7, 8]])
    models = [AutoModelForCausalLM.from_pretrained(job_of(finished, s) / "model") for s in ("base", "merged", "korean")]
    with torch.no_grad():
        base, merged, korean = (model(ids).logits for model in models)
    assert not torch.allclose(merged, base) and not torch.allclose(merged, korean)


def test_experts_are_differences_to_the_merged_model(finished: Path) -> None:
    told = json.loads((job_of(finished, "gates") / "experts.json").read_text())
    assert set(told["experts"]) == {"en", "ko", "none"}
    for name, stage in (("en", "english"), ("ko", "korean")):
        facts = told["experts"][name]
        assert facts["from"] == stage and facts["rank"] == 4
        assert len(facts["energy"]) == 4 and 0.05 <= facts["overall"] <= 1


def test_the_mixture_loads_in_three_lines(finished: Path) -> None:
    from tunestudy.models.mole_files import load_mole

    model, tokenizer = load_mole(job_of(finished, "gates") / "model")
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("12=").input_ids])).logits
    assert bool(torch.isfinite(logits).all())
    moved = [gate.weight.abs().max() for gate in model.mole.gates.values()]
    assert len(moved) == 2 and all(float(size) > 0 for size in moved)


def test_usage_of_the_experts_is_logged(finished: Path) -> None:
    with open(job_of(finished, "gates") / "mole_log.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    overall = [row for row in rows if row["module"] == "overall"]
    assert [int(row["step"]) for row in overall] == [1, 2, 3, 4]
    for row in rows:
        assert sum(float(row[name]) for name in ("en", "ko", "none")) == pytest.approx(1, abs=1e-4)


def test_a_second_run_starts_nothing(finished: Path) -> None:
    weights = {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*.safetensors")}
    assert tunestudy(finished, "run", "merging.yaml").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*.safetensors")} == weights
