"""The command line as users meet it: whole processes, exit codes, plain messages."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunestudy import __version__, cli
from tunestudy.config.errors import Exit, StudyError

STUDY = """\
study: small
seeds: [1, 2]
model:
  architecture: qwen3
  tokenizer: {type: characters, alphabet: "01"}
datasets:
  digits: {type: digits, held_out: 0.2}
defaults: {data: digits, learning_rate: 1e-3, max_steps: 3}
stages: {base: , adapt: }
variants:
  one: {stages: [base]}
  two: {stages: [base, adapt]}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def tunestudy(*words: object) -> subprocess.CompletedProcess[str]:
    """A whole process."""
    command = [sys.executable, "-m", "tunestudy.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_terminal_that_knows_ascii_alone(study: Path) -> None:
    command = [sys.executable, "-m", "tunestudy.cli", "plan", str(study)]
    poor = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=poor, cwd=study.parent)
    assert done.returncode == 0, done.stderr
    assert "2 variants ? 2 seeds" in done.stdout


def test_help_names_every_command_and_imports_no_room() -> None:
    code = (
        "import sys; sys.argv = ['tunestudy', '--help']\n"
        "from tunestudy.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('torch', 'pydantic', 'rich', 'ruamel', 'numpy', 'jinja2', 'psutil')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in [
        "init",
        "validate",
        "schema",
        "plan",
        "run",
        "stop",
        "status",
        "watch",
        "logs",
        "report",
        "clean",
        "env",
    ]:
        assert f"  {command} " in done.stdout


def test_plan_for_machines(study: Path, tmp_path: Path) -> None:
    done = tunestudy("plan", study, "seeds=[5]", "--results", tmp_path / "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["study"] == "small"
    assert [(job["stage"], job["seed"]) for job in told["jobs"]] == [("base", 5), ("adapt", 5)]
    assert not (tmp_path / "out").exists()


def test_translations_go_to_stderr_and_leave_json_alone(study: Path, tmp_path: Path) -> None:
    study.write_text(STUDY.replace("max_steps: 3", "max_steps: 3, cutoff_len: 64"))
    done = tunestudy("plan", study, "--json", "--results", tmp_path)
    assert json.loads(done.stdout)["study"] == "small"
    assert done.stderr == f"understood {study}:8: defaults.cutoff_len: 64 → max_length: 64\n"


def test_a_mistake_is_told_without_a_traceback(study: Path) -> None:
    study.write_text(STUDY.replace("learning_rate", "learnig_rate"))
    done = tunestudy("validate", study)
    assert done.returncode == Exit.STUDY_WRONG
    assert done.stdout == ""
    assert (
        done.stderr
        == f"{study}:8: defaults.learnig_rate: there is no key `learnig_rate` here; did you mean `learning_rate`?\n"
    )


runner = CliRunner()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pln", "x.yaml"], "Did you mean 'plan'?"),
        (["plan", "x.yaml", "--jsn"], "--json"),
        (["plan"], "Missing argument 'STUDY'"),
    ],
)
def test_a_misspelt_command_line_ends_with_2_and_the_nearest(words: list[str], message: str) -> None:
    done = runner.invoke(cli.app, words)
    assert done.exit_code == 2
    assert message in done.output


def test_version() -> None:
    assert runner.invoke(cli.app, ["--version"]).output == f"tunestudy {__version__}\n"


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tunestudy", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_exit_codes_of_errors(study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*_: object, **__: object) -> None:
        raise StudyError("results", "no space left", exit_code=Exit.PREFLIGHT_REFUSED)

    monkeypatch.setattr("tunestudy.study.load.load_study", refused)
    assert run_main(monkeypatch, "plan", str(study)) == 3
    assert capsys.readouterr().err == "results: no space left\n"


