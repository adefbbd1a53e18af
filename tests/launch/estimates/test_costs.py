"""What `plan --estimate` puts together: memory that was counted, time that was stated or timed, what is unknown."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunestudy.launch.estimates import card, memory
from tunestudy.launch.estimates.card import card_of
from tunestudy.launch.estimates.costs import put_together, remember_costs
from tunestudy.launch.estimates.memory import foresee_missing
from tunestudy.launch.estimates.outlook import make_outlook
from tunestudy.launch.estimates.probe import in_hub_cache, not_to_time
from tunestudy.launch.estimates.words import cost_lines
from tunestudy.records.atomic import write_json
from tunestudy.records.host import host_name
from tunestudy.records.locked import Item, Lock, LockedFile, write_lock
from tunestudy.study.estimates.costs import memory_key
from tunestudy.study.estimates.memory import MEBIBYTE
from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.show import plan_lines

STUDY = """\
study: small
seeds: [1, 2]
model: {model_name_or_path: someone/model-8b}
datasets: {d: {type: digits, held_out: 0.2}}
defaults: {data: d, effective_batch_size: 4, learning_rate: 1e-3, max_steps: 1000}
stages: {adapt: {adapter: {lora_r: 2}}}
variants: {lora: {stages: [adapt]}}
estimate: {gpu_memory_gb: 16, step_s: 3-4, save_s: 1, evaluation_s: 1, start_s: 60, benchmarks_s: 0}
resources: {slots: 2}
"""
COUNTED: dict[str, Any] = {
    "device": "cuda",
    "tokens": [1000, 500],
    "activations": [2048 * MEBIBYTE, 1024 * MEBIBYTE],
    "logits": [0, 0],
    "frozen": 16384 * MEBIBYTE,
    **dict.fromkeys(("trainable", "gradients", "optimizer", "gather", "pages", "copies"), 0),
    "values_that_learn": 1_000_000,
    "constants_mb": {"context": 512.0},
    "notes": [],
}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return make_plan(load_study(path), tmp_path / "results")


def count(plan: Plan, **facts: Any) -> None:
    key = memory_key(plan, plan.jobs[0].job, ranks=1, host=host_name(), device="cuda")
    write_json(plan.folder.foreseen(key), {**COUNTED, **facts})


def test_a_stated_card_and_stated_times_are_enough(plan: Plan, tmp_path: Path) -> None:
    count(plan)
    costs = put_together(plan, tmp_path, now=0.0)
    found = json.loads(json.dumps(costs.as_json()))
    stage = found["stages"][0]
    assert found["card"] == {"device": "cuda", "bytes": 16e9, "name": "a card of 16 GB, as the study states"}
    assert stage["fits"] == "no"
    assert stage["seconds"]["training"] == {"low": 3000, "expected": 3500, "high": 4000}
    assert stage["checkpoint_bytes"]["low"] == 4e6
    assert found["totals"]["left_s"]["expected"] == stage["seconds"]["together"]["expected"], "two at a time"
    assert found["totals"]["gpu_hours"]["expected"] == pytest.approx(
        2 * stage["seconds"]["together"]["expected"] / 3600, abs=1e-3
    )
    told = cost_lines(costs)
    assert max(map(len, told)) <= 120
    assert any("does not fit 16.0 GB" in line for line in told)
    assert any("someone/model-8b" in line for line in told), "what has to be downloaded"


def test_of_an_interrupted_job_only_what_is_left_is_counted(plan: Plan, tmp_path: Path) -> None:
    whole = put_together(plan, tmp_path, now=0.0)
    folder = plan.folder.job(plan.jobs[0].job.id)
    write_json(folder.progress_json, {"phase": "interrupted"})
    for step, kind in ((700, "full"), (750, "full"), (900, "lite")):
        write_json(folder.checkpoint(step) / "MANIFEST.json", {"step": step, "kind": kind, "files": {}})
    plan = make_plan(load_study(tmp_path / "small.yaml"), tmp_path / "results")
    costs, one = put_together(plan, tmp_path, now=0.0), whole.stages[0].seconds
    assert whole.job_s and costs.job_s and costs.left and one
    begun = (one.expected - 60) / 4 + 60  # it starts anew
    assert costs.job_s.expected == pytest.approx(one.expected + begun)
    assert costs.left.expected == pytest.approx(one.expected), "the other one of two at a time"
    assert make_outlook(plan).left[plan.jobs[0].job.id] == pytest.approx(one.expected / 4)
    assert (plan.totals()["steps"], plan.totals()["steps_to_do"]) == (2000, 1250)
    assert "1 interrupted (750 of 1,000 steps done), 1 pending" in "\n".join(plan_lines(plan))


def test_full_checkpoints_of_epochs_count_as_such(tmp_path: Path) -> None:
    seen = {}
    for mode in ("lite", "full"):
        path = tmp_path / f"{mode}.yaml"
        settings = f"save_steps: null, full_save_steps: null, checkpoint_mode: {mode}"
        path.write_text(STUDY.replace("max_steps: 1000", f"max_steps: 1000, {settings}"))
        made = make_plan(load_study(path), tmp_path / mode)
        count(made)
        seen[mode] = put_together(made, tmp_path, now=0.0).as_json()["stages"][0]
    assert [seen[mode]["checkpoint_bytes"]["expected"] for mode in ("lite", "full")] == [4e6, 12e6]
    assert seen["full"]["disk_bytes"]["expected"] > 2 * seen["lite"]["disk_bytes"]["expected"]


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("", "someone/model-8b: 16 GB; estimate.bandwidth_mb_s would tell how long"),
        (", bandwidth_mb_s: 4", "someone/model-8b: 16 GB, 66.7 min at 4 MB/s"),
    ],
)
def test_a_lock_tells_what_is_still_to_come(tmp_path: Path, monkeypatch: Any, stated: str, words: str) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    commit, here = "a" * 40, "config.json"
    files = {"model.safetensors": LockedFile(16 * 10**9, sha256="0"), here: LockedFile(3, sha256="0")}
    item = Item("model", "someone/model-8b", None, ("weights",), commit, "2026-01-01", files)
    item.folder(tmp_path / "hub").mkdir(parents=True)
    (item.folder(tmp_path / "hub") / here).write_text("abc")
    write_lock(tmp_path / "small.lock", Lock("small", (item,)))
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.replace("benchmarks_s: 0", f"benchmarks_s: 0{stated}"))
    made = make_plan(load_study(path), tmp_path / "results")
    (told,) = (line for line in cost_lines(put_together(made, tmp_path, now=0.0)) if "download  " in line)
    assert told == f"  download     {words}"


def test_what_is_expected_is_kept_for_the_report_and_for_packing(plan: Plan, tmp_path: Path) -> None:
    count(plan)
    remember_costs(plan, put_together(plan, tmp_path, now=0.0))
    kept = json.loads(plan.folder.estimates.read_text())
    assert set(kept) == {planned.job.id for planned in plan.jobs}
    entry = kept[plan.jobs[0].job.id]
    assert entry["memory_mb"] == pytest.approx(16384 + 2048 * 1.05 + 512, abs=0.1)
    assert entry["peak_memory_mb"] == pytest.approx(entry["memory_mb"] - 512)
    assert entry["terms_s"]["training"] == 3500


def test_weights_are_looked_for_where_the_study_keeps_them(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "hub" / "models--someone--model-8b" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert not in_hub_cache("someone/model-8b", {})
    assert in_hub_cache("someone/model-8b", {"HF_HUB_CACHE": str(tmp_path / "home" / "hub")})


def test_steps_that_are_stated_or_impossible_are_not_timed(plan: Plan, tmp_path: Path) -> None:
    assert set(not_to_time(plan, tmp_path).values()) == {
        "its `estimate:` states it; without that, steps would be timed here"
    }
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.replace("step_s: 3-4, ", ""))
    unstated = make_plan(load_study(path), tmp_path / "results")
    assert set(not_to_time(unstated, tmp_path).values()) == {
        "someone/model-8b is not on this machine, so no step can be timed"
    }


def test_what_is_unknown_is_told_once_with_its_reason(plan: Plan, tmp_path: Path) -> None:
    key = memory_key(plan, plan.jobs[0].job, ranks=1, host=host_name(), device="cuda")
    write_json(plan.folder.foreseen(key), {"missing": "someone/model-8b: its configuration is not on this machine"})
    told = "\n".join(cost_lines(put_together(plan, tmp_path, now=0.0, notes=["the probe failed"])))
    assert "Memory per GPU: unknown (see below)" in told
    assert told.count("its configuration is not on this machine") == 1
    assert "  the probe failed" in told


def test_a_base_install_says_what_it_lacks(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda _: None)
    assert "pip install 'tunestudy[train]'" in str(foresee_missing(plan, "cuda"))


def test_the_card_of_this_machine_is_taken_where_none_is_stated(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.replace("gpu_memory_gb: 16, ", ""))
    study = load_study(path).study
    here = [{"index": 1, "uuid": "GPU-x", "name": "A100", "memory_bytes": 40 * 10**9}]
    monkeypatch.setattr(card, "visible_gpus", lambda: ["1"])
    monkeypatch.setattr(card, "gpus", lambda: here)
    assert card_of(study).words == "A100, 40.0 GB"
    monkeypatch.setattr(card, "visible_gpus", list)
    assert card_of(study).device == "cpu"


@pytest.mark.slow
def test_a_worker_counts_all_stages_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    shape = "hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2"
    tokenizer = '{type: characters, alphabet: "0123456789abcdefg="}'
    model = f"model: {{architecture: llama, config: {{{shape}}}, tokenizer: {tokenizer}}}"
    path.write_text(STUDY.replace("model: {model_name_or_path: someone/model-8b}", model))
    made = make_plan(load_study(path), tmp_path / "results")
    assert foresee_missing(made, "cuda") is None
    assert [entry.suffix for entry in made.folder.cache.iterdir() if entry.name.startswith("foresee-")] == [".json"]
    found = put_together(made, tmp_path, now=0.0).as_json()["stages"][0]
    assert found["fits"] == "yes"
    assert found["memory"]["terms_bytes"]["activations"] > 0
