"""What people get wrong, and what cannot be carried: plain words, nothing lost, nothing secret told."""

import errno
from pathlib import Path
from typing import Any

import pytest
from foreign_configs import AXOLOTL, LLAMA, SWIFT, TRL
from typer.testing import CliRunner

from tunestudy.cli import app
from tunestudy.config.errors import Exit, StudyError
from tunestudy.study.importing import finish

Y = "config.yaml"

REFUSED = [
    ("", Y, "config.yaml: the file is empty"),
    ("a: [1", Y, "this is not YAML"),
    ("- a\n- b\n", Y, "a configuration is a mapping of keys, this is a list"),
    ("a: 1\na: 2\n", Y, "`a` stands here a second time"),
    ("learning_rate: 1e-4\n", Y, "nothing shows which program it is for; say it: --from"),
    ("study: x\nstages: {}\nvariants: {}\n", Y, "is a study file already"),
    ("compute_environment: LOCAL_MACHINE\n", Y, "is accelerate's own configuration"),
    (
        LLAMA + "base_model: a/b\nsequence_len: 10\n",
        "config.yaml",
        "has keys of several programs (LLaMA-Factory: stage (line 2)",
    ),
    (
        "base_model: a/b\nmodel_name_or_path: a/b\ndataset: c\n",
        Y,
        "several programs (axolotl: base_model (line 1); LLaMA",
    ),
    (LLAMA.replace("sft", "dpo"), Y, "stage: dpo trains DPO; preferences and rewards are not what"),
    (
        LLAMA.replace(": lora", ": oft"),
        "config.yaml",
        "oft is not here; LoRA in its place: import-config FILE -- --",
    ),
    (LLAMA + "do_train: false\n", Y, "do_train is false: this evaluates"),
    (SWIFT + "task_type: seq_cls\n", Y, "task_type: seq_cls trains no language model"),
    (SWIFT.replace(": lora", ": boft"), Y, "tuner_type: boft is not here"),
    (AXOLOTL + "rl: grpo\n", Y, "rl: grpo trains on preferences or rewards"),
    (TRL + "beta: 0.1\n", Y, "beta: this trains on preferences or rewards"),
    ("swift rlhf --model a/b --dataset c/d\n", "t.sh", "swift rlhf trains on preferences or rewards"),
    ("trl dpo --model_name_or_path a/b\n", "t.sh", "trl dpo trains on preferences or rewards"),
    ("swift infer --model a/b\n", "t.sh", "t.sh: no command here trains"),
    ("swift sft --model a\nswift sft --model b\n", "t.sh", "t.sh:2: a second training; the first is in line 1"),
    ("swift sft gone.yaml\n", "t.sh", "the command reads `gone.yaml`, which is not there"),
    (
        LLAMA.replace("dataset: org/one,org/two\n", ""),
        "config.yaml",
        "no data to train on that a study can have: `dataset`",
    ),
    (
        SWIFT.replace("model: org/model\n", "tuner_backend: peft\n"),
        "config.yaml",
        "no model that a study can have: `model`",
    ),
    (
        AXOLOTL.replace("path: org/one", "path: 's3://b/x.json'"),
        "config.yaml",
        "only files and Hugging Face's hub",
    ),
    (AXOLOTL.replace("learning_rate: 1e-4\n", ""), Y, "learning_rate"),
]


@pytest.mark.parametrize(("text", "name", "words"), REFUSED, ids=[words[:40] for _, _, words in REFUSED])
def test_refused(text: str, name: str, words: str, importing: Any) -> None:
    assert words in importing.error(text, name)
    assert not importing.output.exists()
    assert [one.name for one in importing.root.iterdir()] == [name]  # nothing is left behind


