"""`tunestudy merge`: words sorted, a study written and run, its result put in place; and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.without_study.found_model import find_model
from tunestudy.launch.without_study.merge import merge_models, put_at
from tunestudy.launch.without_study.merge_words import sorted_out
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, seal

FAKE = Path(__file__).with_name("fake_merger.py")


def fake(folder: JobDir, _ranks: int) -> list[str]:
    return [sys.executable, str(FAKE), str(folder.root)]


def refuse(_folder: JobDir, _ranks: int) -> list[str]:
    raise AssertionError("nothing should have been started")


def weights(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)
    return folder


def adapter(folder: Path, base: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), **options}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_text("a")
    return folder


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "en", "ko"):
        weights(tmp_path / "in" / name, f"weights of {name}")
    return tmp_path


MERGE = (
    "--method dare_ties --base in/base --models en=in/en ko=in/ko --weights en=0.6 ko=0.4 --density 0.1 --output out"
)


def merge(text: str, command: Any = fake) -> Exit:
    return merge_models(sorted_out(text.split()), command=command)


def test_merges_and_puts_the_result_in_place(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(MERGE + " --seed 7 --threads 2") == Exit.DONE
    told = json.loads((at / "out/merge.json").read_text())
    assert told["seed"] == 7 and told["settings"]["method"] == "dare_ties" and told["settings"]["threads"] == 2
    models = told["settings"]["models"]
    assert {name: (one["weight"], one["density"]) for name, one in models.items()} == {
        "en": (0.6, 0.1),
        "ko": (0.4, 0.1),
    }
    assert json.loads((at / "out/model.safetensors").read_text()) == {"en": "weights of en", "ko": "weights of ko"}
    assert problems(at / "out") == []
    printed = capsys.readouterr().out
    assert (
        "language_model: 3 tensors, 1,200 parameters; en: 25.0% unchanged, moved by 1.23%; cosine en/ko 0.500"
        in printed
    )
    assert "warning: they are much alike" in printed and printed.rstrip().endswith("merged: out")
    (job,) = (at / "results").glob("merge-*/jobs/merged-*")
    assert (at / "out/model.safetensors").samefile(job / "model/model.safetensors"), "weights are not held twice"
    assert not (at / "out/config.json").samefile(job / "model/config.json"), "what may be edited is"
    assert str(at) not in (job.parents[1] / "study.yaml").read_text(), "results name no place of this machine"
    assert not list(at.glob(".tmp-*"))


def test_again_is_only_put_in_place(at: Path) -> None:
    merge(MERGE)
    assert merge(MERGE.replace("--output out", "--output deeper/out2")) == Exit.DONE
    (starts,) = (at / "results").glob("merge-*/jobs/*/starts.txt")
    assert starts.read_text() == "start\n" and problems(at / "deeper/out2") == []
    (at / "in/en/model.safetensors").write_text("others")
    assert merge(MERGE.replace("--output out", "--output out3")) == Exit.DONE
    assert "others" in (at / "out3/model.safetensors").read_text()


def test_an_adapter_still_finds_its_base(at: Path) -> None:
    for name in ("a", "b"):
        adapter(at / name, at / "in/base", r=2)
    words = "--method task_arithmetic --base in/base --models a=a b=b --into adapter --output far/away/out"
    assert merge(words) == Exit.DONE
    assert problems(at / "far/away/out") == []
    found = find_model(str(at / "far/away/out"))
    assert found.settings["model_name_or_path"] == str((at / "in/base").resolve())


def test_seed_words_and_dashes_mean_the_same(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = (
        "--method dare-ties --base in/base --model_en in/en --model_ko=in/ko --lambda_en 0.6 --lambda_ko 0.4 "
        "--dare_drop_rate 0.9 --output_dir out"
    )
    assert sorted_out(theirs.split()) == sorted_out(MERGE.split())
    told = capsys.readouterr().err
    assert "--lambda_en → --weights en=…" in told and "0.9 → --density 0.1" in told


@pytest.mark.parametrize(
    ("words", "entries"),
    [
        ("--weights 0.6 0.4 --density 0.1", {"en": (0.6, 0.1), "ko": (0.4, 0.1)}),
        ("--density 0.3 --densities ko=0.1", {"en": (None, 0.3), "ko": (None, 0.1)}),
        ("--densities en=0.2 ko=0.1 --weights ko=-1", {"en": (None, 0.2), "ko": (-1, 0.1)}),
    ],
)
def test_numbers_of_models(words: str, entries: dict[str, tuple[float | None, float]]) -> None:
    asked = sorted_out(f"--method ties --base b --models en=x ko=y --output o {words}".split())
    assert {name: (one.get("weight"), one.get("density")) for name, one in asked.entries.items()} == entries


REFUSED = {
    "no base": (MERGE.replace("--base in/base ", ""), "dare_ties adds up differences to a base"),
    "no method": (MERGE.replace("--method dare_ties ", ""), "--method"),
    "a method that there is none of": (MERGE.replace("dare_ties", "dareties"), "did you mean `dare_ties`?"),
    "a word too many": (MERGE + " --weihgts 1", "--weihgts"),
    "one folder twice": (MERGE.replace("in/ko", "in/../in/en"), "--models en: "),
    "a model that is the base": (MERGE.replace("=in/ko", "=in/base"), "its difference is empty"),
    "density of 0": (MERGE.replace("0.1", "0"), "--models en density: must be greater than 0"),
    "density of 1.5": (MERGE.replace("0.1", "1.5"), "must be at most 1"),
    "density of something": (MERGE.replace("0.1", "some"), "--density: must be a number"),
    "density and drop rate": (MERGE + " --dare_drop_rate 0.9", "keep one of the two"),
    "a file": (MERGE.replace("in/ko", "in/ko/config.json"), "is a file; give the folder"),
    "no such folder": (MERGE.replace("in/ko", "in/nowhere/at/all"), "there is no folder"),
    "a hub id": (MERGE.replace("in/ko", "org/model"), "download it first"),
    "no name": (MERGE.replace("ko=in/ko", "in/ko"), "must be NAME=DIR"),
    "a name twice": (MERGE.replace("ko=in", "en=in"), "two models `en`"),
    "a name that is taken": (MERGE.replace("ko=", "base=").replace(" base=0.4", ""), "`base` is the name of"),
    "weights of an unknown model": (MERGE.replace("ko=0.4", "fr=0.4"), "--weights: there is no model `fr`"),
    "a weight that is no number": (MERGE.replace("ko=0.4", "ko=nan"), "--weights: must be a finite number"),
    "a scale without end": (MERGE + " --scale inf", "must be a finite number, got inf"),
    "below a file": (MERGE.replace("--output out", "--output in/ko/config.json/out"), "`config.json` is a file"),
    "a size that is none": (MERGE + " --max-shard-size 5XB", "--max_shard_size: must be a whole number with B, KB"),
    "too few weights": (MERGE.replace("en=0.6 ko=0.4", "0.6"), "gives 1 numbers for 2 models"),
    "inside an input": (MERGE.replace("--output out", "--output in/ko/out"), "lie in one another"),
    "around an input": (MERGE.replace("in/", "out/in/"), "is there and not empty"),
    "in place of a file": (MERGE.replace("--output out", "--output in/ko/config.json"), "is a file"),
    "in place of a folder": (MERGE.replace("--output out", "--output in"), "is there and not empty"),
    "compat of nobody": (MERGE + " --compat own", "--compat: must be one of paper, mergekit, peft"),
    "slerp of one": ("--method slerp --models a=in/en --output out", "here are 1"),
    "whole models into an adapter": (MERGE + " --into adapter", "a LoRA adapter is needed here"),
    "tensors from nobody": (MERGE + " --absent take:fr", "there is no model `fr`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(at: Path, name: str) -> None:
    words, message = REFUSED[name]
    if name == "around an input":
        (at / "in").rename(at / "elsewhere")
        (at / "out").mkdir()
        (at / "elsewhere").rename(at / "out/in")
    with pytest.raises(StudyError) as caught:
        merge(words, refuse)
    assert caught.value.exit_code == Exit.STUDY_WRONG
    assert message in str(caught.value), str(caught.value)
    assert "stages." not in str(caught.value) and "study.yaml" not in str(caught.value)
    assert not list((at / "results").glob("merge-*")), "nothing is left behind"


def test_no_dora_in_an_adapter(at: Path) -> None:
    adapter(at / "a", at / "in/base", use_dora=True)
    with pytest.raises(StudyError, match="is a DoRA"):
        merge("--method linear --models a=a --into adapter --output out", refuse)
    with pytest.raises(StudyError, match="is an adapter; give the model"):
        merge("--method ties --base a --models en=in/en --density 1 --output out", refuse)


def test_an_adapter_whose_base_is_named_as_from_elsewhere(at: Path) -> None:
    adapter(at / "a", Path("base"))
    adapter(at / "b", Path("base"))
    with pytest.raises(StudyError, match=r"--models a: names `base` as its base, .* write its path"):
        merge("--method linear --models a=a b=b --output out", refuse)


def test_nothing_is_put_half(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = weights(at / "prepared", "w")
    seal(prepared, at / "model", {"kind": "full"})
    monkeypatch.setattr("tunestudy.launch.without_study.merge.publish", _full)
    with pytest.raises(OSError, match="disk"):
        put_at(at / "model", at / "out")
    assert not (at / "out").exists() and not [path for path in at.iterdir() if path.name.startswith(".")]


def test_a_full_disk_is_told_with_where_the_result_is(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(28, "No space left"), shutil.Error([("a", "b", "[Errno 28] No space left")])):
        monkeypatch.setattr("tunestudy.launch.without_study.merge.shutil.copytree", _raising(error))
        with pytest.raises(StudyError, match=r"the disk is full.* is whole at `results/merge-") as caught:
            merge(MERGE + " --quiet")
        assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED and not (at / "out").exists()


def _raising(error: OSError) -> Any:
    def copytree(*_: Any, **__: Any) -> None:
        raise error

    return copytree


def test_who_wrote_to_an_output_gets_another_whole_one(at: Path) -> None:
    assert merge(MERGE + " --quiet") == Exit.DONE
    (file,) = (at / "out").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(b"another")  # the same file as the result's, where links are
    assert merge(MERGE.replace("--output out", "--output out2") + " --quiet") == Exit.DONE
    assert (at / "out2" / file.name).read_bytes() == whole and file.read_bytes() == b"another"


def _full(*_: Path) -> None:
    raise OSError(28, "disk is full")


def test_a_failed_merge_puts_nothing(at: Path) -> None:
    def fails(_folder: JobDir, _ranks: int) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no')"]

    assert merge(MERGE + " --quiet", fails) == Exit.JOBS_FAILED
    assert not (at / "out").exists()


def test_the_command_line(at: Path) -> None:
    command = [sys.executable, "-m", "tunestudy.cli", "merge"]
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "--models NAME=DIR" in told.stdout and "--dare_drop_rate" in told.stdout
    wrong = subprocess.run([*command, "--method", "ties", "--nonsense"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and "tunestudy merge --help" in wrong.stderr
