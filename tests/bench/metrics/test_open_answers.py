"""Metrics of written answers on adversarial strings; each expected value follows by hand from the definition."""

import pytest

from tunestudy.bench.metrics import Target, metric

NFD = "cafe\u0301"
NFC = "caf\u00e9"
SEOUL_NFD = "\u1109\u1165\u110b\u116e\u11af"  # 서울


def scores(name: str, prediction: str, *answers: str, **facts: object) -> dict[str, float]:
    target = Target(answers, facts=facts)
    return {way: round(metric(name).verdict(prediction, target, way).score, 4) for way in metric(name).WAYS}


def row(official: float, peers: float, strict: float) -> dict[str, float]:
    return {"official": official, "lmms-eval": peers, "strict": strict}


VQA = [  # prediction, what all ten people said, official, lmms-eval, strict
    ("yes", "Yes", 1, 1, 1),
    ("Yes.", "yes", 1, 1, 0),
    ("The cat", "cat", 1, 1, 0),
    ("a cat", "the cat", 1, 1, 0),
    ("two", "2", 1, 1, 0),
    ("none", "0", 1, 1, 0),
    ("1,000", "1000", 1, 1, 0),
    ("dont", "don't", 1, 1, 0),
    ("shouldntve", "shouldn't've", 0, 0, 0),
    ("shouldnt've", "shouldn't've", 1, 1, 0),
    ("girl's", "girl s", 0, 0, 0),
    ("3.5", "3.5", 1, 1, 1),
    ("3.5", "35", 0, 0, 0),
    ("50%", "50", 0, 0, 0),
    ("left-handed", "left handed", 1, 1, 0),
    ("stop!", "stop", 1, 1, 0),
    ("stop !", "stop", 1, 1, 0),
    ("서울", "서울", 1, 1, 1),
    (SEOUL_NFD, "서울", 1, 0, 1),
    (NFD, NFC, 1, 0, 1),
    ("  new   york\n", "New York", 1, 1, 1),
    ("", "yes", 0, 0, 0),
    ("the", "a", 1, 1, 0),
    ("b", "a/b", 0, 1, 0),
    ("a/b", "a/b", 1, 1, 1),
    ("The north/south", "north/south", 1, 1, 0),
    ("." * 40, "x", 0, 0, 0),
    ("x" + " ." * 40, "x", 1, 0, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "official", "peers", "strict"), VQA)
def test_vqa(prediction: str, answer: str, official: float, peers: float, strict: float) -> None:
    assert scores("vqa", prediction, *[answer] * 10) == row(official, peers, strict)


def test_vqa_counts_each_person_against_the_others() -> None:
    # One of ten said it: the other nine see one who agrees (1/3), the one sees nobody: 9/10 · 1/3 = 0.3.
    assert scores("vqa", "red", "red", *["blue"] * 9) == row(0.3, 0.3, 0.3)
    # Three: seven see three (1), three see two (2/3): 0.7 + 0.3 · 2/3 = 0.9.
    assert scores("vqa", "red", *["red"] * 3, *["blue"] * 7) == row(0.9, 0.9, 0.9)
    assert scores("vqa", "red", *["red"] * 4, *["blue"] * 6) == row(1, 1, 1)
    assert scores("vqa", "red", "red") == row(0, 0, 0)


def test_vqa_understands_the_evened_answer() -> None:
    said = metric("vqa").verdict("The 2 dogs.", Target(("x",) * 10), "official")
    assert said.understood == "2 dogs"
    assert metric("vqa").verdict("the", Target(("x",) * 10), "official").understood is None


def test_vqa_remembers_no_words_and_leaves_answers_alone() -> None:
    from tunestudy.bench.metrics import vqa

    tables = len(vqa._NUMBER_WORDS), len(vqa._FORGOTTEN)
    answers = ["The Cat."] * 10
    target = Target(tuple(answers))
    for _ in range(2):
        metric("vqa").verdict("zebra giraffe 17", target, "lmms-eval")
    assert (len(vqa._NUMBER_WORDS), len(vqa._FORGOTTEN)) == tables
    assert target.answers == tuple(answers)


VQA_V2 = [  # as above, where it differs
    ("girl's", "girl s", 0, 0, 0),
    ("girl's", "girl 's", 0, 0, 0),
    ("1,000", "1000", 1, 1, 0),
    ("red, blue", "red blue", 1, 1, 0),
    ("red,blue", "red blue", 1, 1, 0),
    ("a/b", "b", 0, 1, 0),
    ("x" + " ." * 40, "x", 1, 0, 0),
    ("The Two dogs", "2 dogs", 1, 1, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "official", "peers", "strict"), VQA_V2)