IMPOSSIBLE = [
    (LLAMA + "lora_rnk: 4\n", "line 7: lora_rnk: LLaMA-Factory has no such key; did you mean `lora_rank`?"),
    (LLAMA + "use_galore: true\n", "use_galore: true: this optimiser is not here"),
    (LLAMA + "warmup_ratio: 5\n", "warmup_ratio: 5: must be a share of all steps"),
    (LLAMA + "eval_strategy: steps\neval_steps: 0.1\n", "eval_steps: 0.1: is a share of all steps"),
    (LLAMA + "lora_dropout: 2\n", "lora_dropout: tunestudy refuses it"),
    (LLAMA + "max_samples: many\n", "max_samples: tunestudy refuses it"),
    (LLAMA + "val_size: 100\n", "val_size: 100: is a count, and a study holds out a share"),
    (LLAMA + "lr_scheduler_type: cosine_with_restarts\n", "there is no cosine_with_restarts here; known are"),
    (LLAMA + "deepspeed: gone.json\n", "there is no file gone.json"),
    (LLAMA + "quantization_bit: 4\ndeepspeed: zero3\n", "ZeRO stage 3 cannot slice weights in few bits"),
    (LLAMA + "resume_from_checkpoint: out/checkpoint-5\n", "a checkpoint of another program cannot be gone on from"),
    (LLAMA + "report_to: mlflow\n", "report_to: mlflow: mlflow: not among the trackers here"),
    (
        SWIFT + "packing: true\nmax_length: 5\npacking_length: 9\n",
        "packing_length: 9: max_length, line 5 sets",
    ),
    (SWIFT + "gradient_accumulation_steps: two\n", "gradient_accumulation_steps: two: must be a whole number"),
    (AXOLOTL + "val_set_size: 0.1\nevals_per_epoch: 4\n", "evals_per_epoch: 4: once an epoch is here"),
    (AXOLOTL + "cutoff_len: 4\n", "axolotl has no such key; it is LLaMA-Factory's"),
    (
        AXOLOTL + "fsdp: [full_shard]\noptimizer: adamw_bnb_8bit\n",
        "fsdp2 takes AdamW of torch and sgd, not adamw_bnb_8bit",
    ),
]


@pytest.mark.parametrize(("text", "words"), IMPOSSIBLE, ids=[words[:40] for _, words in IMPOSSIBLE])
def test_impossible_is_told_and_the_rest_is_a_study(text: str, words: str, importing: Any) -> None:
    program = "axolotl" if text.startswith(AXOLOTL) else None
    assert importing.study(text, program=program).study.variants
    assert words in importing.printed.partition("impossible:")[2]
    told = words.removeprefix("line 7: ").partition(": ")[0]
    assert told.split(",")[0] in importing.output.read_text().partition("Not carried:")[2]


def test_secrets_are_neither_carried_nor_told(importing: Any) -> None:
    token, key, plain = "hf_" + "a1B2" * 8, "0123456789abcdef" * 2 + "01234567", "my-own-secret"
    text = LLAMA + f"hub_token: {token}\nswanlab_api_key: {plain}\nhf_hub_token: {key}\n# {token}\n"
    study = importing.study(text)
    written = importing.output.read_text() + importing.printed
    assert study.study.variants
    assert "hub_token: holds a secret" in importing.printed
    assert not [secret for secret in (token, key, plain) if secret in written]
    script = f"WANDB_API_KEY={plain} HF_TOKEN={token} swift sft --model a/b --dataset c/d --hub_token $HF_TOKEN\n"
    importing.study(script, "t.sh")
    written = importing.output.read_text() + importing.printed
    assert "env.WANDB_API_KEY: holds a secret" in importing.printed
    assert not [secret for secret in (token, plain) if secret in written]


