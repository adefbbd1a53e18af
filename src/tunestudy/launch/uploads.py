"""The process that pushes to the hub, beside the jobs of a run: started with them, waited for at the end."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tunestudy.config.job import Job
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import StudyDir
from tunestudy.records.stop import StopRequest
from tunestudy.share.work import items, targets_as_text
from tunestudy.study.sharing import Target, pushed_by_itself, targets_of

MODULE = "tunestudy.share.drain"
POLL_S = 0.1


@contextmanager
def uploading(
    jobs: Sequence[Job], study: StudyDir, *, env: Mapping[str, str], wait_s: float, stop: StopRequest, quiet: bool
) -> Iterator[None]:
    """Push what these jobs leave meanwhile. At the end wait for the rest, but not for a hub that fails, nor longer than
    `wait_s`; then say what waits. Nothing of it changes how the run ends.
    """
    targets = targets_of(pushed_by_itself(jobs), study.root.name)
    process = start_uploader(targets, study, env) if targets else None
    try:
        yield
    finally:
        if process is not None and process.stdin is not None:
            process.stdin.close()  # which tells it that no more jobs will end
            if not stop:
                wait_for_uploads(process, study, wait_s, stop, quiet=quiet)
            for line in what_waits(targets, study):
                print(line, flush=True)


def start_uploader(
    targets: Sequence[Target], study: StudyDir, env: Mapping[str, str]
) -> subprocess.Popen[bytes] | None:
    """The uploader in a session of its own, so that Ctrl-C at a run does not end it; None when it cannot start."""
    study.root.mkdir(parents=True, exist_ok=True)
    try:
        with open(study.push_log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(study.root)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env, "CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(targets_as_text(targets).encode() + b"\n")
        process.stdin.flush()
    except OSError as error:
        print(f"the uploader cannot be started: {error}; `tunestudy push` pushes later", flush=True)
        return None
    return process


def wait_for_uploads(
    process: subprocess.Popen[bytes], study: StudyDir, wait_s: float, stop: StopRequest, *, quiet: bool
) -> None:
    """Until the uploader has ended, the hub fails, it has been long enough, or the user wants to leave."""
    began, told = time.monotonic(), quiet
    while process.poll() is None and not stop and time.monotonic() - began < wait_s:
        state = read_object(study.push_state)
        mine = state.get("pid") == process.pid
        if mine and state.get("failing_since") is not None:
            return
        if mine and state.get("doing") and not told:
            print(f"waiting for uploads to the hub, {state['left']} left (Ctrl-C leaves them to go on)", flush=True)
            told = True
        time.sleep(POLL_S)


def what_waits(targets: Sequence[Target], study: StudyDir) -> Iterator[str]:
    """What is not on the hub yet, and why."""
    left = [str(item) for item in items(study, targets, unscored=True)]
    state = read_object(study.push_state)
    refused = state.get("refused") or {}
    if left:
        why = next((refused[one] for one in left if one in refused), str(state.get("error") or ""))
        yield f"{len(left)} to push to the hub: {', '.join(left[:3])}{' …' if len(left) > 3 else ''}" + (
            f" ({why})" if why else ""
        )
        yield "   they are kept and wait: `tunestudy push STUDY` pushes them and says how it goes"
