"""Scores of a mixture of experts equal those of one question at a time, whatever its gates read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyjob import run
from tinymole import mole_job, with_mixture

from tunestudy.bench.backends.vllm import served
from tunestudy.bench.checkpoints import build, put_checkpoint, score_checkpoints
from tunestudy.bench.run import load_to_score, run_benchmarks
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Question
from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.mole import mole_of
from tunestudy.models.results import load_result
from tunestudy.models.tokenizer import character_tokenizer
from tunestudy.records.stop import StopRequest
from tunestudy.train.world import World

GATES = [{"gate": "token"}, {"gate": "token", "top_k": 1}, {"gate": "sequence"}, {"gate": "layer"}]
TEXTS = [
    "abcdefgh 01234567 a=",
    "abcdefgh 01234567 b = ",
    "abcdefgh 01234567 abc 124 =",
    "77=",
    "=",
    "abcdefgh 01234567 a=",
]
OPTIONS = ("a", "b 12", "", "b 13", "0")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return character_tokenizer(CharacterTokenizer(alphabet="abcdefgh0123456789 ="))


def mixture(tokenizer: Any, **options: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.5,
    )
    model = with_mixture(Qwen3ForCausalLM(config), **options).eval()
    with torch.no_grad():  # so that it shows in a score what a gate has read
        for name, parameter in model.mole.parameters():
            parameter.mul_(4 if name.endswith(".lora_B") else 1)
    return model


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


@torch.no_grad()
def plain_sum(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """One row by itself: its prompt, then, from the cache, its answer. Nobody tells the model anything."""
    answer_ids = ids(tokenizer, answer)
    if not answer_ids:
        return 0.0
    first = model(torch.tensor([ids(tokenizer, prompt)]), use_cache=True)
    logits = first.logits[:, -1:]
    if len(answer_ids) > 1:
        rest = model(torch.tensor([answer_ids[:-1]]), past_key_values=first.past_key_values, use_cache=True)
        logits = torch.cat([logits, rest.logits], dim=1)
    log_probs = logits[0].log_softmax(-1)
    return sum(float(log_probs[i, token]) for i, token in enumerate(answer_ids))


@pytest.mark.parametrize("options", GATES)
@pytest.mark.parametrize("tokens", [30, 10_000])
def test_options_score_as_one_question_after_the_other(tokenizer: Any, options: Any, tokens: int) -> None:
    model = mixture(tokenizer, **options)
    asked = [(Question(ids(tokenizer, text)), OPTIONS) for text in TEXTS]
    told = Scorer(model, tokenizer, device=torch.device("cpu"), batch_tokens=tokens).option_log_probabilities(asked)
    for text, values in zip(TEXTS, told, strict=True):
        for option, value in zip(OPTIONS, values, strict=True):
            assert value == pytest.approx(plain_sum(model, tokenizer, text, option), abs=1e-4)


@pytest.mark.parametrize("options", GATES)
def test_answers_score_as_one_after_the_other(tokenizer: Any, options: Any) -> None:
    model = mixture(tokenizer, **options)
    answers = ["1", "12 4", "abc 0123456", "9", "00", "1"]
    asked = [(Question(ids(tokenizer, text)), ids(tokenizer, said)) for text, said in zip(TEXTS, answers, strict=True)]
    told = Scorer(model, tokenizer, device=torch.device("cpu")).answer_log_probs(asked)
    for text, answer, found in zip(TEXTS, answers, told, strict=True):
        assert found.total == pytest.approx(plain_sum(model, tokenizer, text, answer), abs=1e-4)


@pytest.mark.parametrize("options", GATES)
def test_generation_does_not_depend_on_the_batch(tokenizer: Any, options: Any) -> None:
    model = mixture(tokenizer, **options)
    questions = [Question(ids(tokenizer, text)) for text in TEXTS]
    scorers = [Scorer(model, tokenizer, device=torch.device("cpu"), batch_size=size) for size in (1, 6)]
    alone, together = (scorer.generate(questions, max_new_tokens=8) for scorer in scorers)
    assert alone == together and len(set(together)) > 1


def test_gates_matter_to_these_scores(tokenizer: Any) -> None:
    """Gates over a prompt give other scores than gates that see the answer as well, and than gates by token."""
    text, answer = "=", "b 1200"
    found = {gate: plain_sum(mixture(tokenizer, gate=gate), tokenizer, text, answer) for gate in ("token", "sequence")}
    model = mixture(tokenizer, gate="sequence")
    with torch.no_grad():
        log_probs = model(torch.tensor([ids(tokenizer, text + answer)])).logits[0].log_softmax(-1)
    start = len(ids(tokenizer, text))
    seen = sum(float(log_probs[start + i - 1, token]) for i, token in enumerate(ids(tokenizer, answer)))
    assert abs(found["sequence"] - seen) > 0.1 and abs(found["sequence"] - found["token"]) > 0.1


def scored_job(root: Path, **options: Any) -> tuple[Job, Any]:
    """A trained mixture with a benchmark that its checkpoints are wanted for, too."""
    kept = {"save_total_limit": 20, "drop_intermediate": False, "save_on_epoch_end": False, "learning_rate": 0.02}
    folder = mole_job(root, adapter=options, max_steps=6, **kept)
    job = json.loads(folder.job_json.read_text())
    said = {"type": "exact_match", "dataset": "first@held_out", "max_new_tokens": 4, "checkpoints": True}
    job["evaluations"] = {"said": {"benchmark": said, "fingerprint": "f"}}
    folder.job_json.write_text(json.dumps(job))
    assert run(folder)
    return Job.model_validate(job), folder


IDS = torch.tensor([[3, 4, 5, 6, 7]])


@pytest.mark.parametrize("options", [{"gate": "sequence"}, {"gate": "layer"}, {"train_experts": False}])
def test_a_job_is_scored_with_its_checkpoints(tmp_path: Path, options: Any) -> None:
    job, folder = scored_job(tmp_path, **options)
    loaded, sliced = load_to_score(job, folder, World())
    assert not sliced and (mole_of(loaded.model) is None) == (options.get("gate") == "layer")
    assert run_benchmarks(job, folder, World(), StopRequest())
    assert score_checkpoints(job, folder, World(), StopRequest())
    final = folder.predictions("said").read_text()
    assert (folder.root / "eval/checkpoint-6/said.predictions.jsonl").read_text() == final
    with torch.no_grad():
        result = load_result(folder, "cpu").model.eval()(IDS).logits
        built = build(job, folder, World())
        at = {}
        for step in (3, 6):
            put_checkpoint(folder, f"checkpoint-{step}", built)
            at[step] = built.model.eval()(IDS).logits
    torch.testing.assert_close(at[6], result, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(at[3], result, atol=1e-4)


@pytest.mark.parametrize("gate", ["token", "layer"])
def test_vllm_has_no_gates(tmp_path: Path, gate: str) -> None:
    job, folder = scored_job(tmp_path, gate=gate)
    if gate == "token":
        with pytest.raises(StudyError, match="gate: layer"):
            served(job, folder)
    else:
        assert served(job, folder).rank == 5
