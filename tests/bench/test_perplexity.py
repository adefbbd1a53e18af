"""Perplexity is the plain model's own loss, whatever the batch; every token of a long text is scored once."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tinyjob import make_job, run
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from tunestudy.bench.likelihood import windows
from tunestudy.bench.run import run_benchmarks
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Scored, perplexity
from tunestudy.config.benchmark import Perplexity
from tunestudy.config.errors import StudyError
from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.tokenizer import character_tokenizer
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest
from tunestudy.train.world import World

CPU = torch.device("cpu")
TEXTS = ["abc def", "hgfedcba 0123456789 = abc", "a", "=" * 40, "ab", "é = 12 é"]
CONTEXT = 24


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(CharacterTokenizer(alphabet="abcdefgh0123456789 =é"))


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            num_key_value_heads=1,
            max_position_embeddings=CONTEXT,
            initializer_range=0.5,
            **shape,
        )
    ).eval()


def texts_of(tokenizer, texts):
    found = []
    for number, text in enumerate(texts):
        ids = tuple(tokenizer(text).input_ids)
        flags = (False,) + (True,) * (len(ids) - 1)
        found.append(perplexity.Text(f"{number}", ids, text, is_scored=flags, num_bytes=max(1, len(text[1:].encode()))))
    return [text for text in found if len(text.prompt_ids) > 1]


def plain_nll(model, ids, counts_from):
    """Σ NLL of the tokens from `counts_from` on by transformers' own loss, the others masked."""
    row = torch.tensor([ids])
    labels = row.clone()
    labels[:, :counts_from] = -100
    with torch.no_grad():
        return float(model(row, labels=labels).loss) * (len(ids) - counts_from)


@given(length=st.integers(2, 60), first=st.integers(1, 59), max_length=st.integers(2, 20), stride=st.integers(1, 19))
def test_every_token_is_scored_once_with_all_the_context_that_was_promised(length, first, max_length, stride):
    stride, first = min(stride, max_length - 1), min(first, length - 1)
    found = list(windows(length, first=first, max_length=max_length, stride=stride))
    assert [i for w in found for i in range(w.counts_from, w.end)] == list(range(first, length))
    for w in found:
        assert 0 <= w.begin < w.counts_from < w.end <= length
        assert w.end - w.begin <= max_length
        assert w.begin == 0 or w.counts_from - w.begin >= max_length - stride
    if stride == 1:
        assert all(i - w.begin >= min(i, max_length - 1) for w in found[1:] for i in range(w.counts_from, w.end))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_text_has_the_plain_model_s_own_loss(model, tokenizer, batch_size):
    rows = texts_of(tokenizer, [text for text in TEXTS if len(text) <= CONTEXT])
    scorer = Scorer(model, tokenizer, batch_size=batch_size, device=CPU)
    for row, scored in zip(rows, perplexity.score(scorer, rows, Perplexity(dataset="d")), strict=True):
        expected = plain_nll(model, row.prompt_ids, 1)
        assert scored.others["nll"] == pytest.approx(expected, rel=1e-5)
        assert scored.others["tokens"] == len(row.prompt_ids) - 1
        assert scored.score == pytest.approx(expected / math.log(2) / len(row.reference[1:].encode()), rel=1e-5)


