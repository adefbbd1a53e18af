"""What holds for every kind: purity, balance, texts that can be read, answers that nothing but the image gives away."""

import random
from collections import Counter
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from tunestudy.config.synth import TASKS, SynthSettings
from tunestudy.data.synth import sample as sampling
from tunestudy.data.synth.canvas import png_bytes
from tunestudy.data.synth.korean import Word, form_of
from tunestudy.data.synth.sample import LETTERS, sample
from tunestudy.study.identity import SYNTH_VERSION

KINDS = ("chart", "document", "table", "shapes")
HANGUL = range(0xAC00, 0xD7A4)


def test_the_plan_and_the_data_know_one_version() -> None:
    assert sampling.VERSION == SYNTH_VERSION


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_depends_on_seed_kind_and_index_alone(draw: Any, kind: str) -> None:
    first = draw(12, kind=kind, language="both", image_size=160)
    settings = SynthSettings(kind=kind, count=99, language="both", image_size=160)  # type: ignore[arg-type]
    random.seed(5)
    again = [sample(settings, index) for index in reversed(range(12))][::-1]
    for one, other in zip(first, again, strict=True):
        assert png_bytes(one.image) == png_bytes(other.image)
        assert (one.id, one.prompt, one.answer, one.truth) == (other.id, other.prompt, other.answer, other.truth)
    others = [sample(settings.model_copy(update={"seed": 1}), index) for index in range(12)]
    assert not {png_bytes(one.image) for one in first} & {png_bytes(other.image) for other in others}
    assert not {one.id for one in first} & {other.id for other in others}


@pytest.mark.parametrize(("kind", "task"), [(kind, task) for kind in KINDS for task in TASKS[kind]])  # type: ignore[index]
def test_each_task_in_each_language_at_its_smallest_size(draw: Any, kind: str, task: str) -> None:
    size = TASKS[kind][task]  # type: ignore[index]
    for language in ("en", "ko"):
        for one in draw(4, kind=kind, tasks=(task,), language=language, image_size=size):
            assert one.image.size == (size, size) and one.image.mode == "RGB"
            assert one.category == f"{kind}.{task}" and one.language == language
            has_hangul = any(ord(letter) in HANGUL for letter in one.question)
            assert has_hangul == (language == "ko")
            assert one.question[-1] in "?.:" and "{" not in one.prompt and one.answer


