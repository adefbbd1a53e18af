"""Stands in for `python -m tunestudy.worker JOB_DIR`: the same files and leases, no torch.

`<study>/behaviour.json` maps a job's stage to what it does: {steps, step_s, at, action, times}. From step `at` on and
for the first `times` starts, `action` is one of raise, user, oom, nan, disk (failures that a worker tells), sigkill,
mute (sleeps before its first sign of life), hang (deaf to SIGTERM), freeze (suspended), preempt (asked to leave, with
SLURM's word), cry (prints and exits).
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.logs import write_output_to
from tunestudy.records.stop import StopRequest

ATTEMPT = int(os.environ["TUNESTUDY_ATTEMPT"])


def main() -> int:
    folder = JobDir(Path(sys.argv[1]))
    stop = StopRequest.on_signals(signal.SIGTERM)
    try:
        with Lease.acquire(folder.lease) as lease:
            write_output_to(folder.rank_log(0))
            return work(folder, stop, lease)
    except LeaseHeldError as held:
        print(held)
        return 1


def work(folder: JobDir, stop: StopRequest, lease: Lease) -> int:
    job = json.loads(folder.job_json.read_text())
    plan = (read_json(folder.study.root / "behaviour.json") or {}).get(job["stage"], {})
    starts = folder.root / "starts"
    starts.mkdir(exist_ok=True)
    (starts / f"{time.time():.6f}-{os.getpid()}").write_text(json.dumps(dict(os.environ)))
    state = read_json(folder.root / "state.json") or {"step": 0, "value": ""}
    acts = len(list(starts.iterdir())) <= plan.get("times", 10**9) and "action" in plan
    if acts and plan["action"] == "mute":
        print("importing something large", flush=True)
        time.sleep(600)
    for step in range(state["step"] + 1, plan.get("steps", 3) + 1):
        tell(folder, "train", step - 1, plan.get("steps", 3))
        if acts and step >= plan.get("at", 1):
            act(plan["action"], folder, step)
        time.sleep(plan.get("step_s", 0.0))
        value = hashlib.sha256(f"{state['value']}/{job['seed']}/{step}".encode()).hexdigest()
        state = {"step": step, "value": value}
        with open(folder.root / "steps.txt", "a") as file:
            file.write(f"{step}\n")
        write_json(folder.root / "state.json", state)
        if stop:
            tell(folder, "interrupted", step, plan.get("steps", 3))
            return 75
    assert lease.still_mine()
    write_json(folder.result_json, {"fingerprint": job["fingerprint"], "status": "done", "value": state["value"]})
    for name, evaluation in job["evaluations"].items():
        write_json(folder.eval_json(name), {"fingerprint": evaluation["fingerprint"]})
    tell(folder, "done", state["step"], plan.get("steps", 3))
    return 0


def act(action: str, folder: JobDir, step: int) -> None:
    if action == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder.root / "hangs").touch()
        time.sleep(600)
    elif action == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "preempt":
        os.write(1, b"slurmstepd: error: *** STEP 3.0 ON n1 CANCELLED AT 2026 DUE TO PREEMPTION ***\n")
        tell(folder, "interrupted", step - 1, 0)
        sys.exit(75)
    elif action == "cry":
        os.write(1, f"ModuleNotFoundError: no module {os.environ.get('SAID')}\n".encode())  # as C libraries do
        sys.exit(3)
    else:
        kind = "error" if action == "raise" else action
        told = {"kind": kind, "phase": "train", "message": f"{action} at {step}", "where": "", "rank": 0, "step": step}
        write_json(folder.failure_json, {"t": time.time(), "attempt": ATTEMPT, **told})
        sys.exit(1)


def tell(folder: JobDir, phase: str, step: int, total: int) -> None:
    facts = {"attempt": ATTEMPT, "pid": os.getpid(), "step": step, "total_steps": total, "loss": 1 / (step + 1)}
    write_json(folder.progress_json, {"t": time.time(), "phase": phase, **facts})


if __name__ == "__main__":
    sys.exit(main())
