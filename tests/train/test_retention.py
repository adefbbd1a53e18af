"""What stays: a property over random histories, and the pointers."""

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tunestudy.config.stage import TrainStage
from tunestudy.records.atomic import pointed_to
from tunestudy.records.kept import StoredCheckpoint, to_keep
from tunestudy.records.layout import JobDir
from tunestudy.train.retention import prune

CHECKPOINTS = st.lists(
    st.tuples(st.sampled_from(["lite", "full"]), st.none() | st.floats(0, 10)), min_size=1, max_size=12
)


def stage(**values: object) -> TrainStage:
    return TrainStage.model_validate({"data": ["d"], "learning_rate": 0.1, **values})


def found_in(history: list[tuple[str, float | None]]) -> list[StoredCheckpoint]:
    return [
        StoredCheckpoint(name=f"checkpoint-{i}", step=i, kind=kind, metrics={} if loss is None else {"eval_loss": loss})
        for i, (kind, loss) in enumerate(history, 1)
    ]


@settings(max_examples=200, deadline=None)
@given(history=CHECKPOINTS, last=st.integers(1, 4), best=st.integers(0, 3), pinned=st.sets(st.integers(1, 12)))
def test_last_best_resumable_and_pinned_ones_stay_and_nothing_else(
    history: list[tuple[str, float | None]], last: int, best: int, pinned: set[int]
) -> None:
    found = found_in(history)
    names = {f"checkpoint-{i}" for i in pinned}
    kept = to_keep(found, stage(save_total_limit=last, save_best_k=best), names)
    by_loss = sorted((c for c in found if c.metrics), key=lambda c: (c.metrics["eval_loss"], c.step))
    full = [c.name for c in found if c.kind == "full"]
    required = {c.name for c in found[-last:]} | {c.name for c in by_loss[:best]} | set(full[-last:])
    assert kept == required | (names & {c.name for c in found})


@settings(max_examples=100, deadline=None)
@given(history=CHECKPOINTS, last=st.integers(1, 4), best=st.integers(0, 3))
def test_pruning_as_one_goes_keeps_what_pruning_at_the_end_would(
    history: list[tuple[str, float | None]], last: int, best: int
) -> None:
    """So a run that was killed between publishing and pruning ends up with the same checkpoints."""
    rules = stage(save_total_limit=last, save_best_k=best)
    alive: list[StoredCheckpoint] = []
    for checkpoint in found_in(history):
        alive.append(checkpoint)
        alive = [c for c in alive if c.name in to_keep(alive, rules, ())]
    assert {c.name for c in alive} == to_keep(found_in(history), rules, ())


def test_pointers_follow_and_the_end_keeps_last_best_and_pinned(tmp_path: Path) -> None:
    folder = JobDir(tmp_path)
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0], 1):
        folder.checkpoint(step).mkdir()
        facts = {"step": step, "kind": "full", "metrics": {"eval_loss": loss}, "files": {}}
        (folder.checkpoint(step) / "MANIFEST.json").write_text(json.dumps(facts))
    prune(folder, stage(save_total_limit=3), ["checkpoint-3"])
    assert pointed_to(folder.last) == folder.checkpoint(4)
    assert pointed_to(folder.best) == folder.checkpoint(2)
    assert not folder.checkpoint(1).exists()
    prune(folder, stage(save_total_limit=3), ["checkpoint-3"], finished=True)
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    prune(folder, stage(save_total_limit=3), [], finished=True)
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
