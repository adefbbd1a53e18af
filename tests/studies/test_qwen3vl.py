"""What the owner of the curriculum study asked: which order is best at equal samples, and whether it was that order."""

import csv
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from five import Finished, tunestudy

from tunestudy.config.job import Job

pytestmark = pytest.mark.study
NAME = "qwen3vl_curriculum"
ARMS = {
    "exp1_random": ["train"],
    "exp2_qwen_reordered": ["train"],
    "exp3_three_stages": ["easy", "medium", "hard"],
    "exp4_two_stages_curriculum": ["easier_half", "harder_half"],
    "exp5_sequential_cot": ["train"],
}
ON_THE_SAME = [name for name in ARMS if name != "exp5_sequential_cot"]


@pytest.fixture
def study(finished) -> Finished:
    return finished(NAME)


def stages(study: Finished, variant: str) -> list[Job]:
    """Of an arm, one after the other."""
    by_stage = {job.stage: job for job in study.jobs.values() if variant in job.variants}
    return [by_stage[stage] for stage in ARMS[variant]]


def told(study: Finished, job: Job, name: str) -> Any:
    return json.loads((study.folder / "jobs" / job.id / name).read_text())


def logged(study: Finished, job: Job, column: str) -> list[float]:
    with open(study.folder / "jobs" / job.id / "loss_log.csv", encoding="utf-8", newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def scores(study: Finished) -> dict[str, float]:
    """Difficulty by sample id: one file, that all arms and stages share."""
    (file,) = study.folder.glob("cache/scores/*/values.jsonl")
    return {row["id"]: row["value"] for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def test_every_arm_has_its_row_against_the_random_one(study):
    rows = {row["variant"]: row for row in study.table() if row["metric"] == "accuracy"}
    assert list(rows) == list(ARMS)
    means = {name: float(row["mean"]) for name, row in rows.items()}
    for name, row in rows.items():
        assert 0 <= means[name] <= 1
        if name != "exp1_random":
            assert float(row["delta"]) == pytest.approx(means[name] - means["exp1_random"])
    assert len(set(means.values())) > 1, "the table tells no arm from another"
    assert any(mean > 0 for mean in means.values())


def test_the_arms_drew_the_same_samples_as_often(study):
    digests = {name: [told(study, job, "data.json")["drawn"] for job in stages(study, name)] for name in ARMS}
    drawn = {name: sum(one["of_stage"] for one in of) for name, of in digests.items()}
    assert set(drawn.values()) == {3 * len(scores(study))}, drawn
    sums = {name: sum(int(one["samples_sha256"], 16) for one in digests[name]) % 2**256 for name in ON_THE_SAME}
    assert len(set(sums.values())) == 1, "the same samples, as often each"
    warned = (study.folder / "EXPERIMENT.md").read_text(encoding="utf-8")
    assert "not on equal footing" not in warned


def test_effective_batch_and_tokens_are_those_of_the_random_arm(study):
    settings = [job.training for name in ARMS for job in stages(study, name) if job.training]
    assert {(one.effective_batch_size, one.num_train_epochs) for one in settings} == {(16, 3)}
    tokens = {name: sum(logged(study, job, "tokens")[-1] for job in stages(study, name)) for name in ON_THE_SAME}
    assert len(set(tokens.values())) == 1, tokens


def test_curricula_saw_the_easy_ones_first(study):
    """Step by step inside of every epoch of exp2 and exp4; from stage to stage in exp3."""
    for name in ("exp2_qwen_reordered", "exp4_two_stages_curriculum"):
        for job in stages(study, name):
            seen, epochs = logged(study, job, "order_value"), logged(study, job, "epoch")
            rows = pairwise(zip(seen, map(math.ceil, epochs), strict=True))
            inside = [(a, b) for (a, epoch), (b, after) in rows if epoch == after]
            assert inside and all(a <= b for a, b in inside), (job.id, seen)
    ordered = sorted(scores(study).values())
    third, half = len(ordered) // 3, len(ordered) // 2
    for name, border in (("exp3_three_stages", third), ("exp4_two_stages_curriculum", half)):
        seen = [logged(study, job, "order_value") for job in stages(study, name)]
        for place, (easier, harder) in enumerate(pairwise(seen), start=1):
            assert max(easier) <= ordered[place * border] + 1e-3, (name, place)
            assert max(easier) < min(harder), (name, place)


def test_the_random_arm_and_the_one_as_given_have_no_order_by_difficulty(study):
    for name in ("exp1_random", "exp5_sequential_cot"):
        (job,) = stages(study, name)
        assert "order" not in told(study, job, "data.json")


def test_the_rationale_stands_before_the_answer_and_is_not_scored(study):
    (thought,), (plain,) = stages(study, "exp5_sequential_cot"), stages(study, "exp1_random")
    targets = [told(study, job, "data.json")["sources"] for job in (thought, plain)]
    assert targets[0]["thoughts"]["target_tokens"] > 2 * targets[1]["answers"]["target_tokens"]
    lines = (study.folder / "jobs" / thought.id / "eval" / "answers.predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    (plain_rows,) = [(study.folder / "jobs" / plain.id / "eval" / "answers.predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in plain_rows], "the same questions"
    for row in rows:
        assert row["correct"] == (row["prediction"].rpartition("\n")[2].strip() == row["reference"]), row


def test_four_gpus_hold_all_five_in_six_hours_evaluation_included(tmp_path: Path):
    done = tunestudy("plan", Path(__file__).parents[2] / "studies" / f"{NAME}.yaml", "--json", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    time = json.loads(done.stdout)["time"]
    assert time["budget"]["fits"] and time["budget"]["slots"] == 4 and time["budget"]["wall_clock_s"] == 6 * 3600
    benchmarks_s = 5 * 45 * 60
    packed = time["packing"]
    assert time["budget"]["makespan_s"] * 4 >= benchmarks_s + 5 * 1.5 * 3600, "training and evaluation of all are in it"
    assert len(packed["jobs"]) == 8 and len({one["slot"] for one in packed["jobs"]}) == 4
    assert packed["proven_within_1_percent"]


def test_what_happened_stands_below_what_was_planned(study):
    page = (study.folder / "report" / "index.html").read_text(encoding="utf-8")
    assert 'id="timeline"' in page
    assert "What samples are sorted by" in page
