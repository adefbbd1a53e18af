"""Agreement with the answers of ten people (VQA, TextVQA): mean over them of min(1, how many others said it / 3).

Each answer is left out once, so that a person's own score is measured in the same way (Antol et al. 2015,
arXiv:1505.00468; Singh et al. 2019, arXiv:1904.08920). With fewer than four answers no score reaches 1.

- `official`: both sides through the steps of the EvalAI answer processor (facebookresearch/mmf,
  pythia/tasks/processors.py): lower case, punctuation, periods outside numbers, number words, articles, contractions.
  Three slips of that code are put right. All periods go, not the first 32 (a flag is passed as a count). An article
  that names an alternative (`a/b`) stays. And nothing is remembered from answer to answer.
- `lmms-eval`: lmms_eval/tasks/_task_utils/vqa_eval_metric.py and tasks/textvqa/utils.py, with those slips.
- `strict`: the answers as they are written, but for case, white space and Unicode form.
"""

import re
from collections.abc import Sequence

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import evened, folded
from tunestudy.config.benchmark import Compat

NAME = "vqa_accuracy"
WAYS: tuple[Compat, ...] = ("official", "lmms-eval", "strict")

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WORDS = {"none": "0"} | {
    word: str(value)
    for value, word in enumerate(re.findall(r"\w+", "zero one two three four five six seven eight nine ten"))
}
_ARTICLES = ("a", "an", "the")
_CONTRACTIONS = re.findall(
    r"\S+",
    """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who've who'll who's why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""",
)
# Every contraction with one of its apostrophes forgotten, and one that VQA's own table has the wrong way round.
_FORGOTTEN = {
    word[:i] + word[i + 1 :]: word for word in _CONTRACTIONS for i, character in enumerate(word) if character == "'"
} | {"somebody'd": "somebodyd"}
PERIODS_OF_PEERS = 32  # the value of re.UNICODE
KEPT = "\0"
_BEFORE_SLASH = re.compile(r"\b(a|an|the)\b(?=\s*/\s*\w)")
_AFTER_SLASH = re.compile(r"(\w\s*/\s*)(a|an|the)\b(?!\s*\w)")


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score in 0…1, in steps of 1/30 with ten answers."""
    process = {"official": _official, "lmms-eval": _of_peers, "strict": folded}[way]
    said = process(prediction)
    return Verdict(agreement(said, [process(answer) for answer in target.answers]), said or None)


def agreement(said: str, answers: Sequence[str]) -> float:
    """Mean over people of min(1, how many of the others gave this answer / 3), in 0…1."""
    agreeing = [sum(other == said for j, other in enumerate(answers) if j != i) for i in range(len(answers))]
    return sum(min(1.0, count / 3) for count in agreeing) / max(1, len(agreeing))


def _official(text: str) -> str:
    return processed(_tokenised(with_slashed_articles(text)), periods=0).replace(KEPT, "")


def _of_peers(text: str) -> str:
    return processed(_tokenised(text).strip(), periods=PERIODS_OF_PEERS)


def _tokenised(text: str) -> str:
    """The step that TextVQA's processor has and VQA's has not."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's")


def with_slashed_articles(text: str) -> str:
    """`evened`, in lower case, with a mark in each article that names an alternative, which keeps it one."""
    text = _BEFORE_SLASH.sub(rf"{KEPT}\1", evened(text).lower())
    return _AFTER_SLASH.sub(rf"\1{KEPT}\2", text)


def processed(text: str, *, periods: int) -> str:
    """Punctuation, `periods` periods (0: all), number words, articles and contractions, as VQA has them."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    text = re.sub(r"\.(?!\d)", "", _without_punctuation(text), count=periods)
    words = [_NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(_FORGOTTEN.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark next to a space goes; one between two words becomes a space. Where it stands is judged once, at first."""
    out = text
    for mark in _PUNCTUATION:
        loose = mark + " " in text or " " + mark in text or re.search(r"(?<=\d),+(?=\d)", text)
        out = out.replace(mark, "" if loose else " ")
    return out
