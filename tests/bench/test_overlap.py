"""Planted rows are found in what a job and its parents trained on, others are not, and a gap is never a zero."""

import io
import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tunestudy.bench import overlap
from tunestudy.bench.overlap import check_overlap, write_overlap
from tunestudy.bench.tasks import Row
from tunestudy.config.data import SynthDataset
from tunestudy.config.job import Job
from tunestudy.data.images import ImageBytes, ImageFacts, ImagePlaces
from tunestudy.data.sources import Folders
from tunestudy.data.store import ImageStore
from tunestudy.data.survey import survey
from tunestudy.data.wording import question_of
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir, StudyDir

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

FINGERPRINT = "0" * 64
LONG = (
    "the river that runs through the old town carries more water in april than it does in any other month of the year"
)


class Study:
    """Data sets, jobs and images below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dir = StudyDir(root / "results" / "study")
        self.folders = Folders(root, self.dir.cache)
        self.places = ImagePlaces(root, ImageStore(self.folders.store))

    def data(self, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        text = "".join(json.dumps({"id": f"{name}{i}", **row}) + "\n" for i, row in enumerate(rows))
        (self.root / f"{name}.jsonl").write_text(text, encoding="utf-8")
        return {"type": "file", "path": f"{name}.jsonl"}

    def picture(self, name: str, image: Image.Image, **options: Any) -> str:
        image.save(self.root / name, **options)
        return name

    def job(
        self, stage: str, data: dict[str, Any], *, train: list[str], parents: tuple[str, ...] = (), **asked: Any
    ) -> JobDir:
        settings = {"data": train, "learning_rate": 1e-3, "effective_batch_size": 4, "max_steps": 1}
        benchmark = {"type": "exact_match", "dataset": next(iter(data)), **asked}
        job = Job(
            id=f"{stage}-1",
            stage=stage,
            fingerprint=FINGERPRINT,
            seed=1,
            variants=("v",),
            parents=parents,
            model={"architecture": "qwen3", "config": {}, "tokenizer": {"type": "characters", "alphabet": "ab"}},
            settings=settings if train else None,
            datasets=data,
            evaluations={"bench": {"benchmark": benchmark, "fingerprint": FINGERPRINT}},
            base_dir="../../../..",
        )
        folder = self.dir.job(job.id)
        folder.root.mkdir(parents=True)
        folder.job_json.write_text(job.model_dump_json(), encoding="utf-8")
        return folder

    def facts(self, *names: str) -> tuple[ImageFacts, ...]:
        return tuple(self.places.settle(ImageBytes(path=self.root / name)) for name in names)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def found(folder: JobDir, rows: list[Row]) -> dict[str, Any]:
    write_overlap("bench", Job.model_validate(read_json(folder.job_json)), folder, rows)
    return read_json(folder.overlap("bench"))


def row(name: str, asked: str, images: tuple[ImageFacts, ...] = (), **more: Any) -> Row:
    return Row(name, (1,), more.pop("reference", "x"), images=images, asked=asked, **more)


def test_texts_in_another_form_are_found_and_others_are_not(study):
    trained = [
        {"prompt": f"Which city is the capital of {c}? Answer with a single word.", "completion": "x"}
        for c in ("Çatal", "Peru", "Chad", "Oman", "Mali", "Togo", "Cuba", "Fiji", "Laos", "Iran")
    ]
    trained += [{"prompt": f"Read this first. He says {LONG}, and so on. Is it so?", "completion": "yes"}]
    folder = study.job("adapt", {"d": study.data("d", trained)}, train=["d"])
    tail = "\nGive only the name."
    rows = [
        row("nfd", unicodedata.normalize("NFD", f"Which city is the capital of Çatal?{tail}")),
        row("space", f"  Which city\n is the capital  of Peru ?{tail}"),
        row("case", f"WHICH CITY IS THE CAPITAL OF CHAD?{tail}"),
        row("other", f"Which city is the capital of Mexico?{tail}"),
        row("part", f"Which city is the capital?{tail}"),
        row("inside", f"{LONG}{tail}"),
        row("inside, one word changed", f"{LONG.replace('april', 'may')}{tail}"),
        row("short", f"Is it so?{tail}"),
        row("empty", "", reference=""),
    ]
    told = found(folder, rows)
    assert told["row_ids"] == {"text": ["case", "inside", "nfd", "space"]}
    [of_set] = told["sets"]
    assert of_set["found"]["text"]["rows"] == 4
    assert ["nfd", "d0"] in of_set["found"]["text"]["examples"]
    assert (of_set["dataset"], of_set["stages"], of_set["records"]) == ("d", ["adapt"], 11)


def squares(seed: int) -> Image.Image:
    import numpy as np

    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((300, 300), Image.Resampling.NEAREST)


def test_an_image_counts_with_its_question_and_alone(study):
    for n in range(4):
        study.picture(f"{n}.png", squares(n))
    study.picture("0.jpg", squares(0), quality=60)
    study.picture("1.webp", squares(1).resize((170, 170), Image.Resampling.BICUBIC))
    study.picture("9.png", squares(9))
    trained = [{"prompt": f"Which colour is field {n}?", "completion": "red", "image": f"{n}.png"} for n in range(4)]
    trained += [{"prompt": "Are they alike?", "completion": "no", "images": ["2.png", "3.png"]}]
    folder = study.job("adapt", {"d": study.data("d", trained)}, train=["d"])
    options = {"choices": ("red", "blue")}
    asked = "Which colour is field {}?\nA. red\nB. blue"
    rows = [
        row("same bytes", asked.format(2), study.facts("2.png"), **options),
        row("jpeg", asked.format(0), study.facts("0.jpg"), **options),
        row("small", asked.format(1), study.facts("1.webp"), **options),
        row("another question", asked.format(7), study.facts("3.png"), **options),
        row("another image", asked.format(1), study.facts("9.png"), **options),
        row("both images", "Are they alike?", study.facts("3.png", "2.png")),
        row("one of two", "Are they alike?", study.facts("3.png", "9.png")),
        row("cannot be shown", asked.format(1), problem="broken image", **options),
    ]
    told = found(folder, rows)
    assert told["row_ids"] == {
        "text+image": ["both images", "jpeg", "same bytes", "small"],
        "image": ["another question", "one of two"],
    }
    assert told["undecodable"] == 1
    assert ["small", "d1"] in told["sets"][0]["found"]["text+image"]["examples"]


def test_what_parents_trained_on_counts_too(study):
    data = {name: study.data(name, [{"prompt": f"{name} ? ", "completion": "x"}]) for name in ("d", "e", "f")}
    study.job("first", {"e": data["e"]}, train=["e"])
    study.job("second", {"f": data["f"]}, train=["f"], parents=("first-1",))
    folder = study.job("third", data, train=["d"], parents=("second-1",))
    told = found(folder, [row(name, f"{name} ?") for name in "defg"])
    assert told["row_ids"] == {"text": ["d", "e", "f"]}
    assert [(s["dataset"], s["stages"]) for s in told["sets"]] == [
        ("e", ["first"]),
        ("f", ["second"]),
        ("d", ["third"]),
    ]


def test_an_untrained_model_has_nothing_to_overlap_with(study):
    folder = study.job("base", {"d": study.data("d", [{"prompt": "a", "completion": "b"}])}, train=[])
    told = found(folder, [row("a", "a")])
    assert (told["sets"], told["row_ids"], told["gaps"]) == ([], {}, [])


def moved(study: Study) -> None:
    (study.root / "d.jsonl").rename(study.root / "elsewhere.jsonl")


def test_data_that_are_gone_are_told_and_never_counted_as_clean(study):
    folder = study.job("adapt", {"d": study.data("d", [{"prompt": "a", "completion": "b"}])}, train=["d"])
    moved(study)
    [of_set] = found(folder, [row("a", "a")])["sets"]
    assert "does not exist" in of_set["not_checked"]
    assert "found" not in of_set


def test_a_parent_that_is_gone_is_told(study):
    data = {"d": study.data("d", [{"prompt": "a", "completion": "b"}])}
    folder = study.job("adapt", data, train=["d"], parents=("lost-1",))
    told = found(folder, [row("a", "a")])
    assert "lost-1" in told["gaps"][0]
    assert told["row_ids"] == {"text": ["a"]}


def test_a_parent_of_another_version_is_told(study):
    data = {"d": study.data("d", [{"prompt": "a", "completion": "b"}])}
    first = study.job("first", data, train=["d"])
    first.job_json.write_text(json.dumps({**json.loads(first.job_json.read_text()), "of_yore": 1}))
    told = found(study.job("adapt", data, train=["d"], parents=("first-1",)), [row("a", "a")])
    assert told["gaps"][0].startswith("jobs/first-1/job.json is gone, damaged or of another version")
    assert told["row_ids"] == {"text": ["a"]}


def test_it_can_be_left_out(study):
    data = {"d": study.data("d", [{"prompt": "a", "completion": "b"}])}
    told = found(study.job("adapt", data, train=["d"], overlap=False), [row("a", "a")])
    assert "overlap: false" in told["not_checked"]
    assert told["sets"] == []


def test_seeds_share_the_work(study, monkeypatch):
    data = {"d": study.data("d", [{"prompt": "a", "completion": "b"}])}
    one, other = (study.job(f"adapt{i}", data, train=["d"]) for i in range(2))
    calls: list[int] = []
    monkeypatch.setattr(overlap, "overlap_with", counted(overlap.overlap_with, calls))
    first, second = (found(folder, [row("a", "a")]) for folder in (one, other))
    assert len(calls) == 1
    assert first["row_ids"] == second["row_ids"] == {"text": ["a"]}
    assert found(other, [row("a", "a"), row("b", "c")])["rows"] == 2
    assert len(calls) == 2


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        calls.append(1)
        return function(*args)

    return call


def test_other_ranks_wait_for_rank_0_and_do_no_work(study):
    class Ranked:
        waits = 0

        def __init__(self, rank: int) -> None:
            self.rank = rank

        def after_rank_0(self) -> None:
            self.waits += 1

    folder = study.job("adapt", {"d": study.data("d", [{"prompt": "a", "completion": "b"}])}, train=["d"])
    job = Job.model_validate(read_json(folder.job_json))
    for rank in (1, 0):
        world: Any = Ranked(rank)
        check_overlap("bench", job, folder, [row("a", "a")], world)
        assert world.waits == 1
        assert folder.overlap("bench").exists() == (rank == 0)


def changed(data: bytes, number: int) -> bytes:
    """The image as it was, as JPEG, smaller, or larger and as WebP."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    file = io.BytesIO()
    if number % 4 == 0:
        return data
    if number % 4 == 1:
        image.save(file, "JPEG", quality=60)
    elif number % 4 == 2:
        image.resize((150, 150), Image.Resampling.LANCZOS).save(file, "PNG")
    else:
        image.resize((300, 300), Image.Resampling.BICUBIC).save(file, "WEBP", quality=80)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["chart", "document", "table", "shapes"])
