"""Public benchmarks' data as people have them: tables with base64, parquet, lines with paths; and what can be wrong."""

import base64
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from publicsets import EVERY_LETTER, Oracle, benchmark_of, rows_of
from tinyeyes import picture, tiny

from tunestudy.bench.readers import charxiv
from tunestudy.bench.summary import summary_of
from tunestudy.bench.tasks import public
from tunestudy.config.data import FileDataset
from tunestudy.config.definition import Definition, read_definition
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.synth import SynthSettings
from tunestudy.data.sources import Folders, Raw, file
from tunestudy.data.synth.write import write_set
from tunestudy.models.loaded import LoadedModel

Record = dict[str, Any]
CHOICE = {"index": 0, "image": "p.png", "question": "Which?", "A": "red", "B": "blue", "answer": "B"}
OPEN = {"questionId": 1, "image": "p.png", "question": "What?", "answers": ["x", "y"]}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny("internvl", alphabet=EVERY_LETTER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("p.png", "q.png")):
        (tmp_path / name).write_bytes(picture(number))
    (tmp_path / "broken.png").write_bytes(picture(2)[:60])
    return tmp_path


def lines(folder: Path, records: Sequence[Record], **options: Any) -> Record:
    """A data set of these records."""
    (folder / "d.jsonl").write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return {"path": "d.jsonl", **options}


