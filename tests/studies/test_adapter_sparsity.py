"""What the owner of the adapter experiments wants to know, answered by the files of the small study."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from five import Finished

pytestmark = pytest.mark.study
TARGETS = {"sora_lambda0.1": 0.25, "sora_lambda0.3": 0.5, "sora_lambda0.5": 0.75, "sdora_lambda0.3": 0.5}
SIX = {"lora", "dora", *TARGETS}
SEEDS = 3
EPOCHS = 3


@pytest.fixture
def study(finished: Callable[[str], Finished]) -> Finished:
    return finished("adapter_sparsity")


def job(study: Finished, variant: str, seed: int = 1) -> Path:
    return (study.folder / "trials" / variant / f"seed_{seed}" / "adapt").resolve()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_adapters_against_each_other_with_error_bars(study: Finished) -> None:
    table = {row["variant"]: row for row in study.table() if row["metric"] == "accuracy"}
    assert set(table) == SIX
    assert {row["n_seeds"] for row in table.values()} == {str(SEEDS)}
    for variant, row in table.items():
        assert float(row["ci_low"]) <= float(row["mean"]) <= float(row["ci_high"]) and float(row["std"]) > 0
        assert float(row["mean"]) > 0.2, f"{variant} reads no more digits than by chance, a tenth"
        assert (row["delta"], row["p_value"]) == ("", "") if variant == "lora" else row["p_value"]


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
@pytest.mark.parametrize("variant", TARGETS)
def test_the_wanted_sparsity_is_reached_at_every_seed(study: Finished, variant: str, seed: int) -> None:
    result = json.loads((job(study, variant, seed) / "result.json").read_text())
    assert result["sparsity"] == pytest.approx(TARGETS[variant], abs=0.01)
    log = rows(job(study, variant, seed) / "sparsity_log.csv")
    overall = [float(row["overall"]) for row in log]
    assert overall[0] < 0.5 * TARGETS[variant] and overall[-1] == pytest.approx(TARGETS[variant], abs=0.01)
    modules = [name for name in log[0] if name not in ("epoch", "step", "overall")]
    assert len(modules) == 3 * 7, "a column for each linear layer of three blocks"
    last = [float(log[-1][name]) for name in modules]
    assert max(last) > min(last), "which layers are pruned most: it differs"
    assert sum(last) / len(last) == pytest.approx(overall[-1])


def test_effective_parameters_are_those_not_pruned(study: Finished) -> None:
    found = {name: json.loads((job(study, name) / "training_history.json").read_text()) for name in SIX}
    for variant, history in found.items():
        trained, effective = history["trainable_params"], history["effective_params"]
        assert len(trained) == EPOCHS
        if variant in TARGETS:
            assert effective == sorted(effective, reverse=True) and effective[-1] < trained[-1]
        else:
            assert effective == trained
    ends = [found[name]["effective_params"][-1] for name in ("lora", *list(TARGETS)[:3])]
    assert ends == sorted(ends, reverse=True)
    table = {row["variant"]: row for row in study.table()}
    assert float(table["sora_lambda0.5"]["effective_params"]) < float(table["lora"]["effective_params"]) / 2


@pytest.mark.parametrize("variant", sorted(SIX))
def test_the_files_have_the_columns_that_were_asked_for(study: Finished, variant: str) -> None:
    folder = job(study, variant)
    losses = rows(folder / "loss_log.csv")
    wanted = ["epoch", "step", "train_loss", "learning_rate", "gpu_memory_mb", "sparsity"]
    assert list(losses[0])[: len(wanted)] == wanted
    history = json.loads((folder / "training_history.json").read_text())
    lists = {"train_loss", "val_loss", "epoch_time", "gpu_memory_mb", "trainable_params", "effective_params"}
    assert lists | {"sparsity"} <= set(history)
    assert {len(history[name]) for name in lists} == {EPOCHS} and all(history["epoch_time"])
    assert history == json.loads((folder / "training_log.json").read_text())
    assert (folder / "sparsity_log.csv").is_file() == (variant in TARGETS)


@pytest.mark.parametrize("variant", sorted(SIX))
def test_every_epoch_is_kept_and_the_merged_model_stands_alone(study: Finished, variant: str) -> None:
    folder = job(study, variant)
    kept = {path.name for path in folder.glob("checkpoint-epoch*")}
    assert {f"checkpoint-epoch{number}" for number in range(1, EPOCHS + 1)} <= kept
    assert any("-step" in name for name in kept), "and those in the middle of an epoch"
    merged = {path.name for path in (folder / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "MANIFEST.json"} <= merged
    assert "adapter_config.json" not in merged


def test_the_report_answers_in_words_and_pictures(study: Finished) -> None:
    page = (study.folder / "report" / "index.html").read_text(encoding="utf-8")
    for answer in ("gates at zero at the end", "Pareto front", "effective parameters", "by kind of module", "by layer"):
        assert answer in page
    assert 'id="experiments"' in page, "when each of the six began and how long it took"
    document = (study.folder / "EXPERIMENT.md").read_text(encoding="utf-8")
    assert "### Sparsity" in document and "per million effective parameters" in document
    assert all(f"- {variant} prunes first: `" in document.replace("\\", "") for variant in TARGETS)
