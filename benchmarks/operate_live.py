"""What is counted of a stage's memory, beside what lives in a real step and what the process takes for it.

    python benchmarks/operate_live.py

The five jobs of operate_estimates.py on a CPU, each in a process of its own. Counted: by `train/foresee.py`, before
anything is loaded. Alive, in the third step: weights, the optimiser's state, and of the step itself storages that
operations made and somebody held, at most, with the loss's buffers: activations, logits and gradients. Grown: by how
much the process was larger at its peak than before the first step, over all that was alive and was not there before it.
Limit: 10 % between counted and alive, of all. What a process grows beyond what lives is the C library's.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT = 0.10
TERMS = ("weights", "optimizer", "step", "all")


def measured(name: str, root: Path) -> dict[str, Any]:
    """Bytes by term, counted and alive, of one job, in this process."""
    import torch
    from operate_estimates import ALL

    from tunestudy.launch.estimates.alone import alone
    from tunestudy.records.atomic import write_json
    from tunestudy.records.layout import JobDir
    from tunestudy.study.estimates.memory import counted_terms
    from tunestudy.study.load import load_study
    from tunestudy.study.plan import make_plan
    from tunestudy.train.foresee import foresee

    study = root / "study.yaml"
    study.write_text("study: live\n" + ALL[name].replace("STEPS", "60"))
    plan = make_plan(load_study(study), root)
    job, folder = alone(plan, plan.jobs[0].job), JobDir(root / "job")
    write_json(folder.job_json, job.model_dump(mode="json"))
    found = foresee(job, folder, ranks=1, device=torch.device("cpu"))
    alive, tokens, grown = in_steps(job, folder)
    terms = counted_terms(found, tokens)
    counted = {
        "weights": terms["frozen"] + terms["trainable"],
        "optimizer": terms["optimizer"],
        "step": terms["gradients"] + terms["activations"] + terms["logits"],
    }
    share = grown / (alive["optimizer"] + alive["step"])
    for sizes in (alive, counted):
        sizes["all"] = sum(sizes.values())
    return {"tokens": tokens, "counted": counted, "alive": alive, "grown": share}


def in_steps(job: Any, folder: Any) -> tuple[dict[str, float], int, float]:
    """What is alive in the third step, its tokens, and by how many bytes the process grew in two."""
    import psutil
    import torch

    from tunestudy.records.progress import Progress
    from tunestudy.records.stop import StopRequest
    from tunestudy.records.untrained import MEBIBYTE, peak_of_process_mb
    from tunestudy.train.loop import take_step
    from tunestudy.train.pretend import LiveBytes
    from tunestudy.train.probe import StepSizes, open_run
    from tunestudy.train.run import Task
    from tunestudy.train.world import open_world

    with open_world() as world:
        progress, stop = Progress(folder, writes=False), StopRequest()
        run = open_run(Task(job=job, settings=job.training, folder=folder, world=world, stop=stop, progress=progress))
        run.learner.engine.train(True)
        before = psutil.Process().memory_info().rss
        for _ in range(2):
            take_step(run)
        grown = peak_of_process_mb() * MEBIBYTE - before
        weights = {id(t): t for t in [*run.learner.model.parameters(), *run.learner.model.buffers()]}.values()
        states = [s for state in run.learner.optimizer.state.values() for s in state.values() if torch.is_tensor(s)]
        with LiveBytes([*weights, *states]) as live:
            take_step(run)
        tokens = StepSizes.of(run, range(2, 3)).largest
        scratch = sum(held.nbytes for held in run.learner.engine._loss_model._scratch.buffers.values())
        progress.close()
        run.close()
    alive = {
        "weights": sum(weight.nbytes for weight in weights),
        "optimizer": sum(state.nbytes for state in states),
        "step": live.peak + scratch,
    }
    return alive, tokens, grown


def main() -> int:
    """Print the table; 1 when a term is beyond its limit."""
    if len(sys.argv) == 3:
        print("result: " + json.dumps(measured(sys.argv[1], Path(sys.argv[2]))))
        return 0
    from operate_estimates import FRESH, STUDIES

    print(f"MiB, counted / alive; limit {LIMIT:.0%}\n")
    print(f"{'job':<13}{'tokens':>7}" + "".join(f"{term:>22}" for term in TERMS) + f"{'grown':>8}")
    missed = 0
    for name in {**STUDIES, **FRESH}:
        with tempfile.TemporaryDirectory() as root:
            done = subprocess.run([sys.executable, __file__, name, root], capture_output=True, text=True, check=False)
        line = next((line for line in done.stdout.splitlines() if line.startswith("result: ")), None)
        if line is None:
            sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
        row = json.loads(line.removeprefix("result: "))
        cells = ""
        for term in TERMS:
            ours, truth = row["counted"][term], row["alive"][term]
            off = ours / truth - 1
            missed += term == "all" and abs(off) > LIMIT
            cells += f"{f'{ours / 2**20:.1f} / {truth / 2**20:.1f}':>15}{off:>+7.1%}"
        print(f"{name:<13}{row['tokens']:>7}{cells}{row['grown']:>7.2f}x", flush=True)
    print(f"\n{missed} jobs beyond {LIMIT:.0%}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
