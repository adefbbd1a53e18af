"""What the owner of the bilingual study wants to know, answered by the files of the small study."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from five import Finished, carry_out
from hangul import need_hangul

pytestmark = pytest.mark.study

SEEDS = ("42", "123", "456")
COMPONENTS = {
    "A1": set(),
    "B1": {"rope2d"},
    "B2": {"pyramid"},
    "B3": {"rope2d", "pyramid"},
    "C1": {"c_abstractor"},
    "C2": {"c_abstractor"},
    "E1": {"rope2d", "c_abstractor"},
    "E2": {"rope2d", "pyramid", "c_abstractor"},
}
ON_A1 = {"D1": "korean", "D2": "linear", "D3": "dare_ties", "D4": "mole"}
ON_E2 = {"F1": "korean", "F2": "dare_ties", "F3": "mole", "F4": "mole"}
VARIANTS = {"A0", *COMPONENTS, *ON_A1, *ON_E2}
ASKED = {"mmbench_en", "mmbench_ko", "textvqa", "docvqa", "chartqa", "mathvista", "k_dtcbench"}
FOR_THE_TABLE = ASKED | {
    "charxiv_descriptive",
    "charxiv_reasoning",
    "infovqa",
    "ocrbench",
    "mathverse",
    "wtq",
    "tabfact",
}
HELD_OUT = {"charts_en_held_out", "charts_ko_held_out"}
EXPERTS = ("english", "korean", "none")
MERGES = ("F2", "D3")


@pytest.fixture
def study(finished: Callable[[str], Finished]) -> Finished:
    need_hangul()
    return finished("tbi_mllm")


def job(study: Finished, variant: str, stage: str, seed: str = "42") -> Path:
    return (study.folder / "trials" / variant / f"seed_{seed}" / stage).resolve()


def told(path: Path) -> Any:
    return json.loads(path.read_text())


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return {
        name: tensor for file in (folder / "model").glob("*.safetensors") for name, tensor in load_file(file).items()
    }


def test_every_variant_is_scored_on_every_benchmark_at_every_seed(study: Finished) -> None:
    rows = study.table()
    assert {row["variant"] for row in rows} == VARIANTS
    assert {row["benchmark"] for row in rows} == FOR_THE_TABLE | HELD_OUT
    found = {(row["variant"], row["benchmark"]) for row in rows}
    assert len(found) == len(VARIANTS) * len(FOR_THE_TABLE | HELD_OUT)
    assert {row["n_seeds"] for row in rows if row["variant"] != "A0"} == {str(len(SEEDS))}
    assert {row["n_seeds"] for row in rows if row["variant"] == "A0"} == {"1"}, "nothing was trained: once is enough"


@pytest.mark.parametrize(("variant", "wanted"), COMPONENTS.items())
def test_components_stand_alone_and_together(study: Finished, variant: str, wanted: set[str]) -> None:
    settings = told(job(study, variant, "phase1") / "job.json")["settings"]
    components = settings.get("components") or {}
    assert {name for name, options in components.items() if options} == wanted


@pytest.mark.parametrize("benchmark", sorted(HELD_OUT))
def test_each_is_held_against_a1_with_error_bars_and_a_corrected_test(study: Finished, benchmark: str) -> None:
    """Nothing can be significant at three seeds: the smallest p of eight sign flips is 2/8."""
    rows = {
        row["variant"]: row
        for row in study.table()
        if row["benchmark"] == benchmark and row["metric"] == "bits_per_byte"
    }
    assert (rows["A1"]["delta"], rows["A1"]["p_value"]) == ("", "")
    for variant in VARIANTS - {"A0", "A1"}:
        row = rows[variant]
        assert float(row["std"]) > 0
        assert float(row["ci_low"]) < float(row["mean"]) < float(row["ci_high"])
        delta = float(row["mean"]) - float(rows["A1"]["mean"])
        assert float(row["delta"]) == pytest.approx(delta, abs=1e-6) and 0.25 <= float(row["p_value"]) <= 1
    assert len({row["mean"] for row in rows.values()}) == len(rows), "every variant is another model"


def test_both_languages_are_learnt(study: Finished) -> None:
    """Each alone is what the merge was made of; what A1 learnt of both is in the table."""
    means = {
        (row["variant"], row["benchmark"]): float(row["mean"])
        for row in study.table()
        if row["metric"] == "bits_per_byte"
    }
    for benchmark in HELD_OUT:
        assert all(means[variant, benchmark] < means["A0", benchmark] for variant in VARIANTS - {"A0"})
    for variant in MERGES:
        english, korean = (told(job(study, variant, stage) / "job.json")["settings"] for stage in ("english", "korean"))
        assert {one["dataset"] for one in korean["data"]} == {"charts_ko", "tables_ko", "ocr_ko"}
        assert {one["dataset"] for one in english["data"]}.isdisjoint({"charts_ko", "tables_ko", "ocr_ko"})


@pytest.mark.parametrize("variant", MERGES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_merge_tells_what_went_in(study: Finished, variant: str, seed: str) -> None:
    report = told(job(study, variant, "dare_ties", seed) / "merge_report.json")
    assert report["method"] == "dare_ties" and report["base"]
    assert {name: (one["weight"], one["density"]) for name, one in report["models"].items()} == {
        "english": (0.6, 0.1),
        "korean": (0.4, 0.1),
    }
    shares = {role: [one["zero_share"] for one in facts["models"].values()] for role, facts in report["roles"].items()}
    assert shares["vision_tower"] == shares["projector"] == [1.0, 1.0], "frozen after phase 2"
    assert max(shares["language_model"]) < 1


def test_the_linear_merge_takes_six_tenths_and_four(study: Finished) -> None:
    report = told(job(study, "D2", "linear") / "merge_report.json")
    assert report["method"] == "linear"
    assert {name: one["weight"] for name, one in report["models"].items()} == {"english": 0.6, "korean": 0.4}


def test_a_merge_leaves_the_base_alone_where_nobody_trained(study: Finished) -> None:
    """And most of the merged language model, too: each difference keeps a tenth."""
    base, merged = (weights(job(study, "F2", stage)) for stage in ("phase2", "dare_ties"))
    assert base.keys() == merged.keys()
    language = {name for name in base if name.startswith("language_model.model.layers.") and "proj" in name}
    assert language
    assert all((base[name] == merged[name]).all() for name in base.keys() - language)
    changed = sum(int((base[name] != merged[name]).sum()) for name in language)
    total = sum(base[name].size for name in language)
    assert 0.15 * total < changed < 0.23 * total  # 1 − 0.9² where both differ from the base everywhere


@pytest.mark.parametrize("variant", ["D4", "F3", "F4"])
def test_experts_are_used_and_logged(study: Finished, variant: str) -> None:
    folder = job(study, variant, "mole")
    with open(folder / "mole_log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["module"] for row in rows} > {"overall"}
    for row in rows:
        assert sum(float(row[name]) for name in EXPERTS) == pytest.approx(1, abs=1e-4)
    experts = told(folder / "experts.json")["experts"]
    assert set(EXPERTS) >= set(experts) >= {"english", "korean"}
    assert {experts[name]["rank"] for name in ("english", "korean")} == {4}


def test_mixtures_begin_where_their_variants_say(study: Finished) -> None:
    """F4's and D4's on the merged model, F3's on that of E2's second phase."""
    parents = {variant: told(job(study, variant, "mole") / "job.json")["parents"][-1] for variant in ("D4", "F3", "F4")}
    wanted = {"D4": "dare_ties", "F3": "phase2", "F4": "dare_ties"}
    assert parents == {variant: job(study, variant, stage).name for variant, stage in wanted.items()}


def test_what_variants_share_ran_once(study: Finished) -> None:
    assert len(study.jobs) == 109
    assert job(study, "F4", "phase2") == job(study, "E2", "phase2")
    assert job(study, "D4", "phase3") == job(study, "A1", "phase3") != job(study, "E2", "phase3")
    assert len({job(study, "F4", "mole", seed) for seed in SEEDS}) == len(SEEDS)


def test_the_report_shows_merges_mixtures_and_the_test(study: Finished) -> None:
    page = (study.folder / "report" / "index.html").read_text()
    assert "Merging" in page and "Mixtures of experts" in page
    wanted = (len(VARIANTS) - 1) * (len(FOR_THE_TABLE) + len(HELD_OUT))
    assert f"Holm-corrected over {wanted} comparisons" in page


def test_run_again_it_does_nothing(study: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in (study.folder / "jobs").glob("*/result.json")}
    table = study.table()
    assert carry_out(study.name, study.folder.parent).table() == table
    assert {path: path.stat().st_mtime_ns for path in before} == before
