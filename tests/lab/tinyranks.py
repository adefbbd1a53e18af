"""Starting a tiny job under torchrun with several ranks, and waiting for it to get somewhere."""

import json
import os
import subprocess
import time

from tunestudy.launch.torchrun import torchrun_command
from tunestudy.records.layout import JobDir

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(folder: JobDir, ranks: int = 2) -> subprocess.Popen[bytes]:
    return subprocess.Popen(torchrun_command(folder, ranks), env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def wait_for_step(folder: JobDir, process: subprocess.Popen[bytes], step: int) -> None:
    """Until the job has taken `step` steps in this attempt, or is over."""
    while process.poll() is None:
        told = json.loads(folder.progress_json.read_text()) if folder.progress_json.is_file() else {}
        if told.get("phase") in ("train", "evaluate", "save") and (told.get("step") or 0) >= step:
            return
        time.sleep(0.05)
