"""The study of merging and experts in small, through the command line: its longest variant at one seed, twice."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hangul import need_hangul

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[1] / "studies" / "tbi_mllm.yaml"
EXPERTS = ("english", "korean", "none")


def run(folder: Path) -> str:
    program = Path(sys.executable).with_name("tunestudy")
    words = ["run", str(STUDY), "--tiny", "--only", "F4", "--seeds", "42", "--results", str(folder)]
    done = subprocess.run(
        [program, *words], cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the finished variant."""
    need_hangul()
    folder = tmp_path_factory.mktemp("tbi")
    assert "6 of 6 jobs to do" in run(folder)
    return folder / "tbi_mllm-tiny"


def job(study: Path, stage: str) -> Path:
    return (study / "trials" / "F4" / "seed_42" / stage).resolve()


def test_the_merge_tells_what_went_in(study: Path) -> None:
    report = json.loads((job(study, "dare_ties") / "merge_report.json").read_text())
    assert report["method"] == "dare_ties" and report["base"]
    assert {name: (one["weight"], one["density"]) for name, one in report["models"].items()} == {
        "english": (0.6, 0.1),
        "korean": (0.4, 0.1),
    }
    shares = {role: [one["zero_share"] for one in facts["models"].values()] for role, facts in report["roles"].items()}
    assert shares["vision_tower"] == shares["projector"] == [1.0, 1.0], "frozen after phase 2"
    assert max(shares["language_model"]) < 1


def test_the_base_is_left_alone_where_nobody_trained(study: Path) -> None:
    """And most of the merged language model is, too: each difference keeps a tenth."""
    from safetensors.numpy import load_file

    base, merged = (
        {
            name: tensor
            for file in (job(study, stage) / "model").glob("*.safetensors")
            for name, tensor in load_file(file).items()
        }
        for stage in ("phase2", "dare_ties")
    )
    assert base.keys() == merged.keys()
    language = {name for name in base if name.startswith("language_model.model.layers.") and "proj" in name}
    assert language
    assert all((base[name] == merged[name]).all() for name in base.keys() - language)
    changed = sum(int((base[name] != merged[name]).sum()) for name in language)
    total = sum(base[name].size for name in language)
    assert 0.15 * total < changed < 0.23 * total  # 1 − 0.9² where both differ from the base everywhere


def test_experts_are_used_and_logged(study: Path) -> None:
    with open(job(study, "mole") / "mole_log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["module"] for row in rows} > {"overall"}
    for row in rows:
        assert sum(float(row[name]) for name in EXPERTS) == pytest.approx(1, abs=1e-4)
    told = json.loads((job(study, "mole") / "experts.json").read_text())["experts"]
    assert set(EXPERTS) >= set(told) >= {"english", "korean"}
    assert {told[name]["rank"] for name in ("english", "korean")} == {4}


def test_every_benchmark_is_scored_and_nothing_runs_twice(study: Path) -> None:
    benchmarks = {path.stem for path in (job(study, "mole") / "eval").glob("*.json")} - {"scored"}
    assert {"mmbench_ko", "k_dtcbench", "wtq", "charxiv_reasoning"} <= benchmarks
    assert (study / "report" / "index.html").is_file()
    before = {path: path.stat().st_mtime_ns for path in (study / "jobs").glob("*/result.json")}
    assert len(before) == 6
    run(study.parent)
    assert {path: path.stat().st_mtime_ns for path in before} == before
