"""Kill a study at random instants and at every kind of durable step, run it again, and compare with a quiet run.

    OMP_NUM_THREADS=1 python benchmarks/kills.py [--random 20] [--points NAME … | all | none] [--random-steps 300]

Random kills hit launcher, torchrun and ranks together (SIGKILL to the whole tree). A kill at a point hits one process
just before its n-th fsync, manifest, rename, prune or append, found by `tests/lab/killpoints`. After every kill
`tunestudy run` is simply called again. The weights, every logged value that does not depend on the clock, and the
benchmark's answers must then equal those of the quiet run, bit for bit. Exit status 1 if one does not.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

LAB = Path(__file__).parents[1] / "tests" / "lab"
sys.path.insert(0, str(LAB))

STUDY = """\
study: kills
seeds: [1]
model:
  architecture: qwen3
  config: {{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4,
           num_key_value_heads: 2, head_dim: 8, max_position_embeddings: 128, tie_word_embeddings: true}}
  tokenizer: {{type: characters, alphabet: "abcdefghij =?"}}
datasets:
  first: {{path: first.jsonl, held_out: 0.2}}
  second: {{path: second.jsonl}}
benchmarks:
  reversal: {{type: exact_match, dataset: first@held_out, limit: 8, max_new_tokens: 8}}
stages:
  adapt:
    data: [{{dataset: first, weight: 1}}, {{dataset: second, weight: 1}}]
    max_length: 48
    packing: true
    adapter: {{type: lora, lora_r: 4, lora_alpha: 8, lora_dropout: 0.2}}
    learning_rate: 5.0e-3
    neftune_noise_alpha: 5
    effective_batch_size: 4
    gradient_accumulation_steps: 2
    max_steps: {steps}
    logging_steps: 3
    eval_steps: 10
    save_steps: 4
    full_save_steps: 8
    log_gradients: true
    load_best_model_at_end: true
variants:
  tuned: {{stages: [adapt]}}
resources: {{slots: 1, ranks: {ranks}, max_retries: 0}}
"""

POINT_STEPS = 60
"""The n of each point below counts in a run of this length."""

WORKER, LAUNCHER = "-u -m tunestudy.worker", "tunestudy run"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One durable step of one process: the n-th event whose path contains a text."""

    process: str
    event: str
    path: str
    at: int = 1

    def environment(self) -> dict[str, str]:
        return {
            "KILL_PROCESS": self.process,
            "KILL_EVENTS": self.event,
            "KILL_PATH": self.path,
            "KILL_AT": str(self.at),
        }


POINTS = {
    "writer: fsync of weights": Point(process=WORKER, event="tunestudy.fsync", path="adapter_model", at=3),
    "writer: fsync of optimiser": Point(process=WORKER, event="tunestudy.fsync", path="optimizer", at=2),
    "writer: manifest": Point(process=WORKER, event="tunestudy.manifest", path="checkpoint-", at=4),
    "writer: publish": Point(process=WORKER, event="tunestudy.publish", path="checkpoint-", at=5),
    "writer: rename of checkpoint": Point(process=WORKER, event="os.rename", path="checkpoint-", at=6),
    "writer: rename of pointer last": Point(process=WORKER, event="os.rename", path=".tmp-last", at=3),
    "writer: rename of pointer best": Point(process=WORKER, event="os.rename", path=".tmp-best", at=2),
    "writer: prune": Point(process=WORKER, event="tunestudy.prune", path="checkpoint-", at=2),
    "writer: rename to trash": Point(process=WORKER, event="os.rename", path=".trash-checkpoint", at=1),
    "trainer: append to loss log": Point(process=WORKER, event="tunestudy.append", path="loss_log", at=9),
    "trainer: append to eval log": Point(process=WORKER, event="tunestudy.append", path="eval_log", at=3),
    "trainer: rename of base weights": Point(process=WORKER, event="os.rename", path="cache/models"),
    "trainer: manifest of data": Point(process=WORKER, event="tunestudy.manifest", path="cache/data"),
    "trainer: fsync of history": Point(process=WORKER, event="tunestudy.fsync", path="training_history", at=3),
    "trainer: manifest of result": Point(process=WORKER, event="tunestudy.manifest", path="/model"),
    "trainer: publish of result": Point(process=WORKER, event="tunestudy.publish", path="/model"),
    "trainer: last prune": Point(process=WORKER, event="tunestudy.prune", path="checkpoint-", at=17),
    "trainer: rename of result.json": Point(process=WORKER, event="os.rename", path="result.json"),
    "trainer: rename of score": Point(process=WORKER, event="os.rename", path="eval/reversal.json"),
    "progress: rename": Point(process=WORKER, event="os.rename", path="progress.json", at=2),
    "launcher: rename of plan": Point(process=LAUNCHER, event="os.rename", path="plan.json"),
    "launcher: rename of job.json": Point(process=LAUNCHER, event="os.rename", path="job.json"),
    "launcher: link of claim": Point(process=LAUNCHER, event="os.link", path="claim"),
    "launcher: append, run started": Point(process=LAUNCHER, event="tunestudy.append", path="events", at=1),
    "launcher: append, job started": Point(process=LAUNCHER, event="tunestudy.append", path="events", at=2),
    "launcher: append, job finished": Point(process=LAUNCHER, event="tunestudy.append", path="events", at=3),
}


class Lab:
    """Studies in folders of their own below `root`, all of the same file and data."""

    def __init__(self, root: Path, *, steps: int, ranks: int) -> None:
        from tinyjob import records

        root.mkdir()
        self._root = root
        self.steps, self.ranks = steps, ranks
        self._text = STUDY.format(steps=steps, ranks=ranks)
        self._records = {name: records(60, number) for number, name in enumerate(("first", "second"))}

    def new(self, name: str) -> Path:
        """A fresh folder with the study and its data."""
        folder = self._root / name
        folder.mkdir()
        (folder / "kills.yaml").write_text(self._text, encoding="utf-8")
        for source, text in self._records.items():
            (folder / f"{source}.jsonl").write_text(text, encoding="utf-8")
        return folder


