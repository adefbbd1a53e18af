"""Metrics whose authors ask a judge, by rules alone; each expected value follows by hand from the rules."""

import pytest

from tunestudy.bench.metrics import Target, metric

HUB = 1.0  # `precision` as the hub's data set has it: a float


def scores(name: str, prediction: str, target: Target) -> dict[str, float]:
    return {way: metric(name).verdict(prediction, target, way).score for way in metric(name).WAYS}


def free(answer: str, kind: str, precision: float | None = None) -> Target:
    return Target((answer,), facts={"question_type": "free_form", "answer_type": kind, "precision": precision})


NUMBERS = [  # prediction, target, official, lmms-eval with a judge that hands the text back, strict
    ("14", free("14", "integer"), 1, 1, 1),
    ("14.", free("14", "integer"), 1, 1, 1),
    ("14.7", free("14", "integer"), 1, 1, 0),  # the authors cut off decimals
    ("1,400", free("1400", "integer"), 1, 0, 1),
    ("1_4", free("14", "integer"), 0, 1, 0),
    ("fourteen", free("14", "integer"), 0, 0, 0),
    ("The answer is 14.", free("14", "integer"), 1, 0, 0),
    ('3 plus 11, so: The answer is "14".', free("14", "integer"), 1, 0, 0),
    ("3 + 11 = 14", free("14", "integer"), 0, 0, 0),
    ("정답: 14", free("14", "integer"), 1, 0, 0),
    ("정답은 14입니다.", free("14", "integer"), 1, 0, 0),
    ("It is 14 cm", free("14", "integer"), 1, 0, 0),
    ("nan", free("14", "integer"), 0, 0, 0),
    ("inf", free("14", "integer"), 0, 0, 0),
    ("", free("14", "integer"), 0, 0, 0),
    ("1.4", free("1.4", "float", 1), 1, 1, 1),
    ("1.4", free("1.4", "float", HUB), 1, 0, 1),
    ("1.43", free("1.4", "float", 1), 1, 1, 1),
    ("1.4", free("1.40", "float", 2), 1, 0, 1),
    ("$1.45", free("1.45", "float", 2), 1, 0, 0),
    ("1.46", free("1.45", "float", 2), 0, 0, 0),
    ("50%", free("50.0", "float", 1), 1, 0, 0),
    ("\\boxed{1.4}", free("1.4", "float", 1), 1, 0, 0),
    ("[2007, 2008]", free("[2007, 2008]", "list"), 1, 1, 1),
    ("[2007,2008]", free("[2007, 2008]", "list"), 1, 0, 1),
    ("between 2007 and 2008", free("[2007, 2008]", "list"), 1, 0, 0),
    ("2007-2008", free("[2007, 2008]", "list"), 1, 0, 0),
    ("[2008, 2007]", free("[2007, 2008]", "list"), 0, 0, 0),
    ("", free("[2007, 2008]", "list"), 0, 0, 0),
]


@pytest.mark.parametrize(("prediction", "target", "official", "peers", "strict"), NUMBERS)
def test_mathvista_numbers(prediction: str, target: Target, official: float, peers: float, strict: float) -> None:
    assert scores("mathvista", prediction, target) == {"official": official, "lmms-eval": peers, "strict": strict}


OPTIONS = [  # prediction, option understood by official, lmms-eval, strict
    ("B", "6/11", "6/11", "6/11"),
    ("(B) 6/11", "6/11", "6/11", "6/11"),
    ("6/11", "6/11", "6/11", "6/11"),
    ("The correct answer is (C).", "3/5", "3/5", "3/5"),
    ("The answer is B, as 6 of 11 parts are blue", "6/11", "6/11", None),  # 6, 1 and 1 stand in it
    ("정답: B", "6/11", "3/11", "6/11"),  # as far from each option: the first
    ("A and B", None, "3/11", None),
    ("", None, "3/5", None),  # the shortest option is the nearest to nothing
]


@pytest.mark.parametrize(("prediction", "official", "peers", "strict"), OPTIONS)
def test_mathvista_options(prediction: str, official: str | None, peers: str | None, strict: str | None) -> None:
    choices = ("3/11", "6/11", "3/5")
    for place, text in enumerate(choices):
        target = Target((text,), choices, "ABC"[place], {"question_type": "multi_choice", "answer_type": "text"})
        for way, said in (("official", official), ("lmms-eval", peers), ("strict", strict)):
            verdict = metric("mathvista").verdict(prediction, target, way)
            assert (way, verdict.understood, verdict.score) == (way, said, float(said == text))


