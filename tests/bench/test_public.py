"""Every public benchmark from its generated set, in its own columns, to its score."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from hangul import need_hangul
from publicsets import EVERY_LETTER, Oracle, benchmark_of, job_of, rows_of
from tinyeyes import eyes_of, tiny

from tunestudy.bench import run
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.summary import summary_of
from tunestudy.bench.tasks import Row, public
from tunestudy.config.definition import definition, names
from tunestudy.models.loaded import LoadedModel
from tunestudy.train.world import World

NAMES = names()
COUNT = 6
IN_PROMPT = {
    "blink": "only need to respond with A, B, C, D",
    "charxiv_descriptive": "For the current plot, what is its title?",
    "k_dtcbench": "문자로 바로 답하세요.",
    "mathvista": "Answer the question using a single integer number.",
    "mmbench_en": "\nA. ",
    "mmbench_ko": "이 그림은 질문을 위해 그려졌습니다.",
    "tabfact": "Answer with true or false.",
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny("internvl", alphabet=EVERY_LETTER)


def generated(name: str, **options: Any) -> dict[str, Any]:
    """The benchmark's own generated set, of a few records."""
    made = {"type": "synth", **definition(name).tiny, "count": COUNT, **options}
    if made.get("language") == "ko" and made["kind"] != "shapes":
        need_hangul()
    return made


def truth(row: Row) -> str:
    """What a perfect model would say."""
    assert row.target is not None
    if row.target.letter:
        return row.target.letter
    return Counter(row.target.answers).most_common(1)[0][0]


@pytest.mark.parametrize("name", NAMES)
def test_a_generated_set_is_asked_whole_and_an_oracle_is_right(name: str, model: LoadedModel, tmp_path: Path) -> None:
    benchmark = benchmark_of(name)
    rows = rows_of(tmp_path, model, benchmark, generated(name))
    per_record = {"charxiv_descriptive": 4, "mmbench_en": 4, "mmbench_ko": 4}.get(name, 1)
    assert len(rows) == COUNT * per_record == len({row.id for row in rows})
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert all(row.prompt_ids and row.asked and row.reference and not row.problem for row in rows)
    assert any(IN_PROMPT.get(name, "") in row.asked for row in rows)
    shown = {len(row.images) for row in rows}
    assert shown == {"blink": {1, 2}, "mathverse": {0, 1}}.get(name, {1})
    token = model.vision.image_token  # type: ignore[union-attr]
    assert all((token in row.prompt_ids) == bool(row.images) for row in rows)
    assert set(rows[0].categories) == set(definition(name).categories)

    told = summary_of(benchmark, public.score(Oracle(rows, truth), rows, benchmark))
    assert told["metrics"][told["primary"]] == 1.0
    assert told["counts"] == {}
    units = COUNT if definition(name).circular else len(rows)
    assert all(sum(one["n"] for one in values.values()) == units for values in told["categories"].values())

    wrong = public.score(Oracle(rows, lambda row: "?"), rows, benchmark)
    assert not any(row.correct for row in wrong if benchmark.definition.asks_for == "text")


@pytest.mark.parametrize("name", [name for name in NAMES if definition(name).asks_for == "letter"])
def test_letters_can_also_be_generated(name: str, model: LoadedModel, tmp_path: Path) -> None:
    benchmark = benchmark_of(name, answer_by="generation")
    rows = rows_of(tmp_path, model, benchmark, generated(name))
    oracle = Oracle(rows, lambda row: f"({row.reference})")
    told = summary_of(benchmark, public.score(oracle, rows, benchmark))
    assert told["metrics"]["accuracy"] == 1.0
    assert ("accuracy (lmms-eval)" in told["metrics"]) == (name == "k_dtcbench"), "its first character is a bracket"
    hidden = public.score(Oracle(rows, lambda row: "I see no picture"), rows, benchmark)
    assert summary_of(benchmark, hidden)["counts"] == {"unparsed": len(rows)}


@pytest.mark.parametrize("name", ["wtq", "tabfact"])
def test_a_model_without_eyes_reads_the_table(name: str, model: LoadedModel, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, model, benchmark_of(name), generated(name), eyes=False)
    assert all(not row.images and row.asked.count(" | ") >= 6 for row in rows)
    with_eyes = rows_of(tmp_path, model, benchmark_of(name), generated(name))
    assert not any(row.asked.split("\n")[0].count(" | ") for row in with_eyes)


def test_rotations_share_all_that_stands_before_the_options(model: LoadedModel, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, model, benchmark_of("mmbench_en"), generated("mmbench_en"))
    for group in {row.group for row in rows}:
        together = [row for row in rows if row.group == group]
        assert [row.id for row in together] == [f"{group}#{by}" for by in range(4)]
        assert len({row.images for row in together}) == 1
        assert len({row.asked.split("\nA. ")[0] for row in together}) == 1
        assert len({frozenset(row.choices) for row in together}) == 1
        assert {row.target.letter for row in together if row.target} == set("ABCD"), "each place is right once"
        assert len({row.target.answers for row in together if row.target}) == 1
        before_options = len(together[0].asked.split("A. ")[0])  # a token each, and the image's come first
        assert len({row.prompt_ids[:before_options] for row in together}) == 1


