"""DataComp's pool as a study names it: where its metadata come from, and what a plan knows before they are here."""

from pathlib import Path
from typing import Any

import pytest

from tunestudy.study.locked import hub_names
from tunestudy.study.plan import make_plan

Folder = Any
HERE = "{type: digits, held_out: 0.2}"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{type: datacomp}", "needs one of `name` (of the hub), `path` (files here) and `drawn`, such as `name: mlfo"),
        (
            "{type: datacomp, path: a, name: b/c}",
            "needs one of `name` (of the hub), `path` (files here) and `drawn`, not n",
        ),
        ("{type: datacomp, drawn: {count: 2}, revision: v1}", "revision: is that of a `name`, and none is given"),
        (
            "{type: datacomp, path: pool}",
            "`name: mlfoundations/datacomp_small` in place of `path` has `tunestudy fetch`",
        ),
        ("{type: datacomp, drawn: {count: 0}}", "drawn.count"),
        ("{type: datacomp, drawn: {counts: 9}}", "did you mean `count`?"),
        ("{type: datacomp, drawn: {count: 9, dead: 1}}", "drawn.dead"),
    ],
)
def test_mistakes(folder: Folder, edited: Any, written: str, message: str) -> None:
    told = folder.error(edited((HERE, written)))
    assert message in told and told.startswith("study.yaml:")


def test_a_pool_of_the_hub_is_planned_before_it_is_here(folder: Folder, edited: Any, tmp_path: Path) -> None:
    plans = {}
    for revision in ("", ", revision: v2"):
        written = f"{{type: datacomp, name: org/pool{revision}, num_samples: 640}}"
        loaded = folder.load(edited((HERE, written)))
        plans[revision] = make_plan(loaded, tmp_path)
        (named,) = hub_names(loaded.study, tmp_path, {})
        assert (named.kind, named.id, named.parts) == ("dataset", "org/pool", ("*.parquet",))
    loose, pinned = plans.values()
    waiting = [planned for planned in loose.jobs if planned.not_final]
    assert waiting and all(planned.not_final == ("upright",) for planned in waiting)
    assert {one.job.id for one in loose.jobs} != {one.job.id for one in pinned.jobs}, "a revision is identity"
    assert any("`org/pool` is not pinned" in line for line in loose.warnings)
    assert not any("`org/pool` is not pinned" in line for line in pinned.warnings)
    assert any("of its images come is not pinned" in line for line in pinned.warnings), "which came is not known yet"
