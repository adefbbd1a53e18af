"""`init` writes a study that validates, whatever is answered."""

import errno
import io
from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.study.init import Answers, ask_all, study_text, write_new_study
from tunestudy.study.load import load_study


def test_defaults_validate_once_the_data_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "first study.yaml"
    write_new_study(path, ask=False)
    assert "put your data at" in capsys.readouterr().out
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    loaded = load_study(path)
    assert loaded.study.study == "first-study"
    assert list(loaded.study.variants) == ["untouched", "full", "lora_r8", "lora_r32"]
    assert loaded.translations == []
    assert all(line.isascii() for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("given", "variants", "ranks"),
    [
        (["", "org/data", "", "none", "5", "2"], ["untouched", "full"], 2),
        (["", "org/data", "none", "", "5", "2"], ["untouched", "full"], 2),
        (["org/other", "org/data", "", "4", "1 2", ""], ["untouched", "full", "lora_r4"], 1),
        (
            ["org/x", "org/data", "lora, dora", "", "", "8"],
            ["untouched", "full", "lora_r8", "lora_r32", "dora_r8", "dora_r32"],
            8,
        ),
        (
            ["org/x", "org/data", "SoRA dora", "4", "", ""],
            ["untouched", "full", "dora_r4", "sora_r4_0.25", "sora_r4_0.5"],
            1,
        ),
    ],
)
def test_answers(tmp_path: Path, given: list[str], variants: list[str], ranks: int) -> None:
    replies = iter(given)
    answers = ask_all(lambda _question, _default: next(replies))
    path = tmp_path / "study.yaml"
    path.write_text(study_text("mine", answers))
    study = load_study(path).study
    assert list(study.variants) == variants
    assert study.resources.ranks == ranks
    assert study.datasets["train"].type == "hub"


def test_an_adapter_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no adapter `dorra`; did you mean `dora`"):
        study_text("mine", Answers(adapters="lora, dorra"))


def test_odd_names_are_quoted(tmp_path: Path) -> None:
    data = tmp_path / "my: data #1.jsonl"
    data.write_text('{"text": "a"}\n')
    path = tmp_path / "study.yaml"
    path.write_text(study_text("x", Answers(data=data.name)))
    assert load_study(path).study.datasets["train"].path == data.name  # type: ignore[union-attr]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("mine")
    with pytest.raises(StudyError, match="already there"):
        write_new_study(path, ask=False)
    assert path.read_text() == "mine"


def test_answers_that_make_no_study_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tunestudy.study.init._terminal", lambda question, default: "0" if "GPU" in question else default
    )
    path = tmp_path / "study.yaml"
    with pytest.raises(StudyError, match="must be at least 1"):
        write_new_study(path, ask=True)
    assert not path.exists()


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("Seeds", "1, 1", "seeds: must be different numbers from 0 on, got `1, 1`"),
        ("Seeds", "one", "seeds: must be whole numbers"),
        ("ranks", "8, 0", "ranks: must be at least 1, got `8, 0`"),
        ("Adapters", "lara", "adapters: there is no adapter `lara`; did you mean `lora`"),
        ("GPUs", "1, 2", "GPUs: must be one number"),
    ],
)
def test_a_wrong_answer_is_told_before_the_next_question(question: str, answer: str, told: str) -> None:
    asked = []

    def reply(asking: str, default: str) -> str:
        asked.append(asking)
        return answer if question in asking else default

    with pytest.raises(StudyError) as error:
        ask_all(reply)
    assert str(error.value).startswith(told)
    assert question in asked[-1]


def test_on_a_terminal_the_question_comes_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    replies = iter(["", "", "", "", "1, 1", "4", ""])
    assert ask_all(lambda _question, _default: next(replies)).seeds == "4"
    assert "seeds: must be different numbers" in capsys.readouterr().err


def test_answers_that_end_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(StudyError, match="the answers ended before the questions; --yes takes every default"):
        write_new_study(tmp_path / "study.yaml", ask=True)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, _text: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("tunestudy.study.init.write_text", refused)
    with pytest.raises(StudyError, match=r"study.yaml: cannot be written: Read-only file system"):
        write_new_study(tmp_path / "study.yaml", ask=False)