def start(folder: Path, extra: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`tunestudy run` in the background."""
    program = Path(sys.executable).with_name("tunestudy")
    path = os.pathsep.join(filter(None, [str(LAB / "killpoints"), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(extra or {})}
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, program, "run", "kills.yaml"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def run_to_the_end(folder: Path) -> int:
    """Call `run` once more; its exit code."""
    return start(folder).wait(timeout=600)


def quiet_run(lab: Lab) -> tuple[float, dict[str, Any]]:
    """Seconds and outcome of a study that nobody disturbs."""
    folder = lab.new("quiet")
    began = time.monotonic()
    if code := run_to_the_end(folder):
        sys.exit(f"the quiet run failed with {code}:\n{(folder / 'output.txt').read_text(encoding='utf-8')}")
    duration_s = time.monotonic() - began
    print(f"quiet run: {duration_s:.1f} s, {lab.steps} steps on {lab.ranks} rank(s)")
    print(f"{'killed at':<34} {'the job stood at':<28} after running again", flush=True)
    return duration_s, outcome(folder)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a launcher and everything below it, before anyone can react."""
    tree = [psutil.Process(process.pid)]
    tree += tree[0].children(recursive=True)
    for member in tree:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(tree, timeout=10)


def outcome(folder: Path) -> dict[str, Any]:
    """All that must not depend on the clock or on kills."""
    from tinyjob import facts_of

    from tunestudy.records.layout import StudyDir

    study = StudyDir(folder / "results" / "kills")
    (job,) = [study.job(path.name) for path in study.jobs.iterdir()]
    score = json.loads(job.eval_json("reversal").read_text(encoding="utf-8"))
    score.pop("duration_s")
    return {**facts_of(job), "score": score, "answers": job.predictions("reversal").read_text(encoding="utf-8")}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Which parts differ, in words."""
    parts = [name for name in expected if found.get(name) != expected[name]]
    return "identical" if not parts else f"DIFFERS in {', '.join(parts)}"


def is_done(folder: Path) -> bool:
    return any((folder / "results" / "kills" / "jobs").glob("*/eval/reversal.json"))


def progress_of(folder: Path) -> str:
    """Where the job stood when it was killed."""
    for path in (folder / "results" / "kills" / "jobs").glob("*/progress.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        return f"{told['phase']}, step {told['step']}"
    return "before the job"


def kill_at_points(lab: Lab, names: list[str], expected: Mapping[str, Any]) -> list[str]:
    """One study per point: killed there, then run to the end."""
    verdicts = []
    for number, name in enumerate(names):
        folder = lab.new(f"point-{number}")
        log = folder / "events.txt"
        start(folder, {**POINTS[name].environment(), "KILL_LOG": str(log)}).wait(timeout=600)
        reached = log.is_file() and len(log.read_text(encoding="utf-8").splitlines()) >= POINTS[name].at
        where = progress_of(folder)
        code = run_to_the_end(folder)
        verdict = differences(outcome(folder), expected) if code == 0 else f"FAILED with {code}"
        verdicts.append(verdict if reached else f"NOT REACHED ({verdict})")
        print(f"{name:<34} {where:<28} {verdicts[-1]}", flush=True)
    return verdicts


def kill_at_random(lab: Lab, kills: int, duration_s: float, expected: Mapping[str, Any]) -> list[str]:
    """One study killed again and again at random instants; when it gets through, the next one."""
    instants = random.Random(0)
    verdicts: list[str] = []
    folder = lab.new("random-0")
    for number in range(1, kills + 1):
        if is_done(folder):
            folder = lab.new(f"random-{number}")
        process = start(folder)
        try:
            process.wait(timeout=instants.uniform(0.1, duration_s))
        except subprocess.TimeoutExpired:
            kill_tree(process)
        where = progress_of(folder)
        last = number == kills or is_done(folder)
        code = run_to_the_end(folder) if last else 0
        verdict = f"FAILED with {code}" if code else differences(outcome(folder), expected) if last else "goes on"
        verdicts.append(verdict)
        print(f"{f'random kill {number}':<34} {where:<28} {verdict}", flush=True)
    return [verdict for verdict in verdicts if verdict != "goes on"]


def main() -> int:
    """Run, kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=20, help="kills at random instants")
    parser.add_argument("--points", nargs="*", default=["all"], help="names of points, `all` or `none`")
    parser.add_argument("--steps", type=int, default=POINT_STEPS, help="of the studies that are killed at points")
    parser.add_argument("--random-steps", type=int, default=300, help="of those killed at random: mostly in training")
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    chosen = {"all": list(POINTS), "none": []}.get(" ".join(arguments.points), arguments.points)
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        verdicts: list[str] = []
        if chosen:
            lab = Lab(Path(root) / "points", steps=arguments.steps, ranks=arguments.ranks)
            duration_s, expected = quiet_run(lab)
            verdicts += kill_at_points(lab, chosen, expected)
        if arguments.random:
            if not chosen or arguments.random_steps != arguments.steps:
                lab = Lab(Path(root) / "random", steps=arguments.random_steps, ranks=arguments.ranks)
                duration_s, expected = quiet_run(lab)
            verdicts += kill_at_random(lab, arguments.random, duration_s, expected)
    same = sum(verdict == "identical" for verdict in verdicts)
    print(f"{len(chosen) + arguments.random} kills, {len(verdicts)} comparisons, {same} identical")
    return int(same < len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
