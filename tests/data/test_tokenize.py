"""Masks under templates in the styles met in the wild, written here."""

import pytest
from tokenizers import normalizers

from tunestudy.config.data import DataSettings
from tunestudy.config.errors import StudyError
from tunestudy.data.example import Example
from tunestudy.data.rejected import Rejected
from tunestudy.data.tokenize import Tokenize

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TAGGED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGGED_WITHOUT_STOP = CHATML_TAGGED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
REASONING = (  # keeps reasoning after the last question only, and adds an empty block where there is none
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% if loop.index0 > ns.last %}<think>\n{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip() }}{% endif %}{{ '\n' }}</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_WORDS = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
OPENERS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROMPT_OF_ANOTHER_FORM = CHATML.replace(
    "{% if add_generation_prompt %}<|im_start|>assistant\n",
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n",
)
FORGETFUL = (
    "{% for m in messages %}{% if m.role != 'assistant' %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)

IM = ("<|im_end|>", "<|im_start|>")
HEADERS = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
TURNS = ("<eos>", "<start_of_turn>", "<end_of_turn>")


def chat(*contents, system=None):
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return Example(messages=(({"role": "system", "content": system},) if system else ()) + tuple(messages))


def marked(tokenizer, example, **options):
    """The decoded sample with [ ] around what is learnt, or the reason against it."""
    (sample,) = Tokenize(tokenizer, DataSettings(**options))([example])
    if isinstance(sample, Rejected):
        return str(sample)
    text, inside = "", False
    for token, learnt in zip(sample.ids.tolist(), sample.is_target.tolist(), strict=True):
        text += ("[" if learnt else "]") if learnt != inside else ""
        text, inside = text + tokenizer.decode([token]), learnt
    return text + ("]" if inside else "")


TWO = chat("hi", "fine", "ok?", "yes ")
U, A = "<|im_start|>user\n", "<|im_start|>assistant\n"
CHATML_TWO = f"{U}hi<|im_end|>\n{A}[fine<|im_end|>]\n{U}ok?<|im_end|>\n{A}[yes <|im_end|>]\n"


@pytest.mark.parametrize("template", [CHATML, CHATML_TAGGED, TAGGED_WITHOUT_STOP])
def test_every_answer_with_its_stop_token_whether_tagged_or_not(byte_tokenizer, template):
    assert marked(byte_tokenizer(IM, template), TWO) == CHATML_TWO


def test_llama_3_style(byte_tokenizer):
    tokenizer = byte_tokenizer(HEADERS, LLAMA_3, bos="<|begin|>")
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert marked(tokenizer, chat("hi", " fine\n", system="s")) == (
        f"<|begin|>{head.format('system')}s<|eot_id|>{head.format('user')}hi<|eot_id|>"
        f"{head.format('assistant')}[fine<|eot_id|>]"
    )


def test_gemma_style(byte_tokenizer):
    tokenizer = byte_tokenizer(TURNS, GEMMA)
    expected = "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n[fine<end_of_turn>]\n"
    assert marked(tokenizer, chat("hi", " fine ")) == expected
    assert (
        marked(tokenizer, chat("hi", "fine", system="s")) == "refused by the chat template: System role not supported"
    )


def test_earlier_reasoning_is_dropped_and_the_last_is_learnt(byte_tokenizer):
    example = chat("hi", "<think>a</think>fine", "ok?", "<think>b</think>yes")
    expected = CHATML_TWO.replace("[yes ", "[<think>\nb\n</think>\n\nyes")
    assert marked(byte_tokenizer(IM, REASONING), example) == expected


def test_an_empty_reasoning_block_is_learnt_since_it_must_be_said(byte_tokenizer):
    expected = f"{U}hi<|im_end|>\n{A}[<think>\n\n</think>\n\nfine<|im_end|>]\n"
    assert marked(byte_tokenizer(IM, REASONING), chat("hi", "fine")) == expected


def test_a_template_without_a_stop_token_gets_one(byte_tokenizer):
    # " fine" is one token of this tokenizer, so the space before the answer is learnt with it.
    expected = "USER: hi\nASSISTANT:[ fine]\nUSER: ok?\nASSISTANT: [yes <eos>]"
    assert marked(byte_tokenizer(("<eos>",), PLAIN_WORDS), TWO) == expected


def test_the_next_turns_opener_is_no_stop_token(byte_tokenizer):
    expected = "<|user|>hi\n<|assistant|>[fine]\n<|user|>ok?\n<|assistant|>[yes <eos>]"
    assert marked(byte_tokenizer(("<eos>", "<|user|>", "<|assistant|>"), OPENERS), TWO) == expected


@pytest.mark.parametrize("template", [CHATML, CHATML_TAGGED, LLAMA_3, REASONING])
def test_ids_are_those_of_the_stock_template(byte_tokenizer, template):
    tokenizer = byte_tokenizer((*IM, *HEADERS), template, bos="<|begin|>")
    (sample,) = Tokenize(tokenizer, DataSettings())([TWO])
    stock = tokenizer.apply_chat_template(list(TWO.messages), tokenize=True, return_dict=True).input_ids
    assert sample.ids.tolist() == stock


def test_masks_of_tagged_templates_are_those_of_transformers(byte_tokenizer):
    tokenizer = byte_tokenizer(IM, CHATML_TAGGED)
    (sample,) = Tokenize(tokenizer, DataSettings())([TWO])
    stock = tokenizer.apply_chat_template(
        list(TWO.messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert sample.is_target.astype(int).tolist() == stock["assistant_masks"]


def test_a_prompt_of_another_form_is_refused_not_masked(byte_tokenizer):
    assert marked(byte_tokenizer(IM, PROMPT_OF_ANOTHER_FORM), TWO).startswith(
        "unstable chat template: the prompt before"
    )


def test_a_template_that_forgets_answers_is_refused(byte_tokenizer):
    assert marked(byte_tokenizer(IM, FORGETFUL), TWO).startswith("unstable chat template: turn 2 cannot be found")


def test_the_same_words_in_question_and_answer(byte_tokenizer):
    expected = f"{U}fine<|im_end|>\n{A}[fine<|im_end|>]\n{U}fine<|im_end|>\n{A}[fine<|im_end|>]\n"
    assert marked(byte_tokenizer(IM, CHATML), chat("fine", "fine", "fine", "fine")) == expected


def test_completion_is_the_last_answer_alone(byte_tokenizer):
    expected = CHATML_TWO.replace("[fine<|im_end|>]", "fine<|im_end|>")
    for template in (CHATML, CHATML_TAGGED):
        assert marked(byte_tokenizer(IM, template), TWO, loss_on="completion") == expected


def test_all_is_everything_but_the_first_token(byte_tokenizer):
    text = CHATML_TWO.replace("[", "").replace("]", "")
    assert (
        marked(byte_tokenizer(IM, CHATML), TWO, loss_on="all") == text.replace("<|im_start|>", "<|im_start|>[", 1) + "]"
    )


@pytest.mark.parametrize("template", [CHATML, CHATML_TAGGED])
def test_answers_inside_a_conversational_prompt_are_context(byte_tokenizer, template):
    example = Example(messages=TWO.messages, num_context=3)
    assert marked(byte_tokenizer(IM, template), example) == CHATML_TWO.replace("[fine<|im_end|>]", "fine<|im_end|>")


def test_prompt_and_completion(byte_tokenizer):
    example = Example(prompt="2+2=", completion="4")
    assert marked(byte_tokenizer(), example) == "2+2=[4<eos>]"
    assert marked(byte_tokenizer(), example, loss_on="all") == "2[+2=4<eos>]"


def test_text_is_learnt_in_full(byte_tokenizer):
    assert marked(byte_tokenizer(), Example(text="hello")) == marked(
        byte_tokenizer(), Example(text="hello"), loss_on="all"
    )
    assert marked(byte_tokenizer(), Example(text="zq")) == "z[q<eos>]"


def test_conversations_need_a_template(byte_tokenizer):
    with pytest.raises(StudyError, match="the tokenizer has no chat template"):
        marked(byte_tokenizer(), TWO)


@pytest.mark.parametrize("template", [CHATML, PLAIN_WORDS, TAGGED_WITHOUT_STOP])
def test_an_answer_that_the_tokenizer_makes_nothing_of_is_rejected(byte_tokenizer, template):
    tokenizer = byte_tokenizer(("<eos>", *IM), template)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")  # as many drop what shows nothing
    assert marked(tokenizer, chat("hi", "\u200b")) == "empty answer: the tokenizer makes no token of it"
    assert "fine" in marked(tokenizer, chat("hi", "fine\u200b")).partition("[")[2]


def test_too_long_is_rejected_or_cut(byte_tokenizer):
    long = Example(prompt="zq", completion="xyzxyz")
    assert marked(byte_tokenizer(), long, max_length=5) == "too long: 9 tokens, max_length is 5"
    assert marked(byte_tokenizer(), long, max_length=5, overlong="truncate") == "zq[xyz]"


def test_a_cut_that_leaves_nothing_to_learn_is_rejected(byte_tokenizer):
    long = Example(prompt="zqzqzq", completion="x")
    reason = "everything masked: no token is left to learn after truncation"
    assert marked(byte_tokenizer(), long, max_length=5, overlong="truncate") == reason


def test_what_a_model_is_asked(byte_tokenizer):
    tokenizer = byte_tokenizer(IM, CHATML)
    tokenize = Tokenize(tokenizer, DataSettings())
    asked = tokenizer.decode(tokenize.prompt(TWO)[0])
    assert asked == f"{U}hi<|im_end|>\n{A}fine<|im_end|>\n{U}ok?<|im_end|>\n{A}"
    assert tokenizer.decode(tokenize.prompt(Example(prompt="2+2=", completion="4"))[0]) == "2+2="


@pytest.mark.parametrize("template", [CHATML, CHATML_TAGGED, REASONING])
def test_what_a_model_is_asked_is_how_its_samples_begin(byte_tokenizer, template):
    tokenize = Tokenize(byte_tokenizer(IM, template), DataSettings(loss_on="completion"))
    (sample,) = tokenize([TWO])
    prompt = tokenize.prompt(TWO)[0]
    assert sample.ids[: len(prompt)].tolist() == prompt
    assert sample.is_target.tolist().index(True) == len(prompt)
