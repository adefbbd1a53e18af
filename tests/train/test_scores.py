"""Scores of a frozen model: what a plain forward pass says, whatever the batches and ranks, computed once."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stops import Crash, CrashAt, StopAt
from tinyjob import ADAPTER, ALPHABET, facts_of, make_job, run, tiny_model
from tinyranks import start
from torch import Tensor

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import TrainStage
from tunestudy.data.batch import Row
from tunestudy.data.corpus import Corpus, open_corpus
from tunestudy.models.origin import load_tokenizer
from tunestudy.models.own import load_frozen
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest
from tunestudy.train import loop, scores
from tunestudy.train.precision import Precision
from tunestudy.train.scores import AskedToLeaveError, batches_of, summed_losses
from tunestudy.train.world import World

WIDE = tiny_model(initializer_range=0.5)
"""Weights so large that answers differ in how likely they are."""

BY_SCORE: dict[str, Any] = {"by": "score", "scorer": "base"}


class Alone(World):
    """One of several ranks, whose reductions keep the local sums: the test adds them up."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor


def scored_job(root: Path, name: str = "adapt", **settings: Any) -> JobDir:
    return make_job(root, name, **{"model": WIDE, "order": BY_SCORE, "num_records": 24, "max_steps": 4, **settings})


def files(folder: JobDir) -> dict[str, str]:
    """Every file of scores of the study."""
    found = folder.study.score_cache.glob("*/values.jsonl")
    return {path.parent.name: path.read_text(encoding="utf-8") for path in found}


def values(folder: JobDir) -> dict[str, float]:
    (text,) = files(folder).values()
    return {row["id"]: row["value"] for row in map(json.loads, text.splitlines())}


def opened(folder: JobDir) -> tuple[Job, Corpus]:
    job = Job.model_validate_json(folder.job_json.read_text(encoding="utf-8"))
    report = json.loads(folder.data_report.read_text(encoding="utf-8"))
    return job, open_corpus(folder.study.data_cache / report["cache"] / "train")


def frozen(job: Job, folder: JobDir, config: ModelConfig | None = None) -> Any:
    config = config or job.model
    return load_frozen(job, config, folder, load_tokenizer(config, folder.root), "cpu").eval()


