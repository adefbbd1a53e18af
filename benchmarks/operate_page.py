"""The live page and `status` on a study of 10,000 jobs with a million rows of logs, beside their limits.

    python benchmarks/operate_page.py [repetitions]

Builds the study's files in a temporary folder, serves it, and measures in Chromium: the time from asking for the page
until its grid of jobs is painted; the time of an update in which 20 jobs changed (server and page); and `status` as a
whole process. Exits with 1 when a median is above its limit. Needs Chromium and playwright.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from plan_speed import matrix_study, seconds

VARIANTS, SEEDS, ROWS = 499, 20, 150
LIMITS_S = {"first paint": 1.0, "update": 0.2, "status": 1.0}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]


def build(folder: Path) -> Path:
    """A study file and its results: two thirds done, 20 jobs interrupted, 20 failed, the rest waiting."""
    study = folder / "study.yaml"
    study.write_text(matrix_study(VARIANTS, SEEDS), encoding="utf-8")
    from tunestudy.launch.prepare import prepare
    from tunestudy.study.load import load_study
    from tunestudy.study.plan import make_plan

    loaded = load_study(study, ())
    plan = make_plan(loaded, folder / "results")
    prepare(loaded.study, study.read_bytes(), [planned.job for planned in plan.jobs], plan.as_json(), plan.folder)
    lines: list[dict[str, Any]] = []
    header = "epoch,step,train_loss,learning_rate,gpu_memory_mb,sparsity,grad_norm,tokens\n"
    log = header + "".join(f"{s / 10},{s * 2},{3 / (s + 1)},0.001,412.0,,0.5,{s * 512}\n" for s in range(ROWS))
    for place, planned in enumerate(plan.jobs):
        _write_job(plan.folder.job(planned.job.id), planned.job, place, len(plan.jobs), log, lines)
    plan.folder.events.mkdir(parents=True, exist_ok=True)
    (plan.folder.events / "bench-1-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return study


def _write_job(folder: Any, job: Any, place: int, of: int, log: str, lines: list[dict[str, Any]]) -> None:
    if place > of * 2 // 3 + 40:
        return
    folder.loss_log.write_text(log)
    start = 1.79e9 + place // 8 * 60
    about = {"job": job.id, "attempt": 1}
    lines.append({"t": start, "event": "job_started", **about, "slot": f"gpu{place % 8}", "world_size": 1, "pid": 1})
    if place <= of * 2 // 3:
        result = {"fingerprint": job.fingerprint, "status": "done", "steps": 200, "duration_s": 58.0}
        folder.result_json.write_text(json.dumps(result))
        folder.eval.mkdir()
        for name, evaluation in job.evaluations.items():
            score = {"benchmark": name, "fingerprint": evaluation.fingerprint, "primary": "accuracy", "n": 100}
            folder.eval_json(name).write_text(json.dumps({**score, "metrics": {"accuracy": 0.9}, "version": 1}))
        lines.append({"t": start + 58, "event": "job_finished", **about, "duration_s": 58.0})
    elif place % 2:
        folder.failure_json.write_text(json.dumps({"kind": "oom", "message": "out of memory", "step": 90}))
        lines.append({"t": start + 30, "event": "job_failed", **about, "kind": "oom", "message": "out of memory"})
    else:
        folder.progress_json.write_text(json.dumps({"phase": "train", "step": 90, "total_steps": 200}))


@contextmanager
def served(study_dir: Path) -> Iterator[str]:
    """The address of the page while it is served by a process of its own."""
    code = f"from pathlib import Path; from tunestudy.web.serve import serve; serve(Path({str(study_dir)!r}), port=0)"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait()


def in_browser(url: str, study_dir: Path, repetitions: int) -> dict[str, list[float]]:
    """Seconds by what was measured."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {"first paint": [], "update": [], "update, server": [], "curves of 8 variants": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        for _ in range(repetitions):
            page = context.new_page()
            start = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("#grid button.cell")
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            found["first paint"].append(time.perf_counter() - start)
            page.wait_for_selector('html[data-curves="drawn"]', timeout=120_000)
            found["update"].append(page.evaluate(UPDATE, _touch(study_dir)))
            page.close()
        page = context.new_page()
        page.goto(url)
        for _ in range(repetitions):
            version = page.evaluate("fetch('/data').then((a) => a.json()).then((told) => told.version)")
            _touch(study_dir)
            time.sleep(0.6)
            found["update, server"].append(page.evaluate(ASK, f"/data?since={version}"))
            found["curves of 8 variants"].append(page.evaluate(ASK, "/curves"))
        browser.close()
    return found


ASK = """async (address) => {
  const start = performance.now();
  await (await fetch(address)).json();
  return (performance.now() - start) / 1000;
}"""
UPDATE = """() => new Promise((done) => {
  // from the page's own request for what changed until that is painted
  const fetched = window.fetch;
  let start = 0;
  window.fetch = (...asked) => {
    if (String(asked[0]).startsWith("/data")) start = performance.now();
    return fetched(...asked);
  };
  const root = document.documentElement, before = root.dataset.version;
  new MutationObserver((_, watcher) => {
    if (root.dataset.version === before || !start) return;
    watcher.disconnect();
    window.fetch = fetched;
    requestAnimationFrame(() => done((performance.now() - start) / 1000));
  }).observe(root, { attributes: true, attributeFilter: ["data-version"] });
})"""


def _touch(study_dir: Path) -> int:
    """20 interrupted jobs go on by a step; returns how many."""
    jobs = [path for path in (study_dir / "jobs").iterdir() if (path / "progress.json").exists()][:20]
    for job in jobs:
        told = json.loads((job / "progress.json").read_text())
        temporary = job / "progress.tmp"
        temporary.write_text(json.dumps({**told, "step": told["step"] + 1}))
        temporary.replace(job / "progress.json")
    return len(jobs)


def main() -> int:
    """Measure and print the table."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, Python {platform.python_version()}, {date.today()}, {repetitions} repetitions\n")  # noqa: DTZ011
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = build(folder)
        study_dir = folder / "results" / "speed"
        jobs = len(json.loads((study_dir / "plan.json").read_text())["jobs"])
        rows = ROWS * len(list((study_dir / "jobs").glob("*/loss_log.csv")))
        print(f"{jobs:,} jobs, {rows:,} rows of loss_log.csv\n")
        tunestudy = str(Path(sys.executable).with_name("tunestudy"))
        command = [tunestudy, "status", str(study), "--results", str(folder / "results")]
        taken = [seconds(command) for _ in range(repetitions)]
        found = {"status": [wall for wall, _ in taken], "status, processor": [cpu for _, cpu in taken]}
        with served(study_dir) as url:
            found |= in_browser(url, study_dir, repetitions)
    print(f"{'what':24}{'min s':>8}{'median s':>10}{'limit s':>9}")
    for what, times in found.items():
        limit = LIMITS_S.get(what)
        print(f"{what:24}{min(times):8.3f}{statistics.median(times):10.3f}{'' if limit is None else f'{limit:9.2f}'}")
    return int(any(statistics.median(found[what]) > limit for what, limit in LIMITS_S.items()))


if __name__ == "__main__":
    sys.exit(main())