def table(folder: Path, records: Sequence[Record]) -> Record:
    with open(folder / "d.tsv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(records)
    return {"path": "d.tsv"}


def test_tables_with_rotations_and_images_in_base64(model: LoadedModel, folder: Path) -> None:
    """As VLMEvalKit's: rotations lie at index + 1,000,000 and name the record whose image they share."""
    encoded = base64.b64encode(picture(5, (56, 56))).decode()
    other = base64.b64encode(picture(6, (56, 56))).decode()
    plain = {"hint": "nan", "category": "c", "l2-category": "l"}
    two, four = {**plain, "C": "", "D": "nan"}, {**plain, "C": "c", "D": "d"}
    records = [
        {"index": 1000007, "question": "Q", "A": "b", "B": "a", **two, "answer": "A", "image": "7"},
        {"index": 7, "question": "Q", "A": "a", "B": "b", **two, "answer": "B", "image": encoded},
        {"index": 8, "question": "R", "A": "a", "B": "b", **four, "answer": "D", "image": other},
    ]
    rows = rows_of(folder, model, benchmark_of("mmbench_en"), table(folder, records))
    assert [(row.id, row.group, row.choices) for row in rows] == [
        ("1000007", "7", ("b", "a")),
        ("7", "7", ("a", "b")),
        ("8", "8", ("a", "b", "c", "d")),
    ]
    assert [row.target.letter for row in rows if row.target] == ["A", "B", "D"]
    assert rows[0].images[0].sha256 == rows[1].images[0].sha256 != rows[2].images[0].sha256
    assert "nan" not in rows[0].asked and rows[0].asked.startswith("Q\nA. b\nB. a\nAnswer")
    [alone] = rows_of(folder, model, benchmark_of("mmbench_en", limit=1), table(folder, records))[1:]
    assert alone.group == "7" and not alone.problem
    plainly = rows_of(folder, model, benchmark_of("mmbench_en", circular=False), table(folder, records))
    assert [row.id for row in plainly] == ["7", "8"]


def test_lines_with_paths_and_parquet_with_bytes_hold_the_same_questions(model: LoadedModel, folder: Path) -> None:
    settings = [SynthSettings(kind="chart", count=3, image_size=112)]
    asked = []
    for form in ("jsonl", "parquet"):
        path = write_set(folder / form, settings, count=3, shape="mathvista", file_format=form, num_workers=1)
        rows = rows_of(folder, model, benchmark_of("mathvista"), {"path": str(path)})
        asked.append([(row.id, row.prompt_ids, row.target, row.images[0].sha256) for row in rows])
    synth = {"type": "synth", "kind": "chart", "count": 3, "image_size": 112, "shape": "mathvista"}
    assert asked[0] == asked[1] and len(asked[0]) == 3
    drawn = rows_of(folder, model, benchmark_of("mathvista"), {**synth, "tasks": ["value", "count"]})
    assert len(drawn) == 3


def test_other_names_of_columns(model: LoadedModel, folder: Path) -> None:
    first = {"image": "p.png", "query": "How many?", "label": ["3"], "human_or_machine": 0}
    [row] = rows_of(folder, model, benchmark_of("chartqa"), lines(folder, [first]))
    assert row.target and row.target.answers == ("3",) and row.categories == {"type": "0"}
    own = {"image": "p.png", "asked": "How many?", "said": "3"}
    mapped = lines(folder, [own], columns={"question": "asked", "answer": "said"})
    [again] = rows_of(folder, model, benchmark_of("chartqa"), mapped)
    assert again.prompt_ids == row.prompt_ids and again.target.answers == ("3",)  # type: ignore[union-attr]


def test_lists_in_tables_are_text(model: LoadedModel, folder: Path) -> None:
    record = {"index": 1, "questionId": 1, "image": "p.png", "question": "What?", "answers": "['1, 2', 'b']"}
    [row] = rows_of(folder, model, benchmark_of("docvqa"), table(folder, [record]))
    assert row.target and row.target.answers == ("1, 2", "b") and row.reference == "1, 2 | b"


def test_marks_in_the_text_are_places_of_images(model: LoadedModel, folder: Path) -> None:
    base = {"idx": "v1", "sub_task": "s", "image_1": "p.png", "choices": ["x", "y"], "answer": "(A)"}
    records = [{**base, "prompt": "First <image> then <image> (A) x (B) y", "image_2": "q.png"},
               {**base, "idx": "v2", "prompt": "Is <image> a <image> tag?", "image_2": None}]  # fmt: skip
    rows = rows_of(folder, model, benchmark_of("blink"), lines(folder, records))
    token = model.vision.image_token  # type: ignore[union-attr]
    starts = [row.prompt_ids.index(token) for row in rows]
    assert [len(row.images) for row in rows] == [2, 1]
    assert starts[0] > 40 > starts[1], "as many marks as images: they are places; else the image stands in front"


def test_subplots_are_named_as_the_record_has_them() -> None:
    grid = {"subplot_loc": None, "subplot_row": 2, "subplot_col": 1}
    assert charxiv.question(2, grid).startswith(
        "For the subplot at row 2 and column 1, what is the label of the x-axis?"
    )
    assert charxiv.question(2, {**grid, "subplot_row": 0}).startswith("For the current plot, what")
    assert charxiv.question(2, {"subplot_loc": "the left plot"}).startswith("For the left plot, what")
    assert charxiv.question(19, grid).startswith("What is the number of subplots?")
    assert sorted(charxiv.ASKED) == list(range(1, 20))


def test_an_image_that_cannot_be_shown_is_wrong_and_told_and_never_left_out(model: LoadedModel, folder: Path) -> None:
    cells: list[Any] = ["p.png", "broken.png", "gone.png", None, base64.b64encode(b"no picture " * 9).decode()]
    records = [{**OPEN, "questionId": number, "image": cell} for number, cell in enumerate(cells)]
    benchmark = benchmark_of("docvqa")
    rows = rows_of(folder, model, benchmark, lines(folder, records))
    assert [row.id for row in rows] == ["0", "1", "2", "3", "4"]
    reasons = ["", "broken image", "no such image", "no image", "not an image"]
    assert all(
        row.problem.startswith(why) and bool(row.problem) == bool(why) for row, why in zip(rows, reasons, strict=True)
    )
    oracle = Oracle(rows, lambda row: "x")
    scored = public.score(oracle, rows, benchmark)
    assert [row.value for row in scored] == [1, 0, 0, 0, 0] and oracle.asked == 1
    assert [row.problem for row in scored] == [row.problem for row in rows] and scored[1].asked.startswith("What?")
    told = summary_of(benchmark, scored)
    assert told["counts"] == {"undecodable": 4} and told["metrics"]["anls"] == pytest.approx(0.2)


def test_an_image_that_could_not_be_fetched_is_wrong_and_told(
    model: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(dataset: FileDataset, folders: Folders) -> Iterator[Raw]:
        for raw in file.records(dataset, folders):
            gone = raw.columns["image"].startswith("http")
            yield replace(raw, problem="not fetched: 404", lost=True) if gone else raw

    monkeypatch.setattr(file, "read", read)
    records = [OPEN, {**OPEN, "questionId": 2, "image": "https://example.org/a.png"}]
    rows = rows_of(folder, model, benchmark_of("docvqa"), lines(folder, records))
    assert [row.problem for row in rows] == ["", "not fetched: 404"]


def test_a_broken_image_makes_every_rotation_wrong(model: LoadedModel, folder: Path) -> None:
    rows = rows_of(folder, model, benchmark_of("mmbench_en"), lines(folder, [{**CHOICE, "image": "broken.png"}]))
    assert [(row.id, row.group) for row in rows] == [("0#0", "0"), ("0#1", "0")] and all(row.problem for row in rows)


def without(record: Record, *names: str, **changes: Any) -> Record:
    return {name: value for name, value in {**record, **changes}.items() if name not in names}


BAD: dict[str, tuple[str, list[Record], str]] = {
    "no column": ("docvqa", [without(OPEN, "answers", answer=["x"])], "column `answers`, .* did you mean `answer`"),
    "no image column": ("docvqa", [without(OPEN, "image", picture="p.png")], "needs a column `image`.*Columns there"),
    "no column later": ("docvqa", [OPEN, without(OPEN, "question", questionId=2)], "d.jsonl:2.*`question`"),
    "same id": ("docvqa", [OPEN, OPEN], "the id '1' in `questionId` stands in d.jsonl:1 and d.jsonl:2"),
    "empty id": ("docvqa", [{**OPEN, "questionId": ""}], "no id in `questionId`"),
    "no answer": ("docvqa", [{**OPEN, "answers": []}], "no answer in `answers`"),
    "letter out of range": ("mmbench_en", [{**CHOICE, "answer": "C"}], "'C' in `answer` is none .* .A. red, B. blue"),
    "no letter": ("mmbench_en", [{**CHOICE, "answer": "red"}], "'red' in `answer` is none of its options"),
    "no options": ("mmbench_en", [without(CHOICE, "A", "B")], "needs a column `A`"),
    "options of nothing": ("mmbench_en", [{**CHOICE, "B": "nan", "answer": "A"}], "fewer than two options in `A`, `B`"),
    "unknown word": (
        "tabfact",
        [{"id": 1, "table_text": "a#b", "statement": "s", "label": 7, "image": None}],
        "the answer 7 in `label` is none of 1, 0",
    ),
    "answers of nothing": ("docvqa", [OPEN | {"answers": [None]}], "there is no answer in `answers`"),
    "question of no kind": (
        "charxiv_descriptive",
        [{"figure_path": 1, "image": None} | {f"descriptive_{kind}{n}": 20 for kind in "qa" for n in range(1, 5)}],
        r"d.jsonl:1: CharXiv's descriptive questions are numbered 1 to 19, not 20",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_records_are_told_with_benchmark_and_column(case: str, model: LoadedModel, folder: Path) -> None:
    kind, records, told = BAD[case]
    with pytest.raises(StudyError, match=told) as caught:
        rows_of(folder, model, benchmark_of(kind), lines(folder, records))
    assert str(caught.value).startswith("benchmarks.mine.dataset: ")
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED


def test_an_empty_set_and_a_damaged_line(model: LoadedModel, folder: Path) -> None:
    (folder / "d.json").write_text("[]")
    with pytest.raises(StudyError, match="d has no rows"):
        rows_of(folder, model, benchmark_of("docvqa"), {"path": "d.json"})
    lines(folder, [OPEN])
    (folder / "d.jsonl").write_text((folder / "d.jsonl").read_text() + '{"questionId": 2, "ima\n')
    with pytest.raises(StudyError, match=r"d.jsonl:2: not JSON; the file is damaged"):
        rows_of(folder, model, benchmark_of("docvqa"), {"path": "d.jsonl"})


def test_a_mapped_column_that_is_not_there(model: LoadedModel, folder: Path) -> None:
    with pytest.raises(StudyError, match="no column 'answrs'; did you mean `answers`") as caught:
        rows_of(folder, model, benchmark_of("docvqa"), lines(folder, [OPEN], columns={"answers": "answrs"}))
    assert str(caught.value).startswith("datasets.d.columns.answers: ")


def test_a_split_that_is_not_there(model: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is a hub data set to `datasets`, so this is its own message."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "hub"))
    (folder / "hubset").mkdir()
    write_set(
        folder / "made", [SynthSettings(kind="document", count=2, image_size=112)],
        count=2, shape="docvqa", file_format="parquet", num_workers=1,
    )  # fmt: skip
    (folder / "made" / "data.parquet").rename(folder / "hubset" / "validation.parquet")
    hub = {"type": "hub", "name": str(folder / "hubset"), "split": "val"}
    with pytest.raises(StudyError, match=r"DocVQA.*published as lmms-lab/DocVQA, split validation.*val") as caught:
        rows_of(folder, model, benchmark_of("docvqa"), hub)
    assert str(caught.value).startswith("benchmarks.mine.dataset: ")
    assert "validation" in caught.value.message.partition("published as lmms-lab/DocVQA, split validation")[2]
    rows = rows_of(folder, model, benchmark_of("docvqa"), {**hub, "split": "validation"})
    assert len(rows) == 2 and all(row.images for row in rows)


def test_a_model_without_eyes_is_refused_where_images_are_needed(model: LoadedModel, folder: Path) -> None:
    with pytest.raises(StudyError, match="asks about images, and the model has no role `vision_tower`") as caught:
        rows_of(folder, model, benchmark_of("docvqa"), lines(folder, [OPEN]), eyes=False)
    assert str(caught.value).startswith("benchmarks.mine.type: ")


def test_settings_that_do_not_fit_the_benchmark(model: LoadedModel, folder: Path) -> None:
    data = lines(folder, [OPEN])
    cases: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: benchmark_of("docvqa", compat="strict"),
            "benchmarks.mine.compat: anls is computed in these ways: offi",
        ),
        (lambda: benchmark_of("docvqa", dataset="d@held_out"), "scored whole"),
    ]
    for made, told in cases:
        with pytest.raises(StudyError) as caught:
            rows_of(folder, model, made(), data)
        assert told.split(".*")[0] in str(caught.value) and told.split(".*")[-1] in str(caught.value)


def test_letters_are_asked_only_where_every_record_has_options(model: LoadedModel, folder: Path) -> None:
    free = {"pid": "1", "decoded_image": "p.png", "question": "What?", "answer": "3", "choices": None}
    record = {**free, "question_type": "free_form", "answer_type": "integer"}
    with pytest.raises(StudyError, match=r"d\.jsonl:1: fewer than two options in `choices`"):
        rows_of(folder, model, benchmark_of("mathvista", answer_by="letter"), lines(folder, [record]))


def test_answers_by_place_and_by_text(model: LoadedModel, folder: Path) -> None:
    record = {"image": "p.png", "question": "Which?", "options": ["red", "blue"]}
    base: Record = {
        "title": "Mine",
        "version": 1,
        "images": ["image"],
        "choices": ["options"],
        "asks_for": "letter",
        "metric": "choice",
    }
    for how, answer in (("index", 1), ("index", 1.0), ("text", "blue"), ("letter", "b")):
        own = Definition.model_validate({**base, "answer_is": how})
        benchmark = benchmark_of("docvqa", own)
        [row] = rows_of(folder, model, benchmark, lines(folder, [{**record, "answer": answer}]))
        assert row.id == "000000" and row.reference == "B" and row.target and row.target.answers == ("blue",)
        with pytest.raises(StudyError, match="is none of its options"):
            rows_of(folder, model, benchmark, lines(folder, [{**record, "answer": {"index": 2}.get(how, "green")}]))


def test_the_example_in_the_documentation_is_a_benchmark(model: LoadedModel, folder: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    example = text.partition("## A benchmark")[2].partition("```yaml\n")[2].partition("```")[0]
    assert len(example.splitlines()) <= 16
    (folder / "ripe.yaml").write_text(example, encoding="utf-8")
    benchmark = benchmark_of("docvqa", read_definition(folder / "ripe.yaml"))
    pair = {"left": "p.png", "right": "q.png", "question": "Ripe?", "words": ["yes", "ripe"], "fruit": "plum"}
    rows = rows_of(
        folder, model, benchmark, lines(folder, [{**pair, "qid": "a"}, {**pair, "qid": "b", "words": ["no"]}])
    )
    assert rows[0].asked == "Ripe?\nAnswer with a single word." and len(rows[0].images) == 2
    told = summary_of(benchmark, public.score(Oracle(rows, lambda row: "Yes"), rows, benchmark))
    assert told["title"] == "Ripe or not" and next(iter(told["metrics"].values())) == 0.5
    assert told["categories"] == {"fruit": {"plum": {"n": 2, "score": 0.5}}}
