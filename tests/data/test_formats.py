"""Formats told by their columns, canonical examples, and the reason for every rejected record."""

from pathlib import Path

import pytest

from tunestudy.config.data import FileDataset
from tunestudy.config.errors import StudyError
from tunestudy.data.example import Example
from tunestudy.data.formats import RecordReader
from tunestudy.data.rejected import Rejected
from tunestudy.data.sources import Folders

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
RECORDS = {
    "messages": {"messages": CHAT},
    "sharegpt": {"conversations": SHAREGPT},
    "alpaca": {"instruction": "hi", "input": "", "output": "hello"},
    "prompt_completion": {"prompt": "hi", "completion": "hello"},
    "text": {"text": "hello"},
}


def reader(record, **options):
    return RecordReader("d", FileDataset(path="x.jsonl", **options), record, Folders(Path(), Path("cache")))


def example(record, first=None, **options):
    return reader(first or record, **options).example(record)


@pytest.mark.parametrize("name", RECORDS)
def test_formats_are_told_by_their_columns(name):
    assert reader({"id": 1, **RECORDS[name]}).format_name == name


@pytest.mark.parametrize("name", ["messages", "sharegpt", "alpaca"])
def test_conversations_come_out_the_same(name):
    assert example(RECORDS[name]) == Example(messages=tuple(CHAT))
    assert example(RECORDS[name]).reference == "hello"


@pytest.mark.parametrize("name", RECORDS)
def test_columns_can_have_other_names(name):
    fields = RECORDS[name]
    renamed = {f"my_{field}": value for field, value in fields.items()}
    options = {"columns": {field: f"my_{field}" for field in fields}}
    assert reader(renamed, **options).format_name == name
    assert example(renamed, **options) == example(fields)


def test_of_several_answers_the_most_frequent_is_learnt():
    asked = {"instruction": "what brand?", "output": ["nous", "dakota", "digital", "dakota"]}
    assert example(asked).reference == "dakota"
    assert example({**asked, "output": ["nous", "dakota"]}).reference == "nous"
    for wrong in ([], ["a", 1], [["a"]]):
        with pytest.raises(Rejected):
            example({**asked, "output": wrong}, first=asked)


def test_alpaca_with_everything():
    record = {"instruction": "a", "input": "b", "output": "c", "system": "s", "history": [["q", "r"]]}
    assert [(m["role"], m["content"]) for m in example(record).messages] == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "r"),
        ("user", "a\n\nb"),
        ("assistant", "c"),
    ]


def test_conversational_prompt_and_completion():
    result = example({"prompt": [*CHAT, CHAT[0]], "completion": [{"role": "assistant", "content": "bye"}]})
    assert result.num_context == 3 and len(result.messages) == 4 and result.reference == "bye"


def test_turns_of_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert example({"messages": [{"role": "user", "content": parts}, CHAT[1]]}).messages[0]["content"] == "ab"


def test_a_system_prompt_for_records_without_one():
    result = example(RECORDS["messages"], system="be kind")
    assert result.messages[0] == {"role": "system", "content": "be kind"}
    own = [{"role": "system", "content": "own"}, *CHAT]
    assert example({"messages": own}, system="be kind").messages == tuple(own)


def test_a_system_prompt_where_there_is_no_place_for_it():
    with pytest.raises(StudyError, match="no place for a system prompt"):
        example(RECORDS["text"], system="be kind")


def test_choices_travel_with_the_record():
    assert example({**RECORDS["prompt_completion"], "choices": ["hello", 3]}).choices == ("hello", "3")


def turn(**values):
    return {"messages": [CHAT[0], {"role": "assistant", "content": "x", **values}]}


