"""Scores of batches equal those of one question at a time, and both kinds of benchmark decide as defined."""

import copy
from types import SimpleNamespace

import pytest
import torch

from tunestudy.bench.scorer import Scorer, before_first
from tunestudy.bench.tasks import Question, Row, Scored, exact_match, multiple_choice
from tunestudy.config.benchmark import ExactMatch, MultipleChoice
from tunestudy.config.errors import StudyError
from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.tokenizer import character_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(CharacterTokenizer(alphabet="abcdefgh0123456789 ="))


@pytest.fixture(scope="module")
def model(tokenizer):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            initializer_range=0.5,
        )
    )


def ids(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def scorer_of(model, tokenizer, batch_size=None, **options):
    return Scorer(model, tokenizer, batch_size=batch_size, device=CPU, **options)


def test_log_probabilities_of_a_batch_equal_those_of_the_plain_model(model, tokenizer):
    asked = [("abc=", "1"), ("a=", "12 4"), ("hgfedcba=", "07"), ("=", "9")]
    questions = [(Question(ids(tokenizer, prompt)), [answer]) for prompt, answer in asked]
    batched = scorer_of(model, tokenizer, 3).option_log_probabilities(questions)
    for (prompt, answer), [total] in zip(asked, batched, strict=True):
        row = torch.tensor([ids(tokenizer, prompt + answer)])
        log_probs = model(row).logits[0].detach().log_softmax(-1)
        start = len(ids(tokenizer, prompt))
        expected = sum(float(log_probs[i - 1, row[0, i]]) for i in range(start, row.shape[1]))
        assert total == pytest.approx(expected, abs=1e-4)


def test_generation_does_not_depend_on_the_batch(model, tokenizer):
    prompts = [Question(ids(tokenizer, text)) for text in ("abc=", "d=", "abcdefgh=", "00=", "e f g=")]
    one_by_one = [scorer_of(model, tokenizer, 1).generate([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert scorer_of(model, tokenizer, 4).generate(prompts, max_new_tokens=6) == one_by_one
    assert len(set(one_by_one)) > 1, "the model must say different things for the comparison to mean anything"


@pytest.mark.parametrize(("said", "wanted"), [(" 7\n", "7"), ("New  York", "new york"), ("seven", "SEVEN ")])
def test_exact_match_evens_out_space_and_case(said, wanted):
    fake = SimpleNamespace(generate=lambda prompts, max_new_tokens: [said])
    [scored] = exact_match.score(fake, [Row("r", (1,), wanted)], ExactMatch(dataset="d"))
    assert scored == Scored("r", said, wanted, True)


def test_exact_match_tells_different_answers_apart():
    fake = SimpleNamespace(generate=lambda prompts, max_new_tokens: ["77"])
    assert not exact_match.score(fake, [Row("r", (1,), "7")], ExactMatch(dataset="d"))[0].correct


@pytest.mark.parametrize(("normalise", "chosen"), [("none", "b"), ("tokens", "long")])
def test_multiple_choice_takes_the_most_probable(normalise, chosen):
    sums = {"b": (-2.0, 1), "long": (-4.0, 4), "c": (-9.0, 1)}
    fake = SimpleNamespace(
        option_log_probabilities=lambda asked: [[sums[choice][0] for choice in choices] for _, choices in asked],
        ids_of=lambda choice: range(sums[choice][1]),
    )
    rows = [Row("r", (1,), "b", ("b", "long", "c"))]
    [scored] = multiple_choice.score(fake, rows, MultipleChoice(dataset="d", normalise=normalise))
    assert scored.prediction == chosen
    assert scored.correct == (chosen == "b")


def test_a_choice_without_tokens_is_an_error():
    fake = SimpleNamespace(ids_of=lambda choice: choice.split())
    with pytest.raises(StudyError, match="row r7: the choice ' ' has no tokens"):
        multiple_choice.score(fake, [Row("r7", (1,), "a", ("a", " "))], MultipleChoice(dataset="d"))


def test_a_reference_outside_the_choices_is_an_error():
    with pytest.raises(StudyError, match="none of its choices"):
        multiple_choice.choices_of(Row("r7", (1,), "x", ("a", "b")), MultipleChoice(dataset="d"))


@pytest.mark.parametrize(
    ("said", "right"), [("1 + 2 = 3\n7", True), ("7", True), ("x\ny\n7", True), ("7\nor 8", False), ("8", False)]
)
def test_exact_match_of_what_follows_a_rationale(said, right):
    fake = SimpleNamespace(generate=lambda prompts, max_new_tokens: [said])
    [scored] = exact_match.score(fake, [Row("r", (1,), "7")], ExactMatch(dataset="d", answer_after="\n"))
    assert scored == Scored("r", said, "7", right)


@pytest.mark.parametrize("tokens", [30, 10_000])
def test_options_of_questions_that_begin_alike_score_as_in_the_plain_model(model, tokenizer, tokens):
    """Letters, words and nothing; beginnings of several lengths, and one question that begins like no other."""
    start = "abcdefgh 01234567 "
    texts = [start + rest for rest in ("a=", "b = ", "abc 123 =", "abc 124 =")] + ["77="]
    asked = [(text, ("a", "b 12", "", "b 13", "0")) for text in texts]
    told = scorer_of(model, tokenizer, batch_tokens=tokens).option_log_probabilities(
        [(Question(ids(tokenizer, text)), options) for text, options in asked]
    )
    for (text, options), values in zip(asked, told, strict=True):
        for option, value in zip(options, values, strict=True):
            assert value == pytest.approx(plain_sum(model, tokenizer, text, option), abs=1e-5)


def plain_sum(model, tokenizer, prompt, answer):
    row = torch.tensor([ids(tokenizer, prompt + answer)])
    log_probs = model(row).logits[0].detach().log_softmax(-1)
    start = len(ids(tokenizer, prompt))
    return sum(float(log_probs[i - 1, row[0, i]]) for i in range(start, row.shape[1]))


def test_a_shared_beginning_is_computed_once(model, tokenizer):
    seen = []
    handle = model.register_forward_pre_hook(
        lambda _module, _arguments, options: seen.append(options["input_ids"].numel()), with_kwargs=True
    )
    try:
        asked = [(Question(ids(tokenizer, "abcdefgh" * 10 + f" {i}=")), ("a", "b")) for i in range(10)]
        scorer_of(model, tokenizer).option_log_probabilities(asked)
    finally:
        handle.remove()
    assert sum(seen) == 81 + 10 * 2


@pytest.mark.parametrize("stop", [(), ("7",), ("h", "3"), ("nowhere",)])
def test_generation_ends_before_the_first_stop(model, tokenizer, stop):
    prompts = [Question(ids(tokenizer, text)) for text in ("abc=", "d=", "abcdefgh=", "00=", "e f g=")]
    whole = scorer_of(model, tokenizer).generate(prompts, max_new_tokens=12)
    cut = [text[: min([text.find(word) for word in stop if word in text], default=len(text))] for text in whole]
    assert scorer_of(model, tokenizer).generate(prompts, max_new_tokens=12, stop=stop) == cut
    assert scorer_of(model, tokenizer, 1).generate(prompts, max_new_tokens=12, stop=stop) == cut


def test_generation_does_not_go_on_once_all_have_stopped(model, tokenizer):
    prompt = Question(ids(tokenizer, "abc="))
    first = scorer_of(model, tokenizer).generate([prompt], max_new_tokens=12)[0][0]
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        scorer_of(model, tokenizer).generate([prompt], max_new_tokens=12, stop=(first,))
    finally:
        handle.remove()
    assert len(passes) == 1


def test_rows_with_a_problem_are_not_asked_and_wrong():
    rows = [Row("bad", (), "b", ("b", "c"), problem="broken image"), Row("r", (1,), "b", ("b", "c"))]
    fake = SimpleNamespace(
        option_log_probabilities=lambda asked: [[-1.0, -2.0] for _ in asked],
        generate=lambda questions, max_new_tokens: ["b" for _ in questions],
        ids_of=lambda choice: choice,
    )
    for kind, benchmark in ((multiple_choice, MultipleChoice(dataset="d")), (exact_match, ExactMatch(dataset="d"))):
        bad, good = kind.score(fake, rows, benchmark)
        assert (bad.id, bad.prediction, bad.correct, bad.problem) == ("bad", "", False, "broken image")
        assert good.correct


@pytest.mark.parametrize(
    ("text", "left"), [("Paris\nand", "Paris"), ("\nParis\nand", "\nParis"), ("\n\n", "\n\n"), ("a", "a"), ("", "")]
)
def test_an_answer_may_begin_with_a_line_break(text, left):
    assert before_first(text, ("\n",)) == left


def test_a_model_of_nan_has_no_preferred_option(tokenizer, model):
    broken = copy.deepcopy(model)
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(StudyError, match="NaN"):
        scorer_of(broken, tokenizer, 2).option_log_probabilities([(Question(ids(tokenizer, "ab=")), ["a", "b"])])
