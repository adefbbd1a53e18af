"""What the owner of the run on two hosts wants to know, answered by the files of the small study.

That two hosts, and a kill on one of them, change nothing is in tests/launch/test_glm.py.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from five import STUDIES, Finished, tunestudy

pytestmark = pytest.mark.study
NAME = "glm_air_fsdp"
EVERY = 36
STEPS = 179


@pytest.fixture
def study(finished: Callable[[str], Finished]) -> Finished:
    return finished(NAME)


def adapt(folder: Path) -> Path:
    return (folder / "trials" / "lora" / "seed_42" / "adapt").resolve()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_evaluations_are_of_the_same_rows_before_and_on_the_way(study: Finished) -> None:
    evaluations = rows(adapt(study.folder) / "eval_log.csv")
    assert [int(row["step"]) for row in evaluations] == [0, *range(EVERY, STEPS, EVERY), STEPS]
    assert len({row["target_tokens"] for row in evaluations}) == 1, "the same 200 records every time"
    losses = [float(row["eval_loss"]) for row in evaluations]
    assert losses == sorted(losses, reverse=True), "no jitter: what is measured is the model"
    assert float(evaluations[0]["perplexity"]) > 2 * float(evaluations[-1]["perplexity"])


def test_the_lora_reads_what_the_base_does_not(study: Finished) -> None:
    with open(study.folder / "report" / "results_samples.csv", encoding="utf-8", newline="") as file:
        over_samples = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(over_samples["lora"]["delta_ci_low"]) > 0 and float(over_samples["lora"]["p_value"]) < 0.05
    table = {row["variant"]: row for row in study.table()}
    assert {row["n_seeds"] for row in table.values()} == {"1"}
    assert float(table["lora"]["p_value"]) == 1, "one seed says nothing about another"


def test_five_checkpoints_that_hold_every_tensor_of_the_adapter(study: Finished) -> None:
    from safetensors import safe_open

    folder = adapt(study.folder)
    kept = sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))
    assert kept == [*range(EVERY, STEPS, EVERY), STEPS]
    for path in folder.glob("checkpoint-*"):
        with safe_open(path / "adapter_model.safetensors", "np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a mapping
        assert len(shapes) == 3 * 4 * 2, "A and B of four projections in three blocks"
        assert all(16 in shape and min(shape) > 0 for shape in shapes), "whole tensors, no rank's slices"
    full = {path.parent.name for path in folder.glob("checkpoint-*/resume")}
    assert full == {f"checkpoint-{2 * EVERY}", f"checkpoint-{4 * EVERY}"}, "the others are lite"


def test_what_checkpoints_evaluation_and_steps_take_is_in_the_report(study: Finished) -> None:
    result = json.loads((adapt(study.folder) / "result.json").read_text())
    assert result["world_size"] == 2 and result["effective_batch_size"] == 8
    assert 0 < result["save_s"] < result["train_s"] and result["eval_s"] > 0
    page = (study.folder / "report" / "index.html").read_text(encoding="utf-8")
    for heading in ("Tokens/s", ">evaluation<", ">checkpoints<", "Peak memory"):
        assert heading in page
    experts = rows(adapt(study.folder) / "expert_log.csv")
    assert {"overall", "idle"} < set(experts[0]), "which experts were busy"


def test_one_rank_learns_the_same(study: Finished, tmp_path: Path) -> None:
    """The engine and the number of ranks are not part of what is compared, only of how fast it is."""
    words = ["resources.ranks=1", "defaults.engine=single", "--only", "lora", "--results", tmp_path]
    done = tunestudy("run", STUDIES / f"{NAME}.yaml", "--tiny", *words, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = adapt(tmp_path / f"{NAME}-tiny"), adapt(study.folder)
    assert one.name == two.name, "the same job"
    for table, figure in (("eval_log.csv", "eval_loss"), ("loss_log.csv", "train_loss")):
        alone, together = ([float(row[figure]) for row in rows(folder / table)] for folder in (one, two))
        assert alone[:2] == pytest.approx(together[:2], rel=1e-4)
        assert alone == pytest.approx(together, rel=0.05), "rounding, and now and then another expert for a token"


def test_what_the_network_costs_by_way_to_share_the_model(study: Finished) -> None:
    told = tunestudy("netcheck", STUDIES / f"{NAME}.yaml", "--tiny", "--results", study.folder.parent)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "2 ranks on 1 hosts, gloo" in told.stdout
    told_of_ways = told.stdout.partition("hidden behind computing:")[2]
    for way in ("ddp", "fsdp2", "fsdp2: {shard: gradients}"):
        assert f"\n  {way}  " in told_of_ways