VERSE = [  # prediction, answer, question type, official, strict
    ("C", "C", "multi-choice", 1, 1),
    ("(C)", "C", "multi-choice", 1, 0),
    ("C: 2√3", "C", "multi-choice", 1, 0),
    ("Therefore the correct option is D. They meet there.", "D", "multi-choice", 1, 0),
    ("정답: C", "C", "multi-choice", 1, 0),
    ("A and C", "C", "multi-choice", 0, 0),
    ("As it stands, I cannot tell", "A", "multi-choice", 0, 0),
    ("", "A", "multi-choice", 0, 0),
    ("22.3", "22.3", "free-form", 1, 1),
    ("22.30", "22.3", "free-form", 1, 0),
    ("The answer is 22.3.", "22.3", "free-form", 1, 0),
    ("1,000", "1000", "free-form", 1, 0),
    ("(-2, 1)", "(-2,1)", "free-form", 1, 0),
    ("\\((-2, 1)\\)", "(-2,1]", "free-form", 0, 0),
    ("$\\boxed{\\frac{1}{2}}$", "1/2", "free-form", 1, 0),
    ("2\\sqrt{3}", "2√3", "free-form", 1, 0),
    ("x = 5", "5", "free-form", 1, 0),
    ("f(x) = -x^2 - 2x + 1", "f(x)=-x^2-2x+1", "free-form", 1, 0),
    ("50 cm", "0.5m", "free-form", 0, 0),
    ("60^\\circ", "60°", "free-form", 1, 0),
    ("", "5", "free-form", 0, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "kind", "official", "strict"), VERSE)
def test_mathverse(prediction: str, answer: str, kind: str, official: float, strict: float) -> None:
    target = Target((answer,), facts={"question_type": kind})
    assert scores("mathverse", prediction, target) == {"official": official, "strict": strict}


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [("2√3", "B"), ("B:2√3", "B"), ("It is 2√3", None), ("2", "A"), ("√3", "C"), ("2 or √3", None), ("7", None)],
)
def test_mathverse_knows_options_by_the_text_of_the_question(prediction: str, letter: str | None) -> None:
    question = "Then the length of BC is ()\nChoices:\nA:2\nB:2√3\nC:√3\nD:2√2"
    target = Target(("B",), facts={"question_type": "multi-choice", "question_for_eval": question})
    verdict = metric("mathverse").verdict(prediction, target, "official")
    assert (verdict.understood, verdict.score) == (letter, float(letter == "B"))


CHARTS = [  # prediction, answer, facts, official, strict
    ("Accuracy over time", "accuracy over time", {"qid": 1}, 1, 1),
    ("(a) Increment over time", "Increment over time", {"qid": 1}, 1, 1),
    ("The title is not given", "Growth", {"qid": 1}, 0, 0),
    ("There is no title.", "Not Applicable", {"qid": 1}, 1, 0),
    ("Not Applicable", "Not Applicable", {"qid": 1}, 1, 1),
    ("0", "Not Applicable", {"qid": 8}, 0, 0),
    ("$R^2_{t,h,v,m}$", "R^2_t,h,v,m", {"qid": 2}, 1, 1),
    ("The answer is 1.0", "1.00", {"qid": 4}, 1, 0),
    ("1.0", "1.00", {"qid": 4}, 1, 1),
    ("1.1", "1.00", {"qid": 4}, 0, 0),
    ("10^-2", "0.01", {"qid": 8}, 1, 1),
    ("$10^{3}$", "1000", {"qid": 9}, 1, 1),
    ("-10^2", "-100", {"qid": 14}, 1, 1),
    ("1,500", "1.5e3", {"qid": 14}, 1, 1),
    ("There are 4 lines", "4", {"qid": 10}, 1, 0),
    ("4 or 5 lines", "4", {"qid": 10}, 0, 0),
    ("four", "4", {"qid": 10}, 0, 0),
    ("5%", "5", {"qid": 15}, 1, 1),
    ("No, there are no intersections.", "No", {"qid": 11}, 1, 0),
    ("No, all lines are parallel.", "Yes", {"qid": 11}, 0, 0),
    ("yes and no", "Yes", {"qid": 11}, 0, 0),
    ("a, B,c", "A, B, C", {"qid": 13}, 1, 1),
    ("B, A, C", "A, B, C", {"qid": 13}, 0, 0),
    ("increases", "Increases", {"qid": 16}, 1, 1),
    ("goes up", "increases", {"qid": 16}, 0, 0),
    ("2 x 3", "2 by 3", {"qid": 18}, 1, 1),
    ("3 by 2", "2 by 3", {"qid": 18}, 0, 0),
    ("It is 2 by 3", "2 by 3", {"qid": 18}, 1, 0),
    ("b", "(b)", {"reasoning_q_source": 1}, 1, 1),
    ("ACC+", "ACC", {"reasoning_q_source": 1}, 0, 0),
    ("[50, 100]", "[50, 100]", {"reasoning_q_source": 2}, 1, 1),
    ("The value is 1.5e3", "1500", {"reasoning_q_source": 3}, 1, 0),
    ("0.012", "0.01", {"reasoning_q_source": 3}, 0, 0),
    ("1.5 × 10^3", "1500", {"reasoning_q_source": 4}, 1, 1),
    ("서울", "\u1109\u1165\u110b\u116e\u11af", {"reasoning_q_source": 1}, 1, 1),
    ("", "x", {"reasoning_q_source": 1}, 0, 0),
]


@pytest.mark.parametrize(("prediction", "answer", "facts", "official", "strict"), CHARTS)
def test_charxiv(prediction: str, answer: str, facts: dict[str, int], official: float, strict: float) -> None:
    assert scores("charxiv", prediction, Target((answer,), facts=facts)) == {"official": official, "strict": strict}
