"""Curricula in study files: what may be written, what is told of mistakes, and what a job's fingerprint covers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.order import ColumnOrder, ScoreOrder

Edit = Callable[..., str]
Folder = Any  # the class of conftest.py
STAGE = "adapt: {data: rotated, max_steps: 200}"


def with_order(edited: Edit, order: str, rest: str = "max_steps: 200") -> str:
    return edited((STAGE, f"adapt:\n    data: rotated\n    {rest}\n    order: {order}"))


@pytest.mark.parametrize(
    ("written", "read"), [("random", "shuffle"), ("as_given", "sequential"), ("length_grouped", "length_grouped")]
)
def test_plain_orders(folder: Folder, edited: Edit, written: str, read: str) -> None:
    assert folder.load(with_order(edited, written)).study.variants["full"].stages["adapt"].order == read


def test_curricula(folder: Folder, edited: Edit) -> None:
    loaded = folder.load(with_order(edited, "{by: column, column: d, direction: descending, take: [0, 0.5]}"))
    assert loaded.study.variants["full"].stages["adapt"].order == ColumnOrder(
        by="column", column="d", direction="descending", take=(0, 0.5)
    )
    loaded = folder.load(
        with_order(edited, "{by: score, scorer: {base_model: o/m, torch_dtype: bfloat16}, buckets: 3}")
    )
    order = loaded.study.variants["full"].stages["adapt"].order
    assert isinstance(order, ScoreOrder) and order.buckets == 3
    assert not isinstance(order.scorer, str) and order.scorer.dtype == "bfloat16"
    assert any("base_model" in line for line in loaded.translations)


@pytest.mark.parametrize(
    ("order", "where", "words"),
    [
        ("shufle", "", "did you mean `shuffle`?"),
        ("{column: d}", "", "a curriculum says what samples are sorted by: `by: column` or `by: score`"),
        ("{by: colum, column: d}", "", "`by: column` or `by: score`"),
        ("{by: column}", "", "`column` is missing"),
        ("{by: column, colum: d, column: d}", ".colum", "did you mean `column`?"),
        ("{by: column, column: d, take: [0.5, 0.2]}", ".take", "two shares with 0 ≤ from < to ≤ 1"),
        ("{by: score, direction: up}", ".direction", "must be one of ascending, descending"),
        ("{by: score, buckets: 0}", ".buckets", "must be at least 1, got the number 0"),
        ("{by: score, scorer: bas}", ".scorer", "did you mean `base`?"),
        ("{by: score, scorer: {}}", ".scorer", "give either model_name_or_path"),
        ("{by: score, scorer: {model_name_or_path: ./m}}", ".scorer.model_name_or_path", "there is no folder `./m`"),
    ],
)
def test_mistakes_are_told_once_at_their_line(folder: Folder, edited: Edit, order: str, where: str, words: str) -> None:
    told = folder.error(with_order(edited, order))
    assert told.startswith(f"study.yaml:20: stages.adapt.order{where}: ") and words in told
    assert told.count("study.yaml:") == 1


def test_start_cannot_be_scored_in_slices(folder: Folder, edited: Edit) -> None:
    sliced = "max_steps: 200\n    engine: fsdp2"
    told = folder.error(with_order(edited, "{by: score}", sliced), "resources.ranks=2")
    assert "stages.adapt.order: scorer: start cannot score in slices under fsdp2; use base or a smaller model" in told
    folder.load(with_order(edited, "{by: score, scorer: base}", sliced), "resources.ranks=2")
    folder.load(with_order(edited, "{by: score}", sliced))


def adapt_jobs(plan: Any) -> set[str]:
    return {planned.job.fingerprint for planned in plan.jobs if planned.job.stage == "adapt"}


def test_fingerprints_cover_the_order_and_what_the_scorer_is(folder: Folder, edited: Edit) -> None:
    scorer = folder.root / "scorer"
    scorer.mkdir()
    (scorer / "config.json").write_text("{}")
    orders = [
        "random",
        "{by: column, column: d}",
        "{by: column, column: d, direction: descending}",
        "{by: score}",
        "{by: score, scorer: base}",
        "{by: score, scorer: base, take: [0, 0.5]}",
        "{by: score, scorer: {model_name_or_path: scorer}}",
    ]
    found = [adapt_jobs(folder.plan(with_order(edited, order))) for order in orders]
    assert len(set.union(*found)) == sum(map(len, found))
    assert found[0] == adapt_jobs(folder.plan())
    (scorer / "config.json").write_text('{"other": 1}')
    assert not found[-1] & adapt_jobs(folder.plan(with_order(edited, orders[-1])))


def test_plans_count_the_share_that_is_taken(folder: Folder, edited: Edit, tmp_path: Path) -> None:
    def steps(order: str) -> set[int]:
        plan = folder.plan(with_order(edited, order, "num_train_epochs: 1"))
        return {planned.steps for planned in plan.jobs if planned.job.stage == "adapt"}

    assert steps("random") == {45}  # 1797 × 0.8 ÷ 32
    assert steps("{by: column, column: d, take: [0, 0.5]}") == {23}