REJECTED = {
    "missing field": ({"messages": None}, "missing field: messages"),
    "missing prompt": ({"prompt": None, "completion": "x"}, "missing field: prompt"),
    "not a list": ({"messages": "hi"}, "wrong type: a conversation must be a list, not str"),
    "turn of text": ({"messages": ["hi"]}, "wrong type: a turn must be an object, not str"),
    "no content": (turn(content=None), "missing field: content of a turn"),
    "number": (turn(content=3), "wrong type: content must be text, not int"),
    "unknown role": (turn(role="narrator"), "unknown role: narrator"),
    "role of a number": (turn(role=3), "unknown role: 3"),
    "no assistant turn": ({"messages": [CHAT[0]]}, "no assistant turn"),
    "no turn": ({"messages": []}, "no assistant turn"),
    "empty answer": (turn(content=" \n"), "empty answer"),
    "empty completion": ({"prompt": "x", "completion": ""}, "empty answer"),
    "number for text": ({"prompt": "x", "completion": 7}, "wrong type: completion must be text, not int"),
    "empty text": ({"text": ""}, "empty text"),
    "text of white space": ({"text": " \n"}, "empty text"),
    "caption of white space": ({"caption": "\t "}, "empty answer"),
    "image that is not there": (turn(content=[{"type": "image", "path": "x.png"}]), "no such image: x.png"),
    "column of an image that is not there": ({**RECORDS["messages"], "images": ["x.png"]}, "no such image: x.png"),
    "URL": (turn(content=[{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]), "image is a URL: .*fetch"),
    "video": ({**RECORDS["messages"], "video": "x.mp4"}, "video or audio"),
    "history of a number": ({"instruction": "a", "output": "b", "history": 5}, "wrong type: history"),
    "history": ({"instruction": "a", "output": "b", "history": ["x"]}, "wrong type: history"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_bad_records_are_rejected_with_a_reason(case):
    record, reason = REJECTED[case]
    with pytest.raises(Rejected, match=reason):
        example(record)


def test_an_empty_images_column_is_fine():
    assert example({**RECORDS["messages"], "images": []}).messages == tuple(CHAT)


def test_columns_that_fit_no_format():
    with pytest.raises(StudyError, match=r"'Frage', 'Antwort'.*prompt_completion.*instruction: Frage, output: Antwort"):
        reader({"": 1, "Frage": "a", "Antwort": "b"})


def test_questions_and_answers_are_a_conversation_where_nothing_else_fits():
    asked = {"question": "hi", "answer": "hello"}
    assert example(asked) == Example(messages=tuple(CHAT))
    assert reader({"prompt": "p", "completion": "c", **asked}).format_name == "prompt_completion"


@pytest.mark.parametrize("empty", [{"question": " ", "answer": "a"}, {"question": "q", "answer": " "}])
def test_empty_cells_are_bad_records(empty):
    with pytest.raises(Rejected, match=r"empty (question|answer)"):
        example(empty)


def test_a_mapped_column_that_is_not_there_names_the_nearest():
    with pytest.raises(StudyError, match="there is no column 'qestion'; the first record has: question"):
        reader({"question": "a", "answer": "b"}, format="prompt_completion", columns={"prompt": "qestion"})


def test_a_mapped_column_may_be_missing_in_the_first_record_and_not_in_all():
    one = reader({"prompt": "a", "completion": "b"}, columns={"id": "number"})
    one.example({"prompt": "c", "completion": "d"})
    with pytest.raises(StudyError, match="there is no column 'number'; the first record has: prompt, completion"):
        one.check_columns()
    one.example({"prompt": "c", "completion": "d", "number": 7})
    one.check_columns()


def test_a_mapped_field_that_the_format_lacks():
    with pytest.raises(StudyError, match="text has no such field; it has: text"):
        reader({"text": "a"}, format="text", columns={"prompt": "text"})


def test_content_hashes_follow_prompts_and_answers_alone():
    plain = example(RECORDS["messages"])
    assert plain.content_hash() == example(RECORDS["sharegpt"]).content_hash()
    assert plain.content_hash() == example(RECORDS["messages"], system="be kind").content_hash()
    assert plain.content_hash() != example(turn(content="other")).content_hash()
    assert (
        example({"prompt": "a", "completion": "bc"}).content_hash()
        != example({"prompt": "ab", "completion": "c"}).content_hash()
    )


COT = {"chain_of_thought": "before_answer"}


@pytest.mark.parametrize("name", ["messages", "sharegpt", "alpaca", "prompt_completion"])
def test_a_rationale_is_learnt_before_the_answer_and_is_no_part_of_the_record(name):
    record = {**RECORDS[name], "rationale": "because"}
    plain, thought = example(record), example(record, **COT)
    assert plain == example(RECORDS[name]) and plain.as_learnt() == plain
    assert thought.as_learnt().reference == "because\nhello"
    assert example(record, rationale_separator=" => ", **COT).as_learnt().reference == "because => hello"
    assert (thought.reference, thought.content_hash()) == (plain.reference, plain.content_hash())


def test_a_rationale_can_have_another_column_and_stands_before_the_last_turn():
    record = {"messages": [*CHAT, CHAT[0], {"role": "assistant", "content": "bye"}], "why": "late"}
    found = example(record, columns={"rationale": "why"}, system="s", **COT).as_learnt()
    assert [m["content"] for m in found.messages] == ["s", "hi", "hello", "hi", "late\nbye"]


@pytest.mark.parametrize("rationale", [None, "", "  "])
def test_a_record_without_a_rationale_is_rejected(rationale):
    with pytest.raises(Rejected, match="missing field: rationale"):
        example({**RECORDS["prompt_completion"], "rationale": rationale}, **COT)


def test_running_text_has_no_answer_to_think_before():
    with pytest.raises(StudyError, match=r"datasets\.d\.chain_of_thought: running text has no answer"):
        example({"text": "hello", "rationale": "because"}, **COT)
