"""How lmms-eval takes MMBench's letter from a text when no judge is asked, its slips included.

Facts from EvolvingLMMs-Lab/lmms-eval 75571cf: tasks/mmbench/mmbench_evals.py (`can_infer`, `eval_sub_data` with
`static_only`) and tasks/_task_utils/mcq_extract.py.
"""

from collections.abc import Iterator, Sequence

_LETTERS = "ABCDE"  # whatever the number of options
_NAMED = "ABCD"  # options beyond D are never looked for by their text
_FORMS = "{}", "{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{})."
_TRIMMED = ",.!?;:'\""  # each kind once, in this order
_PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip


def mmbench(text: str, choices: Sequence[str]) -> str:
    """A letter, or `` where it finds none. `text` is stripped."""
    return _by_token(text) or _by_text(text, choices) or _by_place(text, _NAMED[: len(choices)])


def _by_token(text: str) -> str:
    tokens = text.split()
    for form in _FORMS:
        held = [letter for letter in _LETTERS if form.format(letter) in tokens]
        if len(held) == 1 and not (form == "{}" and "A" in tokens and len(tokens) > 3):
            return held[0]
    return ""


def _by_text(text: str, choices: Sequence[str]) -> str:
    held = [letter for letter, choice in zip(_NAMED, choices, strict=False) if choice.lower() in text.lower()]
    return held[0] if len(held) == 1 else ""


def _by_place(text: str, letters: str) -> str:
    for character in _TRIMMED:
        text = text.strip(character)
    if not text.strip():
        return ""
    found = list(_placed(f" {text} ", letters))
    found = found or [(0, f" {text} ".rfind(letter), letter) for letter in letters if letter in text]
    # Of equals the first one found is taken, as by a stable sort.
    return max(found, key=lambda candidate: candidate[:2], default=(0, 0, ""))[2]


def _placed(text: str, letters: str) -> Iterator[tuple[int, int, str]]:
    """Candidates (rank, position, letter); the higher both, the better."""
    for rank, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        for letter in letters:
            if form.format(letter) in text:
                yield rank, text.rfind(form.format(letter)), letter
    for phrase in _PHRASES:
        at = text.lower().find(phrase)
        for letter in letters if at >= 0 else "":
            if (position := text.find(letter, at + len(phrase))) >= 0:
                yield 7, position, letter
    bare = text.strip()
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            yield 10, 0, letter
    for letter in letters:
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            yield 9, len(text) - 1, letter