def test_windows_of_a_long_text_are_the_plain_model_on_each_window(model, tokenizer):
    [row] = texts_of(tokenizer, [TEXTS[3] + TEXTS[1]])
    scorer = Scorer(model, tokenizer, batch_size=3, device=CPU)
    [scored] = perplexity.score(scorer, [row], Perplexity(dataset="d", window=10, stride=4))
    ids, done, expected = row.prompt_ids, 1, 0.0
    for end in [*range(10, len(ids), 4), len(ids)]:
        begin = max(0, end - 10)
        expected += plain_nll(model, ids[begin:end], done - begin)
        done = end
    assert done == len(ids) > CONTEXT
    assert scored.others["nll"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", [{"window": CONTEXT + 1}, {"stride": CONTEXT}])
def test_windows_that_the_model_cannot_hold_are_refused(model, tokenizer, options):
    scorer = Scorer(model, tokenizer, batch_size=3, device=CPU)
    with pytest.raises(StudyError, match=str(CONTEXT)):
        perplexity.score(scorer, texts_of(tokenizer, TEXTS), Perplexity(dataset="d", **options))


def test_a_model_that_answers_no_number_is_an_error(model, tokenizer):
    broken = Qwen3ForCausalLM(model.config)
    torch.nn.init.constant_(broken.lm_head.weight, float("nan"))
    scorer = Scorer(broken, tokenizer, batch_size=3, device=CPU)
    with pytest.raises(StudyError, match="no number"):
        perplexity.score(scorer, texts_of(tokenizer, TEXTS[:1]), Perplexity(dataset="d"))


def test_totals_weigh_texts_by_their_length():
    short = Scored("a", "", "", False, score=8.0, others={"nll": math.log(2) * 8, "tokens": 1.0, "bytes": 1.0})
    long = Scored("b", "", "", False, score=2.0, others={"nll": math.log(2) * 6, "tokens": 6.0, "bytes": 3.0})
    told = perplexity.totals([short, long])
    assert told.metrics[told.primary] == pytest.approx(14 / 4)
    assert told.metrics["nll"] == pytest.approx(math.log(2) * 2)
    assert told.metrics["perplexity"] == pytest.approx(4)


def trained(root: Path, lines: list[dict[str, str]], **benchmark: object) -> JobDir:
    """A job that trains one step, and a benchmark over `lines`."""
    (root / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = make_job(root, max_steps=1)
    job = json.loads(folder.job_json.read_text())
    job["datasets"]["texts"] = {"type": "file", "path": "texts.jsonl"}
    wanted = {"type": "perplexity", "dataset": "texts", "batch_size": 2, **benchmark}
    job["evaluations"] = {"ppl": {"benchmark": wanted, "fingerprint": "f"}}
    folder.job_json.write_text(json.dumps(job))
    run(folder)
    return folder


def evaluated(folder: JobDir) -> tuple[dict[str, object], list[dict[str, object]]]:
    from tunestudy.config.job import Job

    job = Job.model_validate_json(folder.job_json.read_text())
    assert run_benchmarks(job, folder, World(), StopRequest())
    lines = folder.predictions("ppl").read_text().splitlines()
    return json.loads(folder.eval_json("ppl").read_text()), [json.loads(line) for line in lines]


def test_a_job_s_score_is_that_of_its_published_model_on_each_document(tmp_path):
    texts = ["abc abc", "hijj = ?", "a", "bb"]
    folder = trained(tmp_path, [{"id": f"t{i}", "text": text} for i, text in enumerate(texts)])
    told, rows = evaluated(folder)
    model = AutoModelForCausalLM.from_pretrained(folder.model).eval()
    ids = [AutoTokenizer.from_pretrained(folder.model)(text).input_ids for text in texts if len(text) > 1]
    nll = sum(plain_nll(model, one, 1) for one in ids)
    tokens, spelt = sum(len(one) - 1 for one in ids), sum(len(text) - 1 for text in texts)
    assert told["primary"] == "bits_per_byte" and told["n"] == len(rows) == 3
    assert told["metrics"]["nll"] == pytest.approx(nll / tokens, rel=1e-5)
    assert told["metrics"]["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert told["metrics"]["bits_per_byte"] == pytest.approx(nll / math.log(2) / spelt, rel=1e-5)


def test_over_answers_the_answer_and_its_stop_token_count(tmp_path):
    folder = trained(tmp_path, [{"prompt": "ab ? ", "completion": "= ba"}], over="answers")
    told, [row] = evaluated(folder)
    model = AutoModelForCausalLM.from_pretrained(folder.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder.model)
    ids = [*tokenizer("ab ? = ba").input_ids, tokenizer.eos_token_id]
    assert row["others"]["tokens"] == 5 and row["others"]["bytes"] == 4
    assert told["metrics"]["nll"] == pytest.approx(plain_nll(model, ids, len("ab ? ")) / 5, rel=1e-5)


@pytest.mark.parametrize(
    ("line", "over", "cure"),
    [({"text": "abc"}, "answers", "over: text"), ({"prompt": "a", "completion": "b"}, "text", "over: answers")],
)
def test_data_of_the_other_kind_are_refused_with_the_cure(tmp_path, line, over, cure):
    folder = trained(tmp_path, [line], over=over)
    with pytest.raises(StudyError, match=cure):
        evaluated(folder)
