"""Whole studies through the command line, as a user runs them: real workers under torchrun, real files."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STUDY = """
study: tiny
seeds: [1, 2]
model:
  architecture: qwen3
  config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, head_dim: 16, tie_word_embeddings: true}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}
datasets:
  upright: {type: digits, held_out: 0.2, limit: 200}
  rotated: {type: digits, rotate: 90, held_out: 0.2, limit: 200}
benchmarks:
  digits: {type: exact_match, dataset: rotated@held_out, max_new_tokens: 1, limit: 24}
  choice:
    {type: multiple_choice, dataset: rotated@held_out, choices: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
     limit: 24}
defaults: {effective_batch_size: 8, per_device_train_batch_size: 8, max_length: 96, eval_subset_size: 16,
           logging_steps: 2}
stages:
  base: {data: upright, learning_rate: 3.0e-3, max_steps: 6}
  adapt: {data: rotated, learning_rate: 3.0e-3, max_steps: 4}
variants:
  untrained: {stages: [base]}
  lora: {stages: [base, adapt], overrides: {adapt: {adapter: {type: lora, lora_r: 4}}}}
"""


def tunestudy(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("tunestudy")
    return subprocess.run(
        [program, *words], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=400
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study, run with a token in its environment, in its git remote and, where possible, its host name."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.yaml").write_text(STUDY)
    token, host = "hf_" + "Q7" * 17, "sk-" + "q7" * 12
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    remote = f"https://me:{token}@example.org/repo.git"
    subprocess.run(["git", "remote", "add", "origin", remote], cwd=folder, check=True)
    program = Path(sys.executable).with_name("tunestudy")
    command = [str(program), "run", "tiny.yaml"]
    if os.geteuid() == 0 and shutil.which("unshare"):
        command = ["unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *command]
    environment = {**os.environ, "HF_TOKEN": token, "DEPLOY_PASSWORD": "correct-horse-battery"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, (token, host, "correct-horse-battery"), done.stdout


def test_prints_the_table_and_the_path_of_the_report(finished):
    folder, _, printed = finished
    assert "untrained" in printed and "lora" in printed
    assert "index.html" in printed
    assert (folder / "results/tiny/report/index.html").stat().st_size > 10_000


def test_the_shared_stage_ran_once_per_seed(finished):
    folder, _, _ = finished
    names = sorted(path.name.split("-")[0] for path in (folder / "results/tiny/jobs").iterdir())
    assert names == ["adapt", "adapt", "base", "base"]


def test_results_agree_with_the_predictions(finished):
    folder, _, _ = finished
    rows = list(csv.DictReader((folder / "results/tiny/report/results.csv").open()))
    assert {(row["variant"], row["benchmark"]) for row in rows} == {
        (variant, benchmark) for variant in ("untrained", "lora") for benchmark in ("digits", "choice")
    }
    for row in rows:
        means = []
        for seed in (1, 2):
            trial = folder / f"results/tiny/trials/{row['variant']}/seed_{seed}"
            last = trial / ("base" if row["variant"] == "untrained" else "adapt")
            lines = (last / f"eval/{row['benchmark']}.predictions.jsonl").read_text().splitlines()
            right = [json.loads(line)["correct"] for line in lines]
            assert len(right) == 24
            means.append(sum(right) / 24)
        assert float(row["mean"]) == pytest.approx(sum(means) / 2)
        assert int(row["n_seeds"]) == 2


def test_a_second_run_starts_nothing(finished):
    folder, _, _ = finished
    before = starts(folder)
    assert tunestudy(folder, "run", "tiny.yaml").returncode == 0
    assert starts(folder) == before == 4


def starts(folder: Path) -> int:
    journals = (folder / "results/tiny/events").glob("*.jsonl")
    return sum(
        json.loads(line)["event"] == "job_started" for path in journals for line in path.read_text().splitlines()
    )


def test_no_token_stands_in_any_byte_of_the_results(finished):
    folder, secrets, _ = finished
    for path in (folder / "results").rglob("*"):
        assert not any(secret in path.name for secret in secrets), path
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path


def test_the_published_adapter_loads_in_stock_peft(finished):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, _, _ = finished
    trial = folder / "results/tiny/trials/lora/seed_1"
    base = AutoModelForCausalLM.from_pretrained(trial / "base/model")
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, trial / "adapt/model")(ids).logits
    assert not torch.allclose(plain, adapted)


def test_an_edited_benchmark_is_scored_again_without_training(finished, tmp_path):
    folder, _, _ = finished
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    study = tmp_path / "copy/tiny.yaml"
    study.write_text(STUDY.replace("max_new_tokens: 1, limit: 24", "max_new_tokens: 1, limit: 12"))
    planned = json.loads(tunestudy(tmp_path / "copy", "plan", "tiny.yaml", "--json").stdout)
    assert {job["status"] for job in planned["jobs"]} == {"evaluate"}
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy/results").rglob("*.safetensors")}
    assert tunestudy(tmp_path / "copy", "run", "tiny.yaml").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "copy/results").rglob("*.safetensors")} == weights
    scored = json.loads((tmp_path / "copy/results/tiny/trials/lora/seed_1/adapt/eval/digits.json").read_text())
    assert scored["n"] == 12


def test_a_token_in_an_error_text_is_hidden_and_the_failure_is_told(tmp_path):
    token = "hf_" + "Zx9" * 12
    rows = [json.dumps({f"{token}": "a", "other": "b"})] * 30
    (tmp_path / "bad.jsonl").write_text("\n".join(rows) + "\n")
    study = STUDY.replace("upright: {type: digits, held_out: 0.2, limit: 200}", "upright: {path: bad.jsonl}")
    (tmp_path / "tiny.yaml").write_text(study.replace("seeds: [1, 2]", "seeds: [1]"))
    done = tunestudy(tmp_path, "run", "tiny.yaml")
    assert done.returncode == 2, "the file is the user's to mend"
    assert "Traceback" not in done.stdout + done.stderr
    assert token not in done.stdout + done.stderr
    for path in (tmp_path / "results").rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


def test_an_unmet_requirement_exits_with_4(finished, tmp_path):
    folder, _, _ = finished
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    with (tmp_path / "copy/tiny.yaml").open("a") as file:
        file.write('report: {require: {"*.digits": ">= 0.999"}}\n')
    done = tunestudy(tmp_path / "copy", "run", "tiny.yaml")
    assert done.returncode == 4
    assert "0.999" in done.stdout + done.stderr