def test_one_wrong_rotation_makes_the_question_wrong(model: LoadedModel, tmp_path: Path) -> None:
    benchmark = benchmark_of("mmbench_en")
    rows = rows_of(tmp_path, model, benchmark, generated("mmbench_en"))
    spoilt = {"0#2", "3#0", "3#1"}
    after = {"A": "B", "B": "C", "C": "D", "D": "A"}
    oracle = Oracle(rows, lambda row: after[truth(row)] if row.id in spoilt else truth(row))
    scored = public.score(oracle, rows, benchmark)
    assert {row.id for row in scored if not row.correct} == spoilt
    told = summary_of(benchmark, scored)
    assert (told["aggregate"], told["metrics"]) == ("all_of_group", {"accuracy": pytest.approx(4 / 6)})


def test_limits_keep_whole_questions_and_grow_by_more(model: LoadedModel, tmp_path: Path) -> None:
    few, more = (
        {row.group for row in rows_of(tmp_path, model, benchmark_of("mmbench_en", limit=n), generated("mmbench_en"))}
        for n in (2, 4)
    )
    assert len(few) == 2 and len(more) == 4 and few < more
    assert len(rows_of(tmp_path, model, benchmark_of("mmbench_en", limit=2), generated("mmbench_en"))) == 8


def test_plain_evaluation_asks_each_question_once(model: LoadedModel, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, model, benchmark_of("mmbench_en", circular=False), generated("mmbench_en"))
    assert [row.id for row in rows] == [str(number) for number in range(COUNT)]
    assert not any(row.group for row in rows)
    turned = rows_of(tmp_path, model, benchmark_of("k_dtcbench", circular=True), generated("k_dtcbench", language="en"))
    assert len(turned) == 4 * COUNT and len({row.group for row in turned}) == COUNT


def test_a_model_that_converses_is_asked_in_its_template(model: LoadedModel, tmp_path: Path) -> None:
    tokenizer = model.tokenizer
    plain = rows_of(tmp_path, model, benchmark_of("chartqa"), generated("chartqa"))
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}"
        "{{ '<IMG_CONTEXT>' if p.type == 'image' else p.text }}{% endfor %}{% endfor %}[answer]"
    )
    try:
        rows = rows_of(tmp_path, model, benchmark_of("chartqa"), generated("chartqa"))
    finally:
        tokenizer.chat_template = None
    for row, before in zip(rows, plain, strict=True):
        assert row.asked == before.asked and row.images == before.images
        text = tokenizer.decode(row.prompt_ids)
        assert text.startswith("[user]") and text.endswith("[answer]") and row.asked in text


@pytest.mark.parametrize("name", NAMES)
def test_a_random_model_answers_every_row(name: str, model: LoadedModel, tmp_path: Path) -> None:
    benchmark = benchmark_of(name, max_new_tokens=3)
    rows = rows_of(tmp_path, model, benchmark, generated(name, count=3))
    scorer: Any = Scorer(
        model.model, model.tokenizer, device=torch.device("cpu"), batch_size=8, eyes=eyes_of(model, tmp_path)
    )
    scored = public.score(scorer, rows, benchmark)
    assert [row.id for row in scored] == [row.id for row in rows]
    letters = benchmark.definition.asks_for == "letter"
    assert all(row.prediction in row.asked and len(row.prediction) == 1 for row in scored if letters)
    told = summary_of(benchmark, scored)
    assert 0 <= told["metrics"][told["primary"]] <= 1


@pytest.mark.parametrize("name", ["mmbench_en", "chartqa"])
def test_what_a_score_leaves_on_disk(name: str, model: LoadedModel, tmp_path: Path) -> None:
    benchmark = benchmark_of(name, max_new_tokens=3)
    job, folder = job_of(tmp_path, generated(name), mine=benchmark)
    run.score("mine", job, folder, World(), model, sliced=False)
    told = json.loads(folder.eval_json("mine").read_text())
    lines = [json.loads(line) for line in folder.predictions("mine").read_text().splitlines()]
    assert told["type"] == name and told["title"] == benchmark.definition.title and told["compat"] == "official"
    assert told["n"] == len(lines) == len(rows_of(tmp_path, model, benchmark, generated(name)))
    assert told["aggregate"] == ("all_of_group" if name == "mmbench_en" else "mean")
    assert told["metrics"][told["primary"]] >= 0 and set(told["categories"]) == set(benchmark.definition.categories)
    for line in lines:
        assert line["asked"] and len(line["images"][0]) == 64 and 0 <= line["score"] <= 1
        assert set(line["categories"]) == set(benchmark.definition.categories)