def test_ctrl_c_of_any_command_ends_with_75(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunestudy.study.load.load_study", interrupted)
    assert run_main(monkeypatch, "plan", str(study)) == Exit.INTERRUPTED


@pytest.mark.parametrize("words", [["push", "--to", "a/b"], ["eval", "--benchmarks", "chartqa"]])
def test_a_model_by_itself_has_no_variants_and_seeds(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, *words, "--model", str(tmp_path), "--only", "one") == Exit.STUDY_WRONG
    assert "--model names one by itself" in capsys.readouterr().err


def test_a_bug_says_that_it_is_one(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one over none")

    monkeypatch.setattr("tunestudy.study.load.load_study", broken)
    assert run_main(monkeypatch, "plan", str(study)) == 1
    told = capsys.readouterr().err
    assert told.startswith("a bug in tunestudy: ZeroDivisionError: one over none\n")
    assert "Traceback" not in told
    monkeypatch.setattr(sys, "argv", ["tunestudy", "plan", str(study), "--debug"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize("seeds", ["a", "1;2", ""])
def test_seeds_that_are_no_numbers(study: Path, monkeypatch: pytest.MonkeyPatch, seeds: str) -> None:
    assert run_main(monkeypatch, "run", str(study), "--seeds", seeds) == 2


def test_run_hands_everything_over(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def run_study(loaded: object, results: Path, **options: object) -> Exit:
        seen.update(options, results=results)
        return Exit.JOBS_FAILED

    monkeypatch.setattr("tunestudy.launch.run.run_study", run_study)
    words = ["run", str(study), "--only", "two@base", "--seeds", "2", "--results", str(tmp_path), "--detach"]
    assert run_main(monkeypatch, *words) == 4
    assert seen == {
        "only": ["two@base"],
        "seeds": [2],
        "detach": True,
        "quiet": False,
        "estimate": False,
        "results": tmp_path,
    }


def test_schema_is_json() -> None:
    assert json.loads(runner.invoke(cli.app, ["schema"]).output)["properties"]["study"]


def test_init_asks(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    done = runner.invoke(cli.app, ["init", str(path)], input="\norg/data\n\n\n\n\n")
    assert done.exit_code == 0
    assert "Adapters to compare" in done.output
    assert "is written and valid" in done.output


def test_env_knows_this_machine() -> None:
    done = runner.invoke(cli.app, ["env", "--json"])
    assert json.loads(done.output)["python"].startswith("3.")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOTDIR])
def test_a_disk_that_refuses_is_no_bug(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "results/demo/cache")

    monkeypatch.setattr("tunestudy.study.load.load_study", refused)
    assert run_main(monkeypatch, "plan", str(study)) == 3
    assert capsys.readouterr().err == f"results/demo/cache: cannot be written or read: {os.strerror(number)}\n"


def test_results_that_are_a_file(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").write_text("")
    assert run_main(monkeypatch, "plan", str(study), "--results", str(tmp_path / "notes")) == 2
    assert "is a file" in capsys.readouterr().err


def test_cleaning_results_that_are_not_there(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "clean", str(study), "--results", str(tmp_path / "nowhere")) == 2
    assert "there is no such results folder, so nothing to clean" in capsys.readouterr().err


def test_export_says_what_it_lacks(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["--form", "merged"], ["--to", "there"]):
        assert run_main(monkeypatch, "export", str(study), *words) == 2
        told = capsys.readouterr().err
        assert "--form and --to are missing" in told and "--form merged --to DIR" in told and "quantised" in told


def test_export_names_its_own_option_when_a_seed_is_unknown(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--form", "merged", "--to", "there", "--only", "full", "--seed", "9")
    assert run_main(monkeypatch, "export", str(study), *words) == 2
    assert capsys.readouterr().err.startswith("--seed: the study has no `9`; known are: ")


def test_export_of_a_folder_is_shown_without_what_chooses_in_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "export", str(tmp_path)) == 2
    assert f"`tunestudy export {tmp_path} --form merged --to DIR`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["logs"],
        ["clean"],
        ["export", "--only", "one", "--seed", "1", "--form", "folded", "--to", "out"],
        ["push"],
    ],
    ids=lambda words: words[0],
)
def test_what_ran_in_the_other_form_is_told(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    study.write_text(STUDY + "tiny: {defaults: {max_steps: 1}}\n")
    monkeypatch.chdir(tmp_path)

    def said(*more: str) -> str:
        return CliRunner().invoke(cli.app, [words[0], str(study), *words[1:], *more]).stderr

    assert "note:" not in said(), "nothing ran at all"
    job = tmp_path / "results/small-tiny/jobs/base-0123456789ab"
    job.mkdir(parents=True)
    (job / "progress.json").write_text("{}")
    assert "nothing of small has run in results, but its small form has: add --tiny" in said()
    assert "note:" not in said("--tiny")
    (tmp_path / "results/small-tiny").rename(tmp_path / "results/small")
    assert "nothing of small-tiny has run in results, but its whole form has: leave --tiny out" in said("--tiny")
    assert "note:" not in said()