def test_vqa_v2(prediction: str, answer: str, official: float, peers: float, strict: float) -> None:
    assert scores("vqa_v2", prediction, *[answer] * 10) == row(official, peers, strict)


def test_vqa_parts_a_possessive_and_vqa_v2_does_not() -> None:
    target = Target(("x",) * 10)
    assert metric("vqa").verdict("girl's", target, "official").understood == "girl 's"
    assert metric("vqa_v2").verdict("girl's", target, "official").understood == "girl's"


ANLS = [  # prediction, answer, official, lmms-eval
    ("Hello", "hello", 1, 1),
    ("hallo", "hello", 0.8, 0.8),
    ("ab", "ac", 0, 0.5),  # NL is exactly 0.5: the paper asks for less
    ("abx", "acx", 0.6667, 0.6667),
    ("  a  ", "b", 0, 0.8),  # 1 edit, by 5 characters that are mostly blanks
    ("new  york", "new york", 1, 1),
    (NFD, NFC, 1, 0.6),  # 2 edits of 5 characters
    (SEOUL_NFD, "서울", 1, 0),
    ("서울시", "서울", 0.6667, 0.6667),
    ("부산", "서울", 0, 0),
    ("1,000", "1000", 0.8, 0.8),
    ("$1,000.", "$1,000", 0.8571, 0.8571),
    ("50%", "50", 0.6667, 0.6667),
    ("", "a", 0, 0),
    ("the cat", "cat", 0, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "official", "peers"), ANLS)
def test_anls(prediction: str, answer: str, official: float, peers: float) -> None:
    assert scores("anls", prediction, answer) == {"official": official, "lmms-eval": peers}


def test_anls_takes_the_nearest_answer() -> None:
    assert scores("anls", "hallo", "goodbye", "hello") == {"official": 0.8, "lmms-eval": 0.8}


CHART = [  # prediction, answer, official, lmms-eval, strict
    ("95", "100", 1, 1, 1),
    ("105", "100", 1, 1, 1),
    ("94.9", "100", 0, 0, 0),
    ("-95", "-100", 1, 1, 1),
    ("95", "-100", 0, 0, 0),
    ("Yes", "yes", 1, 1, 1),
    ("Yes.", "yes", 0, 0, 0),
    ("0.0", "0", 1, 0, 1),
    ("0", "0", 1, 1, 1),
    ("0.01", "0", 0, 0, 0),
    ("1,000", "1000", 1, 0, 1),
    ("1000", "1,020", 1, 0, 1),
    ("1,00", "100", 0, 0, 0),
    ("1_000", "1000", 0, 1, 0),
    ("nan", "nan", 1, 0, 1),
    ("nan", "5", 0, 0, 0),
    ("inf", "5", 0, 0, 0),
    ("2019", "2020", 1, 1, 0),  # the paper makes no exception of years
    ("2020", "2020", 1, 1, 1),
    ("1024", "1000", 1, 1, 1),
    ("5%", "0.05", 1, 1, 1),
    ("5%", "5", 1, 0, 0),
    ("5", "5%", 1, 0, 0),
    ("5%", "5.1%", 1, 1, 1),
    ("5%", "0.5", 0, 0, 0),
    ("서울", SEOUL_NFD, 1, 0, 1),
    (" red ", "red", 1, 0, 1),
    ("", "5", 0, 0, 0),
    ("one", "1", 0, 0, 0),
    ("4 and 5", "4", 0, 0, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "official", "peers", "strict"), CHART)
def test_relaxed_accuracy(prediction: str, answer: str, official: float, peers: float, strict: float) -> None:
    assert scores("relaxed_accuracy", prediction, answer) == row(official, peers, strict)


OCR = [  # prediction, answer, data set, official, lmms-eval, strict
    ("The sign says STOP.", "stop", "IIIT5K", 1, 1, 1),
    ("stopping", "stop", "IIIT5K", 1, 1, 0),
    ("2014", "1", "IIIT5K", 1, 1, 0),
    ("st op", "stop", "IIIT5K", 0, 0, 0),
    ("new\nyork", "New York", "IIIT5K", 1, 1, 1),
    ("ＳＴＯＰ", "stop", "IIIT5K", 0, 1, 0),
    ("1,000 won", "1000", "IIIT5K", 0, 0, 0),
    ("서울입니다", "서울", "IIIT5K", 1, 1, 1),
    (SEOUL_NFD, "서울", "IIIT5K", 1, 0, 1),
    ("anything", "", "IIIT5K", 0, 1, 0),
    ("", "stop", "IIIT5K", 0, 0, 0),
    ("x ^ 2 + Y", "x^2+Y", "HME100k", 1, 1, 1),
    ("x^2+y", "x^2+Y", "HME100k", 0, 0, 0),
    ("it is x^2+Y", "x ^2+Y", "HME100k", 1, 1, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "dataset", "official", "peers", "strict"), OCR)
