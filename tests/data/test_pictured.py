"""Where images of a record are found and where in its text they belong, in every format; tars; splits by image."""

import io
import json
import sys
import tarfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from tinyeyes import ALPHABET, eyes_of, model_settings, picture, tiny

from tunestudy.config.data import DataSettings, FileDataset
from tunestudy.config.errors import StudyError
from tunestudy.config.model import ModelConfig
from tunestudy.data.example import Example
from tunestudy.data.formats import RecordReader
from tunestudy.data.images import IMAGE_MARK as MARK
from tunestudy.data.rejected import Rejected
from tunestudy.data.select import is_held_out
from tunestudy.data.sources import Folders
from tunestudy.data.sources.halves import HALF
from tunestudy.data.sources.tar import read_tar
from tunestudy.data.survey import survey
from tunestudy.data.tokenize import Tokenize
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.origin import load_tokenizer

PNG = picture(1)
GPT = {"from": "gpt", "value": "yes"}
YES = {"role": "assistant", "content": "yes"}


def example(record: dict[str, Any], folder: Path = Path(), **options: Any) -> Example:
    reader = RecordReader("d", FileDataset(path="x.jsonl", **options), record, Folders(folder, folder / "cache"))
    return reader.example(record)


ONE = {"image": PNG}
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "LLaVA": ({**ONE, "conversations": [{"from": "human", "value": "<image>\nIs it?"}, GPT]}, f"{MARK}Is it?"),
    "marker at the end": (
        {**ONE, "conversations": [{"from": "human", "value": "Is it?\n<image>"}, GPT]},
        f"Is it?{MARK}",
    ),
    "no marker": ({**ONE, "conversations": [{"from": "human", "value": "Is it?"}, GPT]}, f"{MARK}Is it?"),
    "messages, list of one": (
        {"images": [PNG], "messages": [{"role": "user", "content": "a <image> b"}, YES]},
        f"a {MARK} b",
    ),
    "two images": (
        {
            "images": [PNG, {"bytes": PNG, "path": None}],
            "messages": [{"role": "user", "content": "<image><image>?"}, YES],
        },
        f"{MARK}{MARK}?",
    ),
    "parts": (
        {
            "images": [PNG],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "see "}, {"type": "image"}, {"type": "text", "text": "?"}],
                },
                YES,
            ],
        },
        f"see {MARK}?",
    ),
    "parts with their own images": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": PNG}, {"type": "text", "text": "?"}]},
                YES,
            ]
        },
        f"{MARK}?",
    ),
    "OpenAI's parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "?"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64encode(PNG).decode()}"}},
                    ],
                },
                YES,
            ]
        },
        f"?{MARK}",
    ),
    "alpaca": ({**ONE, "instruction": "Is it?", "output": "yes"}, f"{MARK}Is it?"),
}


@pytest.mark.parametrize("name", PLACES)
def test_marks_stand_where_images_belong(name: str) -> None:
    record, asked = PLACES[name]
    found = example(record)
    assert found.messages[0]["content"] == asked
    assert len(found.images) == asked.count(MARK)
    assert all(image.read() == PNG for image in found.images)


