"""Fingerprints change with everything that changes a result, and with nothing else."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.base import Config, neutral
from tunestudy.config.benchmark import ExactMatch, LmEval, MultipleChoice, Perplexity
from tunestudy.config.data import DigitsDataset, FileDataset, HubDataset, SynthDataset
from tunestudy.config.judge import Judge
from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.records.layout import StudyDir
from tunestudy.study import fingerprint
from tunestudy.study.fingerprint import benchmark_digest, digest, is_neutral, significant
from tunestudy.study.identity import Identities

Folder = Any
Edit = Callable[..., str]

EXAMPLES: list[Config] = [
    TrainStage(data=("a",), learning_rate=1.0, adapter=LoraAdapter()),  # type: ignore[arg-type]
    LoraAdapter(),
    ExactMatch(dataset="a"),
    MultipleChoice(dataset="a"),
    Perplexity(dataset="a"),
    LmEval(tasks="a"),
    Judge(url="http://a/v1", model="a"),
    FileDataset(path="a"),
    HubDataset(name="a/b"),
    DigitsDataset(),
    SynthDataset(kind="shapes", count=1),
    ModelConfig(model_name_or_path="a/b"),
]


def fields() -> Iterator[Any]:
    for example in EXAMPLES:
        for name in type(example).model_fields:
            yield pytest.param(example, name, id=f"{type(example).__name__}.{name}")


@pytest.mark.parametrize(("example", "name"), list(fields()))
def test_each_field_counts_unless_it_is_neutral(example: Config, name: str) -> None:
    """Whatever the field: another value changes the digest exactly if the field is not marked neutral."""
    other = example.model_copy(update={name: "another value, of whatever type"})
    changed = digest(significant(other)) != digest(significant(example))
    assert changed != is_neutral(type(example), name)


def test_a_nested_neutral_field_does_not_count() -> None:
    class Inner(Config):
        counts: int = 1
        does_not: int = neutral(2)

    class Outer(Config):
        inner: tuple[Inner, ...] = (Inner(),)

    assert significant(Outer()) == {"inner": [{"counts": 1}]}


def test_canonical_form_ignores_order_and_keeps_every_digit() -> None:
    assert digest({"a": 1, "b": [1.0]}) == digest({"b": [1.0], "a": 1})
    assert digest(0.1) != digest(0.1 + 1e-17 + 2e-17)
    assert digest(1) != digest("1")


def ids(plan: Any, stage: str, variant: str = "full") -> list[str]:
    return [one.job.id for one in plan.jobs if one.job.stage == stage and variant in one.job.variants]


NEUTRAL = [
    "defaults.per_device_train_batch_size=4",
    "defaults.logging_steps=1",
    "defaults.save_steps=7",
    "defaults.activation_checkpointing=true",
    "resources.ranks=2",
    "resources.slots=3",
    "env.A=b",
    "description=other",
    "variants.full.priority=3",
    "variants.full.description=other",
    "variants.full.intends=[steps]",
    "model.attn_implementation=eager",
    "benchmarks.accuracy.batch_size=7",
    "report.alpha=0.01",
]


@pytest.mark.parametrize("override", NEUTRAL)
def test_what_cannot_change_a_result_changes_no_job(folder: Folder, edited: Edit, override: str) -> None:
    def shape(plan: Any) -> set[Any]:
        return {
            (one.job.id, tuple(sorted((n, e.fingerprint) for n, e in one.job.evaluations.items()))) for one in plan.jobs
        }

    assert shape(folder.plan(edited(), override)) == shape(folder.plan())


@pytest.mark.parametrize(
    ("override", "base_stays", "adapt_stays"),
    [
        ("stages.adapt.weight_decay=0.5", True, False),
        ("stages.base.weight_decay=0.5", False, False),
        ("defaults.effective_batch_size=16", False, False),
        ("datasets.rotated.rotate=180", True, False),
        ("datasets.upright.limit=100", False, False),
        ("model.config.hidden_size=64", False, False),
        ("model.dtype=bfloat16", False, False),
        ("benchmarks.accuracy.max_new_tokens=3", True, True),
        ("variants.full.overrides.adapt.max_steps=1", True, False),
        ("variants.full.overrides.base.max_steps=1", False, False),
        ("stages.adapt.init=base", True, False),
    ],
)
def test_an_edit_changes_its_stage_and_those_after_it(
    folder: Folder, edited: Edit, override: str, base_stays: bool, adapt_stays: bool
) -> None:
    before, after = folder.plan(), folder.plan(edited(), override)
    assert (ids(before, "base") == ids(after, "base")) is base_stays
    assert (ids(before, "adapt") == ids(after, "adapt")) is adapt_stays


def test_seeds_share_nothing_that_is_trained(folder: Folder) -> None:
    plan = folder.plan()
    assert len(set(ids(plan, "base"))) == 3
    assert {one.job.seed for one in plan.jobs if one.job.stage == "base"} == {1, 2, 3}


def test_a_benchmark_scores_again_but_does_not_train_again(folder: Folder, edited: Edit) -> None:
    before, after = folder.plan(), folder.plan(edited(), "benchmarks.accuracy.max_new_tokens=3")
    assert [one.job.fingerprint for one in before.jobs] == [one.job.fingerprint for one in after.jobs]
    scores = [[one.job.evaluations["accuracy"].fingerprint for one in plan.jobs] for plan in (before, after)]
    assert not set(scores[0]) & set(scores[1])


def test_numerics_epoch_changes_everything(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {one.job.id for one in folder.plan().jobs}
    monkeypatch.setattr(fingerprint, "NUMERICS_EPOCH", fingerprint.NUMERICS_EPOCH + 1)
    assert not before & {one.job.id for one in folder.plan().jobs}


class TestIdentities:
    @pytest.fixture
    def with_file(self, folder: Folder, edited: Edit) -> str:
        (folder.root / "train.jsonl").write_text('{"text": "a"}\n')
        return edited(("upright: {type: digits, held_out: 0.2}", "upright: {path: train.jsonl, held_out: 0.2}"))

    def test_content_counts_and_the_path_does_not(self, folder: Folder, with_file: str) -> None:
        first = ids(folder.plan(with_file), "base")
        (folder.root / "train.jsonl").rename(folder.root / "moved.jsonl")
        moved = with_file.replace("train.jsonl", "moved.jsonl")
        assert ids(folder.plan(moved), "base") == first
        (folder.root / "moved.jsonl").write_text('{"text": "b"}\n')
        assert ids(folder.plan(moved), "base") != first

    def test_a_folder_of_files(self, folder: Folder, with_file: str) -> None:
        (folder.root / "parts").mkdir()
        text = with_file.replace("train.jsonl", "parts")
        for name in ("a.jsonl", "b.jsonl"):
            (folder.root / "parts" / name).write_text('{"text": "a"}\n')
        first = ids(folder.plan(text), "base")
        (folder.root / "parts" / ".hidden").write_text("x")
        assert ids(folder.plan(text), "base") == first
        (folder.root / "parts" / "c.jsonl").write_text('{"text": "a"}\n')
        assert ids(folder.plan(text), "base") != first

    def test_large_files_are_hashed_once(self, folder: Folder, with_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tunestudy.study.identity.REMEMBERED_FROM_BYTES", 1)
        first = ids(folder.plan(with_file), "base")
        monkeypatch.setattr("tunestudy.study.identity.sha256", lambda _path: pytest.fail("hashed again"))
        assert ids(folder.plan(with_file), "base") == first

    def test_a_plan_writes_nothing_else(self, folder: Folder, with_file: str) -> None:
        folder.plan(with_file)
        assert not folder.results.exists()

    def test_local_model_counts_by_content(self, folder: Folder, edited: Edit) -> None:
        model = folder.root / "model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"1")
        text = edited(
            (
                "  architecture: qwen3\n  config: {hidden_size: 32, num_hidden_layers: 2}\n",
                "  model_name_or_path: model\n",
            )
        )
        first = ids(folder.plan(text), "base")
        assert ids(folder.plan(text), "base") == first
        (model / "model.safetensors").write_bytes(b"2")
        assert ids(folder.plan(text), "base") != first

    def test_hub_ids_count_by_revision(self, folder: Folder) -> None:
        def identities(revision: str | None) -> Identities:
            study = Study.model_construct(
                model=ModelConfig(model_name_or_path="org/model", revision=revision),
                datasets={"d": HubDataset(name="org/data", revision=revision)},
                variants={},
            )
            return Identities(study, folder.root, StudyDir(folder.results))

        assert sorted(identities(None).unpinned) == ["org/data", "org/model"]
        unpinned, named = identities(None), identities("main")
        assert unpinned.model_digest != named.model_digest and named.unpinned == []
        assert named.datasets["d"]["revision"] == "main"
        assert named.model["model_name_or_path"] == {"hub": "org/model", "revision": "main"}


def test_no_path_of_this_machine_is_in_a_job(folder: Folder, tmp_path: Path) -> None:
    for one in folder.plan().jobs:
        assert str(tmp_path) not in one.job.model_dump_json()
        job_folder = StudyDir(folder.results / "digits").job(one.job.id).root
        assert (job_folder / one.job.base_dir).resolve() == tmp_path.resolve()


def test_a_task_whose_scores_change_scores_again(monkeypatch):
    benchmark = ExactMatch(dataset="d")
    before = benchmark_digest(benchmark, "data")
    monkeypatch.setattr(ExactMatch, "version", 2)
    assert benchmark_digest(benchmark, "data") != before


def test_fingerprints_of_jobs_and_scores_are_digests_of_what_they_cover() -> None:
    one, two = "a" * 64, "b" * 64
    every = {"settings": one, "seed": 3, "data": {"é": one, "a": two}, "model": two, "parents": [one, two]}
    epoch = {"numerics_epoch": fingerprint.NUMERICS_EPOCH}
    assert fingerprint.job_fingerprint(**every) == fingerprint.digest(every | epoch)
    inputs = {"inputs": {"zwei": two, "one": one}}
    assert fingerprint.job_fingerprint(**every, **inputs) == fingerprint.digest(every | inputs | epoch)
    bare = {"settings": None, "seed": None, "data": {}, "model": two, "parents": []}
    assert fingerprint.job_fingerprint(**bare) == fingerprint.digest(bare | epoch)
    assert fingerprint.evaluation_fingerprint(one, two) == fingerprint.digest({"job": one, "benchmark": two} | epoch)