def alone(model: Any, corpus: Corpus, sample: int) -> float:
    """A sample's mean NLL by the model's own logits, one sample at a time, in double precision."""
    ids = torch.from_numpy(corpus.ids[corpus.offsets[sample] : corpus.offsets[sample + 1]].astype(np.int64))[None]
    wanted = corpus.is_target[corpus.offsets[sample] : corpus.offsets[sample + 1]]
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    told = [-float(log_probs[i - 1, ids[0, i]]) for i in np.flatnonzero(wanted)]
    return sum(told) / len(told)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> JobDir:
    """A finished job with scores."""
    folder = scored_job(tmp_path_factory.mktemp("plain"))
    assert run(folder)
    return folder


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples that training takes, in its order."""
    seen: list[int] = []
    count = loop.count

    def watch(run_: Any, sums: Any, rows: list[Row], seconds: float) -> None:
        seen.extend(sample for row in rows for sample in row)
        count(run_, sums, rows, seconds)

    monkeypatch.setattr(loop, "count", watch)
    return seen


@pytest.mark.parametrize("direction", ["ascending", "descending"])
def test_training_walks_by_what_a_plain_forward_pass_says(tmp_path: Path, walked: list[int], direction: str) -> None:
    folder = scored_job(tmp_path, order={**BY_SCORE, "direction": direction}, two_sources=True)
    assert run(folder)
    job, corpus = opened(folder)
    model = frozen(job, folder)
    expected = {name: alone(model, corpus, i) for i, name in enumerate(corpus.sample_ids)}
    assert np.ptp(list(expected.values())) > 0.5, "scores must differ for the order to mean anything"
    assert values(folder) == pytest.approx(expected, abs=1e-4)
    along = [expected[corpus.sample_ids[sample]] for sample in walked]
    steps = np.diff(along) if direction == "ascending" else -np.diff(along)
    assert steps.min() > -2e-4 and len(along) == 32


def test_start_is_the_model_before_its_first_step_and_leaves_no_trace(tmp_path: Path, walked: list[int]) -> None:
    start_job = scored_job(tmp_path, "start", order={"by": "score"}, adapter={**ADAPTER, "lora_dropout": 0.5})
    assert run(start_job)
    base = scored_job(tmp_path, "base", adapter={**ADAPTER, "lora_dropout": 0.5})
    assert run(base)
    one, other = files(base).values()
    assert one == other and len(files(base)) == 2
    half = len(walked) // 2
    assert walked[:half] == walked[half:] and half > 24
    weights = [facts_of(folder)["weights"]["adapter_model.safetensors"] for folder in (start_job, base)]
    assert weights[0] == weights[1]


def test_start_after_a_stage_is_what_that_stage_left(tmp_path: Path) -> None:
    first = scored_job(tmp_path, "first", order="shuffle", adapter=ADAPTER, learning_rate=0.1, num_train_epochs=3)
    assert run(first)
    settings = {"order": {"by": "score"}, "adapter": ADAPTER, "init": "continue", "after": first}
    second = scored_job(tmp_path, "second", **settings)
    assert run(second)
    learnt = values(second)
    untouched = scored_job(tmp_path, "untouched")
    assert run(untouched)
    fresh = files(untouched)[used_by(untouched)]
    before = [row["value"] for row in map(json.loads, fresh.splitlines())]
    assert np.mean(list(learnt.values())) < np.mean(before) - 0.1


def used_by(folder: JobDir) -> str:
    """The name of the scores that this job used."""
    report = json.loads(folder.data_report.read_text(encoding="utf-8"))
    return f"{report['order']['scorer']}-{report['cache'][:16]}"


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_add_up_to_the_very_same_sums(plain: JobDir, size: int) -> None:
    job, corpus = opened(plain)
    model = frozen(job, plain)
    assert isinstance(job.settings, TrainStage)
    precision = Precision(job.settings, job.model, torch.device("cpu"))

    def summed(world: World) -> Any:
        return summed_losses(SimpleNamespace(world=world, stop=StopRequest()), model, corpus, precision)  # type: ignore[arg-type]

    whole = summed(World())
    parts = [summed(Alone(rank=rank, size=size)) for rank in range(size)]
    assert np.array_equal(sum(parts), whole)
    assert all(np.count_nonzero(part[1]) < len(corpus) for part in parts)


def test_batches_hold_one_length_and_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "TOKENS_PER_BATCH", 40)
    lengths = np.random.default_rng(0).integers(3, 60, 200)
    found = batches_of(SimpleNamespace(lengths=lengths))  # type: ignore[arg-type]
    assert sorted(sample for batch in found for sample in batch) == list(range(200))
    for batch in found:
        (length,) = {int(lengths[sample]) for sample in batch}
        assert len(batch) * length <= 40 or len(batch) == 1
    longest = [lengths[batch[0]] for batch in found]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("change", [{"per_device_train_batch_size": 1}, {"padding": "right"}, {"packing": True}])
def test_no_batch_size_changes_a_digit(tmp_path: Path, plain: JobDir, change: dict[str, Any]) -> None:
    other = scored_job(tmp_path, **change)
    assert run(other)
    assert files(other) == files(plain)


def test_a_second_job_reuses_the_file_and_a_flipped_bit_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scored_job(tmp_path, "first")
    assert run(first)
    before = files(first)
    again = scored_job(tmp_path, "again", order={**BY_SCORE, "direction": "descending", "take": [0, 0.5]}, seed=7)
    with monkeypatch.context() as patched:
        patched.setattr(scores, "summed_losses", lambda *_: pytest.fail("scored twice"))
        patched.setattr(scores, "load_frozen", lambda *_: pytest.fail("loaded in vain"))
        assert run(again)
    assert json.loads(again.data_report.read_text())["order"]["samples"] == round(len(values(first)) / 2)
    path = next(first.study.score_cache.glob("*/values.jsonl"))
    path.write_text(path.read_text().replace("0", "1", 1), encoding="utf-8")
    assert run(scored_job(tmp_path, "third"))
    assert files(first) == before


def test_a_model_with_its_own_tokenizer_reads_the_same_answers(tmp_path: Path) -> None:
    letters = "".join(random.Random(3).sample(ALPHABET, len(ALPHABET)))
    other = {**tiny_model(initializer_range=0.5, num_hidden_layers=1), "tokenizer": {"type": "characters"}}
    other["tokenizer"]["alphabet"] = letters
    folder = scored_job(tmp_path, order={"by": "score", "scorer": other})
    assert run(folder)
    job, corpus = opened(folder)
    config = ModelConfig.model_validate(other)
    tokenizer, own = load_tokenizer(config, tmp_path), load_tokenizer(job.model, tmp_path)
    model = frozen(job, folder, config)
    for index, name in enumerate(corpus.sample_ids):
        ids = corpus.ids[corpus.offsets[index] : corpus.offsets[index + 1]]
        text = own.decode(ids[:-1])
        assert values(folder)[name] == pytest.approx(_read_by(model, tokenizer, text), abs=1e-4)


def _read_by(model: Any, tokenizer: Any, text: str) -> float:
    """Mean NLL of what stands from `=` on, and of the end."""
    ids = torch.tensor([[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    told = [-float(log_probs[i - 1, ids[0, i]]) for i in range(text.index("="), ids.shape[1])]
    return sum(told) / len(told)


def test_what_the_scorer_cannot_read_is_hardest(
    tmp_path: Path, walked: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(task: Any, tokenizer: Any) -> Corpus:
        whole = own_reading(task, tokenizer)
        return whole.subset(np.delete(np.arange(len(whole)), 3))

    own_reading = scores.own_reading
    monkeypatch.setattr(scores, "own_reading", without)
    other = {**WIDE, "tokenizer": {"type": "characters", "alphabet": ALPHABET[::-1]}}
    folder = scored_job(tmp_path, order={"by": "score", "scorer": other}, num_train_epochs=1, max_steps=None)
    assert run(folder)
    assert walked[-1] == 3 and [name for name, value in values(folder).items() if value is None]
    assert f"1 of {len(walked)} samples are too long for the scorer and count as hardest" in capsys.readouterr().out


def test_a_job_asked_to_stop_while_scoring_leaves_and_comes_back(tmp_path: Path) -> None:
    folder = scored_job(tmp_path)
    assert run(folder, stop=StopAt(1)) is False
    assert json.loads(folder.progress_json.read_text())["phase"] == "interrupted"
    assert not files(folder)
    assert run(folder)
    with pytest.raises(AskedToLeaveError):
        scores.look(SimpleNamespace(world=World(), stop=StopAt(1)), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("scorer", ["start", pytest.param("base", marks=pytest.mark.slow)])
def test_a_killed_curriculum_ends_bit_for_bit_like_an_undisturbed_one(tmp_path: Path, scorer: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    settings = {"order": {"by": "score", "scorer": scorer, "buckets": 2}, "max_steps": 8, "adapter": ADAPTER}
    quiet, hit = scored_job(tmp_path / "a", **settings), scored_job(tmp_path / "b", **settings)
    assert run(quiet)
    with pytest.raises(Crash):
        run(hit, stop=CrashAt(1))
    with pytest.raises(Crash):
        run(hit, stop=CrashAt(6))
    assert run(hit)
    assert facts_of(hit) == facts_of(quiet)
    assert json.loads(hit.result_json.read_text())["resumed_from"] == [3]


def test_a_column_shares_tokens_with_other_arms_and_says_what_it_left_out(tmp_path: Path, walked: list[int]) -> None:
    scored_job(tmp_path, "plain")
    rows = [json.loads(line) for line in (tmp_path / "first.jsonl").read_text().splitlines()]

    def write(name: str, **settings: Any) -> JobDir:
        folder = scored_job(tmp_path, name, **settings)
        text = "".join(json.dumps({**row, "d": i % 5 if i else None}) + "\n" for i, row in enumerate(rows))
        (tmp_path / "first.jsonl").write_text(text, encoding="utf-8")
        job = json.loads(folder.job_json.read_text())
        job["datasets"]["first"]["max_rejected"] = 0.1
        folder.job_json.write_text(json.dumps(job))
        return folder

    plain = write("plain", order="random", num_train_epochs=1, max_steps=None)
    column = write("column", order={"by": "column", "column": "d"}, num_train_epochs=1, max_steps=None)
    assert run(plain)
    del walked[:]
    assert run(column)
    told, other = (json.loads(folder.data_report.read_text()) for folder in (column, plain))
    assert told["cache"] == other["cache"] and len(list(column.study.data_cache.iterdir())) == 1
    _, corpus = opened(column)
    assert "0-0" in list(corpus.sample_ids)
    assert told["order"]["rejected"] == {"first": {"no value": 1}}
    assert len(walked) == len(corpus) - 1 == told["drawn"]["of_stage"]
    assert told["sources"]["first"]["samples_per_epoch"] == len(corpus) - 1
    places = [(int(corpus.sample_ids[i].split("-")[1]) % 5, corpus.sample_ids[i]) for i in walked]
    assert places == sorted(places)
    assert told["drawn"]["samples_sha256"] != other["drawn"]["samples_sha256"]
    missing_column = write("wrong", order={"by": "column", "column": "complexion"})
    with pytest.raises(StudyError, match=r"stages\.wrong\.order\.column: .* did you mean 'completion'\?"):
        run(missing_column)


@pytest.mark.slow
@pytest.mark.parametrize("order", [{"by": "score"}, {"by": "column", "column": "completion"}])
def test_two_real_ranks_leave_the_same_files_as_one(tmp_path: Path, order: dict[str, Any]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    settings = {"two_sources": True, "order": order, "adapter": ADAPTER}
    one, two = scored_job(tmp_path / "a", **settings), scored_job(tmp_path / "b", **settings)
    assert run(one)
    assert start(two).wait(timeout=300) == 0
    found = [sorted((folder.study.root / "cache").glob("[cs]*s/*/values.jsonl")) for folder in (one, two)]
    assert [path.read_bytes() for path in found[0]] == [path.read_bytes() for path in found[1]]
    assert [path.parent.name for path in found[0]] == [path.parent.name for path in found[1]] and len(found[0]) == 1
    reports = [json.loads(folder.data_report.read_text()) for folder in (one, two)]
    assert reports[0] == reports[1]
    assert json.loads(two.result_json.read_text())["world_size"] == 2