def test_prompts_and_captions() -> None:
    assert example({**ONE, "prompt": "Is it?", "completion": "yes"}).prompt == f"{MARK}Is it?"
    assert example({**ONE, "txt": "a cat"}).prompt == MARK
    asked = example({**ONE, "txt": "a cat"}, question="What is it?")
    assert (asked.prompt, asked.completion) == (f"{MARK}What is it?", "a cat")
    assert example({"photo": PNG, "txt": "a cat"}, columns={"image": "photo"}).prompt == MARK


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "more markers than images": (
        {**ONE, "conversations": [{"from": "human", "value": "<image><image>?"}, GPT]},
        "images and places differ: 2 places for images in the text, 1 images",
    ),
    "fewer": (
        {"images": [PNG, PNG], "conversations": [{"from": "human", "value": "<image>?"}, GPT]},
        "images and places differ: 1 places",
    ),
    "part without an image": (
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, YES]},
        "the record has none",
    ),
    "part of an answer without an image": (
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": [{"type": "image"}, "a"]}]},
        "images and places differ: an answer has a place",
    ),
    "text where a list belongs": (
        {"images": "a.png", "messages": [{"role": "user", "content": "?"}, YES]},
        "wrong type: images must be a list, not str; one image is called image",
    ),
    "data URL without base64": ({"image": "data:image/png,abc", "prompt": "?", "completion": "y"}, "only base64"),
    "broken base64": ({"image": "data:image/png;base64,a*c", "prompt": "?", "completion": "y"}, "not an image: data:"),
    "number": ({"image": 3, "prompt": "?", "completion": "yes"}, "wrong type: an image must be"),
    "missing file": ({"image": "no/such.png", "prompt": "?", "completion": "yes"}, "no such image: such.png"),
    "URL": ({"image": "https://x/y.png", "prompt": "?", "completion": "yes"}, "image is a URL: .*tunestudy fetch"),
    "column and parts": (
        {**ONE, "messages": [{"role": "user", "content": [{"type": "image", "image": PNG}]}, YES]},
        "images twice",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_records_whose_images_cannot_be_placed_are_rejected(name: str) -> None:
    record, reason = BAD[name]
    with pytest.raises(Rejected, match=reason):
        example(record)


def test_an_empty_column_means_no_image_and_a_marker_is_text_then() -> None:
    record = {"images": [], "messages": [{"role": "user", "content": "what does <image> mean in HTML?"}, YES]}
    found = example(record)
    assert not found.images
    assert found.messages[0]["content"] == "what does <image> mean in HTML?"


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_webdataset_shard_is_read_in_place(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "s.tar",
        {
            "a/1.png": PNG,
            "a/1.txt": b"a cat\n",
            "a/2.left.png": PNG,
            "a/2.right.png": picture(2),
            "a/2.json": json.dumps({"prompt": "which?", "completion": "left"}).encode(),
            "a/3.json": b"{broken",
            "a/4.json": b'{"prompt": "cut \\ud83d", "completion": "x"}',
        },
    )
    one, two, three, four = read_tar(path)
    assert (one.columns["id"], one.columns["txt"], one.place) == ("a/1", "a cat", "s.tar:a/1")
    assert example(one.columns).images[0].read() == PNG
    assert [image.read() for image in example(two.columns).images] == [PNG, picture(2)]
    assert three.problem.startswith("not JSON") and four.problem == HALF


def test_a_tar_is_a_file_data_set_and_a_broken_one_is_told(tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", {f"{i}.{kind}": data for i in range(3) for kind, data in (("png", PNG), ("txt", b"cat"))})
    found = survey("d", FileDataset(path="s.tar"), Folders(tmp_path, tmp_path / "cache"))
    assert [record.id for record in found.records()] == ["0", "1", "2"]
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    with pytest.raises(StudyError, match=r"cut\.tar cannot be read as tar"):
        survey("d", FileDataset(path="cut.tar"), Folders(tmp_path, tmp_path / "cache"))
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(StudyError, match=r"named \.tar but its content is text"):
        survey("d", FileDataset(path="text.tar"), Folders(tmp_path, tmp_path / "cache"))


@pytest.mark.parametrize(
    "image",
    [
        {"bytes": "abc"},
        {"bytes": 9},
        {"path": 3},
        {"path": "a.png", "offset": "x"},
        {"sha256": "zz"},
        "a\0.png",
        {},
        True,
    ],
)
def test_an_image_of_a_wrong_type_rejects_its_record(image: Any) -> None:
    with pytest.raises(Rejected, match=r"wrong type|no such image"):
        example({"image": image, "prompt": "?", "completion": "yes"})


def test_a_url_with_a_password_is_not_told() -> None:
    with pytest.raises(Rejected) as told:
        example({"image": "https://user:s3cret@host/a.png", "prompt": "?", "completion": "yes"})
    assert "s3cret" not in str(told.value)


def test_questions_about_one_image_fall_on_the_same_side_of_a_split(tmp_path: Path) -> None:
    """Else a model would be asked in evaluation about images that it has learnt."""
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    rows = [
        {"id": f"{number}-{i}", "image": f"{number}.png", "prompt": f"{i}?", "completion": "yes"}
        for number in range(20)
        for i in range(3)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = list(
        survey("d", FileDataset(path="x.jsonl", held_out=0.3), Folders(tmp_path, tmp_path / "cache")).records()
    )
    sides = {(r.id.partition("-")[0], is_held_out(r.split_id, 0.3)) for r in records}
    assert len(sides) == 20
    assert len({side for _, side in sides}) == 2
    assert len({record.id for record in records}) == 60


def test_the_same_text_about_another_image_is_another_record(tmp_path: Path) -> None:
    same, other = ({"image": data, "prompt": "?", "completion": "yes"} for data in (PNG, picture(2)))
    assert example(same).content_hash() != example(other).content_hash()
    assert example(same).content_hash() == example(dict(same)).content_hash()


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ IMAGE }}{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<eos>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WRITES = {
    "internvl": "<IMG_CONTEXT>\n",
    "gemma3": "<start_of_image>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}


@pytest.fixture(params=WRITES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    model = tiny(request.param)
    settings = {**model_settings(request.param), "tokenizer": {"type": "characters", "alphabet": ALPHABET + "<>/"}}
    settings["chat_template"] = TEMPLATE.replace("IMAGE", repr(WRITES[request.param]))
    tokenizer = load_tokenizer(ModelConfig.model_validate(settings), Path())
    object.__setattr__(model, "tokenizer", tokenizer)
    model.model.config.image_token_id = tokenizer.convert_tokens_to_ids(
        {"internvl": "<IMG_CONTEXT>", "gemma3": "<image_soft_token>", "qwen3_vl": "<|image_pad|>"}[request.param]
    )
    return model


def test_only_answers_are_learnt_whatever_images_stand_between(loaded: LoadedModel, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a <image> b"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "<image>"},
        {"role": "assistant", "content": "two"},
    ]
    found = example({"images": [PNG, picture(2, (56, 28))], "messages": turns})
    eyes = eyes_of(loaded, tmp_path)
    [sample] = Tokenize(loaded.tokenizer, DataSettings(max_length=256), eyes)([found])
    assert not isinstance(sample, Rejected), sample
    said = loaded.tokenizer.decode(sample.ids[sample.is_target])
    assert said.replace(" ", "") == "one<eos>two<eos>"
    token = eyes.vision.image_token
    assert int((sample.ids == token).sum()) == sum(eyes.vision.num_tokens(size) for size in ((28, 28), (56, 28)))
    assert not sample.is_target[sample.ids == token].any()
    asked, images = Tokenize(loaded.tokenizer, DataSettings(), eyes).prompt(found)
    assert asked == sample.ids[: len(asked)].tolist()
    assert len(images) == 2


def test_a_text_that_spells_an_image_token_is_rejected(loaded: LoadedModel, tmp_path: Path) -> None:
    eyes = eyes_of(loaded, tmp_path)
    spelt = loaded.tokenizer.convert_ids_to_tokens(eyes.vision.image_token)
    found = example({"images": [PNG], "messages": [{"role": "user", "content": f"<image> {spelt} ?"}, YES]})
    [sample] = Tokenize(loaded.tokenizer, DataSettings(max_length=256), eyes)([found])
    assert isinstance(sample, Rejected)
    assert "images and places differ" in str(sample)


def test_a_cut_never_goes_through_an_image(loaded: LoadedModel, tmp_path: Path) -> None:
    eyes = eyes_of(loaded, tmp_path)
    turns = [{"role": "user", "content": "a"}, YES, {"role": "user", "content": "<image>?"}, YES]
    found = example({"images": [PNG], "messages": turns})
    [whole] = Tokenize(loaded.tokenizer, DataSettings(max_length=256), eyes)([found])
    assert not isinstance(whole, Rejected)
    places = (whole.ids == eyes.vision.image_token).nonzero()[0]
    outcomes = {}
    for limit in range(8, len(whole.ids)):
        [cut] = Tokenize(loaded.tokenizer, DataSettings(max_length=limit, overlong="truncate"), eyes)([found])
        outcomes[limit] = not isinstance(cut, Rejected)
        assert not outcomes[limit] or limit > places[-1]
    assert any(outcomes.values())


@pytest.mark.parametrize("wrong", ["{{ m['content'] }}", "{{ '> ' + m['content'] }}"])
def test_a_template_that_has_no_place_for_images_is_refused_once_there_is_one(
    loaded: LoadedModel, wrong: str, tmp_path: Path
) -> None:
    loaded.tokenizer.chat_template = "{% for m in messages %}" + wrong + "<eos>{% endfor %}"
    tokenize = Tokenize(loaded.tokenizer, DataSettings(max_length=256, loss_on="all"), eyes_of(loaded, tmp_path))
    turns = [{"role": "user", "content": "?"}, YES]
    tokenize([example({"messages": turns})])
    with pytest.raises(StudyError, match=r"must write .* once for an image"):
        tokenize([example({"image": PNG, "messages": turns})])


def test_records_that_share_images_through_others_fall_on_the_same_side(tmp_path: Path) -> None:
    """Records i and i+1 have an image in common for i below 20; the rest stand alone, and stay where they are."""
    for number in range(60):
        (tmp_path / f"{number}.png").write_bytes(picture(number))

    def sides(count: int) -> dict[str, bool]:
        rows = [
            {
                "id": str(i),
                "images": [f"{i}.png", f"{i + 1}.png"] if i < 20 else [f"{i}.png"],
                "prompt": "?",
                "completion": "y",
            }
            for i in range(count)
            if i != 20
        ]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = survey("d", FileDataset(path="x.jsonl", held_out=0.3), Folders(tmp_path, tmp_path / "cache"))
        return {record.id: is_held_out(record.split_id, 0.3) for record in found.records()}

    few, many = sides(50), sides(60)
    assert len({few[str(i)] for i in range(20)}) == 1
    assert len(set(few.values())) == 2
    assert all(many[name] == side for name, side in few.items())


def test_images_of_a_hub_data_set_stay_encoded_however_deep_they_stand() -> None:
    import datasets

    from tunestudy.data.sources.hub import _undecoded

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "images": datasets.List(datasets.Image()),
            "messages": [{"content": [{"image": datasets.Image(), "text": datasets.Value("string")}]}],
            "id": datasets.Value("int64"),
        }
    )
    held = datasets.Dataset.from_list(
        [
            {
                "image": {"bytes": PNG, "path": None},
                "images": [{"bytes": PNG, "path": None}] * 2,
                "messages": [],
                "id": 1,
            }
        ],
        features=features,
    )
    plain = held.cast(datasets.Features({name: _undecoded(feature) for name, feature in features.items()}))
    assert plain[0]["image"]["bytes"] == PNG
    assert [one["bytes"] for one in plain[0]["images"]] == [PNG, PNG]
    assert "decode=True" not in str(plain.features)
    assert "decode=True" in str(features)


def test_evaluation_rows_about_images_in_training_are_counted(tmp_path: Path) -> None:
    from tinyeyes import corpus_of_examples

    from tunestudy.data.prepare import overlap, remarks

    model = tiny("internvl")

    def asked(number: int, question: str) -> Example:
        return example({"image": picture(number), "prompt": question, "completion": "yes"})

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train = corpus_of_examples([asked(1, "a?"), asked(2, "b?")], model, tmp_path / "a")
    evaluation = corpus_of_examples([asked(3, "a?"), asked(2, "c?"), asked(1, "d?")], model, tmp_path / "b")
    found = overlap(train, evaluation)
    assert found["same_image"] == 2
    report = {"sources": {}, "overlap": {**found, "rows": 0}, "eval": {"rows": 3}}
    assert remarks(report) == ["warning: 2 of 3 evaluation rows are about images of the training data"]
