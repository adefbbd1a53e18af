"""One number whatever the ranks and batches, one all-reduce, no trace left."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_corpus import corpus_of
from tinyjob import make_job, rows_of, run, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import TrainStage
from tunestudy.data.batch import Layout
from tunestudy.data.corpus import Corpus
from tunestudy.data.loader import Cutter
from tunestudy.train.engines.single import SingleEngine
from tunestudy.train.evaluate import Evaluated, EvaluationSet
from tunestudy.train.loss import LossModel
from tunestudy.train.metrics import Sums
from tunestudy.train.precision import Precision
from tunestudy.train.world import World

SETTINGS = TrainStage.model_validate({"data": ["d"], "learning_rate": 0.1})


class Alone(World):
    """One of several ranks, whose reductions keep the local sums: the test adds them up."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        self.num_reductions += 1
        return tensor


@pytest.fixture(scope="module")
def model() -> LossModel:
    torch.manual_seed(0)
    return LossModel(AutoModelForCausalLM.from_config(Qwen3Config(**tiny_model()["config"], vocab_size=32)))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 30, 13)
    samples = ((random.integers(1, 32, n), random.random(n) < 0.6) for n in lengths)
    return corpus_of(samples, sources=("a", "b"), source=[i % 2 for i in range(13)])


def cutter(world: World, layout: Layout) -> Cutter:
    return Cutter(layout=layout, rank=world.rank, world_size=world.size)


def evaluate(model: LossModel, corpus: Corpus, world: World, micro_batch: int, layout: str = "right") -> Sums:
    subset = EvaluationSet(corpus, SETTINGS, cutter(world, layout), micro_batch=micro_batch)
    precision = Precision(SETTINGS, ModelConfig.model_validate(tiny_model()), world.device)
    return subset.evaluate(SingleEngine(model), precision, world).sums


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_the_loss_depends_on_neither_ranks_nor_batches(
    model: LossModel, corpus: Corpus, size: int, micro_batch: int
) -> None:
    expected = evaluate(model, corpus, World(), 13)
    worlds = [Alone(rank=rank, size=size) for rank in range(size)]
    parts = [evaluate(model, corpus, world, micro_batch) for world in worlds]
    total = parts[0]
    for part in parts[1:]:
        total.add(part)
    assert total.targets == expected.targets == corpus.targets_by_source().tolist()
    assert total.nll == pytest.approx(expected.nll, rel=1e-6)
    assert [world.num_reductions for world in worlds] == [1] * size


def test_every_rank_runs_the_same_number_of_forward_passes(model: LossModel, corpus: Corpus) -> None:
    counts = []
    for rank in range(3):
        calls: list[int] = []
        handle = model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        evaluate(model, corpus, Alone(rank=rank, size=3), 2)
        handle.remove()
        counts.append(len(calls))
    assert len(set(counts)) == 1


def test_evaluation_draws_no_random_number_and_leaves_the_model_training(model: LossModel, corpus: Corpus) -> None:
    model.train()
    before = torch.get_rng_state()
    first = evaluate(model, corpus, World(), 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert evaluate(model, corpus, World(), 4) == first


def test_losses_by_source_add_up_and_one_source_has_no_columns() -> None:
    sums = Sums(nll=[6.0, 2.0, 0.0], targets=[3, 1, 0])
    assert sums.loss == 2.0
    assert sums.loss_by_source(("a", "b", "c")) == {"loss/a": 2.0, "loss/b": 2.0, "loss/c": None}
    assert Sums(nll=[6.0], targets=[3]).loss_by_source(("a",)) == {}
    assert Sums.zero(2).loss is None


@pytest.mark.parametrize("layout", ["right", "free"])
@pytest.mark.parametrize("size", [1, 3])
def test_losses_of_samples_are_those_of_each_alone(model: LossModel, corpus: Corpus, size: int, layout: Layout) -> None:
    settings = SETTINGS.model_copy(update={"eval_sample_losses": True})
    precision = Precision(settings, ModelConfig.model_validate(tiny_model()), World().device)

    def found(corpus: Corpus, world: World) -> Evaluated:
        subset = EvaluationSet(corpus, settings, cutter(world, layout), micro_batch=4)
        return subset.evaluate(SingleEngine(model), precision, world)

    alone = [found(corpus.subset(np.array([sample])), World()) for sample in range(len(corpus))]
    of_ranks = [found(corpus, Alone(rank=rank, size=size)) for rank in range(size)]
    for sample, one in enumerate(alone):
        mine = [rank.samples[sample] for rank in of_ranks if rank.samples[sample]["target_tokens"]]
        assert len(mine) == (one.sums.num_targets > 0)
        if mine:
            row = mine[0]
            assert row["id"] == corpus.sample_ids[sample] and row["target_tokens"] == one.sums.num_targets
            assert row["source"] == corpus.sources[corpus.source[sample]]
            assert row["loss"] == pytest.approx(one.sums.loss, rel=1e-5)
    without = sum(evaluate(model, corpus, Alone(rank=rank, size=size), 4, layout).nll[0] for rank in range(size))
    assert without == sum(rank.sums.nll[0] for rank in of_ranks)


def test_a_stage_writes_them_for_every_evaluation(tmp_path: Path) -> None:
    settings = {"eval_sample_losses": True, "eval_steps": 3, "max_steps": 6, "two_sources": True}
    folder = make_job(tmp_path, **settings)
    assert run(folder)
    rows, evaluations = rows_of(folder.eval_samples), rows_of(folder.eval_log)
    steps = [row["step"] for row in evaluations]
    assert list(dict.fromkeys(row["step"] for row in rows)) == steps
    for evaluation in evaluations:
        mine = [row for row in rows if row["step"] == evaluation["step"]]
        nll = sum(float(row["loss"]) * int(row["target_tokens"]) for row in mine)
        assert nll / int(evaluation["target_tokens"]) == pytest.approx(float(evaluation["eval_loss"]))
        assert len({row["id"] for row in mine}) == len(mine)
        assert {row["source"] for row in mine} == {
            "first@held_out",
            "second@held_out",
        }