def test_planted_rows_among_synthetic_ones_that_look_alike(study, kind):
    def records(seed: int) -> list[tuple[str, bytes]]:
        dataset = SynthDataset(kind=kind, count=24, seed=seed, image_size=224)
        return [
            (question_of(record.example), record.example.images[0].read())
            for record in survey("s", dataset, study.folders).records()
        ]

    data = {"s": {"type": "synth", "kind": kind, "count": 24, "seed": 1, "image_size": 224}}
    folder = study.job("adapt", data, train=["s"])
    rows = []
    for seed, planted in ((1, True), (2, False)):
        for number, (asked, image) in enumerate(records(seed)):
            facts = study.places.settle(ImageBytes(data=changed(image, number) if planted else image))
            text = unicodedata.normalize("NFD", asked).replace(" ", "  ") if planted else asked
            rows.append(row(f"{'planted' if planted else 'own'}{number}", text, (facts,)))
    told = found(folder, rows)["row_ids"]
    ids = told["text+image"]
    assert all(name.startswith("planted") for name in [*ids, *told.get("image", ())])
    for way in range(4):
        assert sum(f"planted{n}" in ids for n in range(way, 24, 4)) >= 0.9 * 6


def test_held_out_rows_are_compared_with_the_rest_and_changed_data_are_noticed(tmp_path):
    """A whole job: its tokenised data tell which records were trained on."""
    import tinyjob

    from tunestudy.bench.run import run_benchmarks
    from tunestudy.records.stop import StopRequest
    from tunestudy.train.world import World

    folder = tinyjob.make_job(tmp_path, num_records=40, num_train_epochs=1)
    lines = (tmp_path / "first.jsonl").read_text(encoding="utf-8").splitlines()
    again = [{**json.loads(line), "id": f"again-{n}"} for n, line in enumerate(lines)]
    again = [{**told, "prompt": told["prompt"].replace(" ? ", "  ?")} for told in again]
    text = "\n".join([*lines, *map(json.dumps, again)]) + "\n"
    (tmp_path / "first.jsonl").write_text(text, encoding="utf-8")
    told = read_json(folder.job_json)
    benchmark = {"type": "exact_match", "dataset": "first@held_out", "max_new_tokens": 2}
    told["evaluations"] = {"bench": {"benchmark": benchmark, "fingerprint": FINGERPRINT}}
    folder.job_json.write_text(json.dumps(told), encoding="utf-8")
    assert tinyjob.run(folder)
    job = Job.model_validate(told)
    assert run_benchmarks(job, folder, World(), StopRequest())
    result = read_json(folder.overlap("bench"))
    rows = [json.loads(line)["id"] for line in folder.predictions("bench").read_text(encoding="utf-8").splitlines()]
    twins = {f"0-{n}": f"again-{n}" for n in range(40)} | {f"again-{n}": f"0-{n}" for n in range(40)}
    expected = {name for name in rows if twins[name] not in rows}
    assert set(result["row_ids"]["text"]) >= expected
    assert 0 < len(expected) < 80
    assert result["sets"][0]["records"] + len(rows) == 80
    lines[3] = lines[3].replace('completion": "= ', 'completion": "= z')
    (tmp_path / "first.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_overlap("bench", job, folder, [])
    assert "are not in the data set any more" in read_json(folder.overlap("bench"))["sets"][0]["not_checked"]