def test_a_file_is_not_written_over(importing: Any) -> None:
    importing.output.write_text("mine")
    assert "is already there; give another name with --output, or --force" in importing.error(LLAMA, force=False)
    assert importing.output.read_text() == "mine"
    nowhere = importing.root / "gone" / "study.yaml"
    assert "there is no folder" in importing.error(LLAMA, output=nowhere)
    assert "is what is read" in importing.error(LLAMA, output=importing.root / "config.yaml")
    near = importing.root / "config.yaml"
    assert f"there is no such file; did you mean `{near}`?" in _message(importing, "confg.yaml")


def test_a_disk_that_is_full(importing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(finish, "write_text", full)
    assert importing.error(LLAMA) == "study.yaml: cannot be written: No space left on device"


def _message(importing: Any, name: str) -> str:
    try:
        importing.run(importing.root / name)
    except Exception as error:  # noqa: BLE001 (its words are what is looked at)
        return str(error)
    return ""


def test_strict_and_from(importing: Any) -> None:
    assert importing.run(importing.write(LLAMA), strict=True) == Exit.DONE
    assert importing.run(importing.write(LLAMA + "use_galore: true\n"), strict=True) == Exit.STUDY_WRONG
    assert importing.output.exists()
    assert "there is no `llamfactory`; did you mean `llamafactory`?" in importing.error(LLAMA, program="llamfactory")
    assert importing.run(importing.write(LLAMA + "base_model: a/b\n"), program="LLaMA-Factory") == Exit.DONE


def test_data_that_are_not_there_are_told(importing: Any) -> None:
    importing.run(importing.write(AXOLOTL.replace("path: org/one", "path: gone.jsonl")))
    assert "datasets.gone.path: there is no file `gone.jsonl`" in importing.printed
    assert importing.output.exists()


def test_the_command(importing: Any) -> None:
    path = importing.write(SWIFT)
    done = CliRunner().invoke(app, ["import-config", str(path), "-o", str(importing.output), "--", "--lora_rank", "4"])
    assert done.exit_code == 0, done.output
    assert "lora_r: 4" in importing.output.read_text()


KINDS: list[tuple[str, str, str]] = [
    (SWIFT.replace("tuner_type: lora", "tuner_type: [lora]"), "ms-swift", "tuner_type: ['lora'] is not here"),
    (LLAMA.replace("stage: sft", "stage: [sft]"), "llamafactory", "stage: ['sft'] is none of LLaMA-Factory's"),
    (LLAMA.replace("stage: sft", "stage: stf"), "llamafactory", "stage: stf is none of LLaMA-Factory's"),
    (SWIFT + "per_device_train_batch_size: 0\n", "ms-swift", "per_device_train_batch_size: 0: must be a whole number"),
    (TRL + "per_device_train_batch_size: .inf\n", "trl", "per_device_train_batch_size: .inf: is not of the kind"),
    (AXOLOTL + "batch_size: .inf\n", "axolotl", "batch_size: .inf: is not of the kind that axolotl takes"),
    (LLAMA + "lora_rank: .inf\n", "llamafactory", "lora_rank: tunestudy refuses it: must be a whole number"),
    (LLAMA + "lora_alpha: .nan\n", "llamafactory", "lora_alpha: tunestudy refuses it: must be a finite"),
    (
        LLAMA + "learning_rate: .nan\n",
        "llamafactory",
        "config.yaml:7: learning_rate: the study that it makes is refused",
    ),
]


@pytest.mark.parametrize(("text", "program", "words"), KINDS, ids=[words[:40] for _, _, words in KINDS])
def test_a_value_of_the_wrong_kind_is_told(text: str, program: str, words: str, importing: Any) -> None:
    try:
        importing.run(importing.write(text), program=program)
    except StudyError as error:
        assert words in str(error)
    else:
        assert words in importing.printed


def test_data_in_place_of_a_configuration_are_not_read(importing: Any) -> None:
    path = importing.write("k: v\n")
    with path.open("ab") as file:
        file.truncate(20_000_000)
    error = _message(importing, "config.yaml")
    assert "holds 20.0 MB; a configuration takes less than 0.5 MB: is this the data?" in error