def test_ocrbench(prediction: str, answer: str, dataset: str, official: float, peers: float, strict: float) -> None:
    assert scores("ocrbench", prediction, "nothing like it", answer, dataset=dataset) == row(official, peers, strict)


def test_ocrbench_keeps_no_count_between_evaluations() -> None:
    target = Target(("stop",), facts={"question_type": "Regular Text Recognition"})
    rounds = [[metric("ocrbench").verdict("stop", target, "lmms-eval").score for _ in range(3)] for _ in range(2)]
    assert rounds == [[1, 1, 1], [1, 1, 1]]


def test_ocrbench_knows_a_formula_by_its_question_type() -> None:
    kind = "Handwritten Mathematical Expression Recognition"
    assert scores("ocrbench", "a b", "ab", question_type=kind) == row(1, 1, 1)


@pytest.mark.parametrize(
    ("prediction", "official", "strict"),
    [(" New  YORK ", 1, 0), ("New York", 1, 1), ("New York.", 0, 0), ("the New York", 0, 0), ("", 0, 0)],
)
def test_exact(prediction: str, official: float, strict: float) -> None:
    assert scores("exact", prediction, "New York") == {"official": official, "strict": strict}
    assert scores("exact", NFD, NFC) == {"official": 1, "strict": 1}


TRUTH = [  # prediction, understood by official, by strict
    ("True", "true", "true"),
    ("true.", "true", "true"),
    ("FALSE", "false", "false"),
    ("The statement is true.", "true", None),
    ("It is not true.", None, None),
    ("That isn't false", None, None),
    ("true or false", None, None),
    ("untrue", None, None),
    ("", None, None),
    ("yes", None, None),
    ("참", "true", "true"),
    ("거짓입니다.", "false", None),
]


@pytest.mark.parametrize(("prediction", "official", "strict"), TRUTH)
def test_true_false(prediction: str, official: str | None, strict: str | None) -> None:
    for answer, wanted in (("1", "true"), ("0", "false"), ("entailed", "true"), ("refuted", "false")):
        for way, said in (("official", official), ("strict", strict)):
            verdict = metric("true_false").verdict(prediction, Target((answer,)), way)
            assert verdict.understood == said
            assert verdict.score == (said == wanted)


DENOTATION = [  # prediction, right set, official, strict
    ("2004", ["2004"], 1, 1),
    ("2004.0", ["2004"], 1, 1),
    ("1,000", ["1000"], 0, 1),
    ("1000", ["1,000"], 1, 1),
    ("1_000", ["1000"], 0, 0),
    ("nan", ["nan"], 1, 1),
    ("one", ["1"], 0, 0),
    ("5%", ["5"], 0, 0),
    ("B|A", ["A", "B"], 1, 1),
    ("b || a", ["A", "B"], 1, 1),
    ("A and B", ["A", "B"], 0, 0),
    ("A", ["A", "B"], 0, 0),
    ("A|B|C", ["A", "B"], 0, 0),
    ("A|A|B", ["A", "B"], 1, 1),
    ("3|3.0", ["3"], 1, 1),
    ("A", ["A", "a."], 1, 1),
    (NFD, ["Cafe"], 1, 1),
    ("서울", [SEOUL_NFD], 1, 1),
    ('"The Cat" (film)', ["the cat"], 1, 1),
    ("cat[1]†", ["cat"], 1, 1),
    ("the cat", ["cat"], 0, 0),
    ("rock–pop", ["rock-pop"], 1, 1),
    ("2010-05-12", ["2010-5-12"], 1, 1),
    ("xx-05-12", ["2010-05-12"], 0, 0),
    ("2010-xx-xx", ["2010"], 1, 1),
    ("", ["A"], 0, 0),
    (r"a\pb", ["a|b"], 0, 0),  # an unescaped bar of a right answer parts it, as in the data set's files
    (r"a\pb", [r"a\pb"], 1, 1),
]


@pytest.mark.parametrize(("prediction", "answers", "official", "strict"), DENOTATION)
def test_denotation(prediction: str, answers: list[str], official: float, strict: float) -> None:
    assert scores("denotation", prediction, *answers) == {"official": official, "strict": strict}


def test_denotation_reads_dates_from_the_tagged_data() -> None:
    facts = {"targetCanon": "2010-05-12|7.0"}
    answers = ("May 12, 2010", "seven")
    assert scores("denotation", "2010-05-12|7", *answers, **facts) == {"official": 1, "strict": 1}
    assert scores("denotation", "may 12, 2010|seven", *answers, **facts) == {"official": 1, "strict": 1}
    assert scores("denotation", "2010-05-12|7", *answers) == {"official": 0, "strict": 0}