@pytest.mark.parametrize("kind", ["chart", "document", "table"])
@pytest.mark.parametrize("size", [112, 224])
@pytest.mark.parametrize("crowded", [False, True])
def test_texts_lie_inside_apart_from_each_other_and_are_there(draw: Any, kind: str, size: int, crowded: bool) -> None:
    most = {"chart": size // 14, "document": size // 12, "table": size // 15}[kind]
    most = min(most, 12)
    options = {"min_items": most, "max_items": most} if crowded else {}
    for one in draw(20, kind=kind, language="both", image_size=size, **options):
        boxes = [text["box"] for text in one.truth["texts"]]
        for number, (left, top, right, bottom) in enumerate(boxes):
            assert left >= 0 and top >= 0 and right <= size and bottom <= size, one.truth["texts"][number]
            assert one.image.crop((left, top, right, bottom)).getcolors(maxcolors=1) is None, "nothing is written there"
            for other in boxes[:number]:
                apart = other[2] <= left or right <= other[0] or other[3] <= top or bottom <= other[1]
                assert apart, (one.truth["texts"][number], other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_choices", [3, 4])
def test_choices_are_distinct_balanced_and_tell_nothing(draw: Any, kind: str, num_choices: int) -> None:
    samples = draw(120, kind=kind, image_size=112, answer_form="choice", num_choices=num_choices)
    places = Counter(one.answer for one in samples)
    for letter in LETTERS[:num_choices]:
        # Five standard deviations of a binomial count.
        expected = 120 / num_choices
        assert abs(places[letter] - expected) < 5 * (expected * (1 - 1 / num_choices)) ** 0.5
    for one in samples:
        assert one.answer_type == "choice" and len(set(one.choices)) == num_choices
        assert one.choices[LETTERS.index(one.answer)] == one.truth["asked"]["answer"]
        assert one.prompt.splitlines()[-num_choices:] == [
            f"{letter}. {text}" for letter, text in zip(LETTERS, one.choices, strict=False)
        ]
        assert one.words == tuple(LETTERS[:num_choices])


@pytest.mark.parametrize("kind", ["chart", "table", "shapes"])
def test_the_right_number_is_no_more_often_the_middle_one_than_chance_allows(draw: Any, kind: str) -> None:
    """A choice of numbers must not be guessed from the options: the answer's rank among them varies."""
    tasks = {"chart": ("value", "difference"), "table": ("lookup", "sum", "count"), "shapes": ("count",)}[kind]
    samples = draw(150, kind=kind, image_size=112, answer_form="choice", tasks=tasks)
    ranks = Counter(sorted(map(int, one.choices)).index(int(one.truth["asked"]["answer"])) for one in samples)
    assert all(0.08 < ranks[rank] / 150 < 0.45 for rank in range(4)), ranks


@pytest.mark.parametrize(("kind", "task"), [("chart", "comparison"), ("table", "statement"), ("shapes", "claim")])
def test_yes_and_no_are_balanced(draw: Any, kind: str, task: str) -> None:
    for language in ("en", "ko"):
        samples = draw(120, kind=kind, tasks=(task,), language=language, image_size=112)
        answers = Counter(one.answer for one in samples)
        assert set(answers) == set(samples[0].choices) == set(samples[0].words)
        assert abs(answers[samples[0].choices[0]] - 60) < 5 * (120 / 4) ** 0.5


@pytest.mark.parametrize(
    ("kind", "task", "most"),
    [
        ("chart", "argmax", 0.2),
        ("chart", "value", 0.12),
        ("chart", "count", 0.4),
        ("document", "line", 0.06),
        ("document", "field", 0.12),
        ("table", "superlative", 0.15),
        ("table", "count", 0.35),
        ("shapes", "colour", 0.25),
        ("shapes", "position", 0.4),
        ("shapes", "count", 0.4),
        ("shapes", "size", 0.2),
    ],
)
def test_no_answer_dominates(draw: Any, kind: str, task: str, most: float) -> None:
    samples = draw(100, kind=kind, tasks=(task,), image_size=168)
    [(answer, count)] = Counter(one.answer for one in samples).most_common(1)
    assert count / 100 < most, answer


def test_languages_are_mixed_by_their_share(draw: Any) -> None:
    samples = draw(300, kind="shapes", language="both", korean_share=0.2, image_size=28)
    korean = sum(one.language == "ko" for one in samples)
    assert abs(korean - 60) < 5 * (300 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(
    ("particle", "word", "said"),
    [
        ("은", "사과", "는"),
        ("은", "수박", "은"),
        ("이", "'가'", "가"),
        ("과", "1월", "과"),
        ("을", "10", "을"),
        ("으로", "서울", "로"),
        ("으로", "부산", "으로"),
        ("이", "2", "가"),
    ],
)
def test_particles_follow_the_sound(particle: str, word: str, said: str) -> None:
    assert form_of(particle, word) == said
    assert ("{a:" + particle + "}").format(a=Word(word)) == word + said


def test_png_files_hold_pixels_alone(draw: Any) -> None:
    import io

    data = png_bytes(draw(1, kind="shapes", image_size=28)[0].image)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG" and not image.info
    assert data.count(b"tIME") == data.count(b"tEXt") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_fewest_items_give_enough_wrong_answers(draw: Any, kind: str) -> None:
    for one in draw(40, kind=kind, language="both", image_size=224, max_items=2, min_items=2, **SIX):
        assert len(set(one.choices)) == 6


SIX = {"answer_form": "choice", "num_choices": 6}


def test_whatever_is_accepted_can_be_drawn(hangul: Any) -> None:
    """Settings at random: what the settings' checks let through has its texts inside the image."""
    rng = random.Random(11)
    accepted = 0
    while accepted < 60:
        kind = rng.choice(KINDS)
        options: dict[str, Any] = {"image_size": rng.choice([28, 30, 57, 70, 100, 130, 159, 160, 300])}
        if rng.random() < 0.5:
            options |= {"answer_form": "choice", "num_choices": rng.randint(2, 6)}
        if rng.random() < 0.5:
            options["min_items"] = rng.randint(2, 12)
        if rng.random() < 0.3:
            options["tasks"] = (rng.choice(list(TASKS[kind])),)  # type: ignore[index]
        try:
            settings = SynthSettings(kind=kind, count=1, seed=accepted, language="both", **options)  # type: ignore[arg-type]
        except ValidationError:
            continue
        accepted += 1
        for index in range(2):
            one = sample(settings, index)
            for text in one.truth.get("texts", ()):
                left, top, right, bottom = text["box"]
                assert min(left, top) >= 0 and max(right, bottom) <= settings.image_size, (options, text)
