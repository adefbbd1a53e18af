"""Seconds that a job takes more on a Ray cluster than as a process of this machine.

    python benchmarks/operate_ray.py [--jobs 5]      needs the extra `ray`

A head of one CPU is started here and ended again. The job is a Python that prints one line, so what differs is the
executor: placement group, keeper, the process between keeper and job, and the way back. Both ways run in turn, a few
seconds apart, as real jobs last longer than Ray needs to have its next worker ready. The first job is told apart.

Exit code 1: the limit is broken. Nothing is written but stdout.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from tunestudy.config.resources import Resources
from tunestudy.launch.local import find_slots
from tunestudy.launch.place import Place, ThisMachine
from tunestudy.launch.ray.place import RayPlace
from tunestudy.launch.torchrun import command_here, job_environment
from tunestudy.records.layout import JobDir

LIMIT_S = 2.0
PAUSE_S = 5.0
MODULE = "platform"
"""Prints a line and leaves."""


@contextmanager
def cluster(folder: str) -> Iterator[str]:
    """A head on this machine; its address."""
    port = 6391
    words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=1", "--object-store-memory=80000000"]
    words += [
        "--include-dashboard=false",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        f"--temp-dir={folder}",
    ]
    environment = {**os.environ, "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    ray = str(Path(sys.executable).with_name("ray"))
    head = subprocess.Popen([ray, *words], env=environment, stdout=subprocess.PIPE, text=True)
    assert head.stdout is not None
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.communicate()


def seconds(place: Place, folder: JobDir) -> float:
    """From the wish to start a job until its end is known."""
    slot = place.slots[0]
    began = time.perf_counter()
    running = place.start(folder, slot, job_environment({}, slot.environment, 1), folder.launch_log)
    while running.poll() is None:
        time.sleep(0.01)
    taken = time.perf_counter() - began
    assert running.poll() == 0, folder.launch_log.read_text()
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5)
    jobs = parser.parse_args().jobs
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory(prefix="ray") as temporary, cluster(temporary) as address:
        folder = JobDir(Path(temporary) / "job")
        folder.logs.mkdir(parents=True)
        folder.job_json.write_text("{}")
        local = ThisMachine(find_slots(Resources()), partial(command_here, module=MODULE))
        ray = RayPlace(Resources(executor="ray", ray={"address": address}), [], MODULE)  # type: ignore[arg-type]
        began = time.perf_counter()
        assert ray.slots
        joined = time.perf_counter() - began
        first = seconds(ray, folder)
        pairs = []
        for _ in range(jobs):
            time.sleep(PAUSE_S)
            pairs.append((seconds(local, folder), seconds(ray, folder)))
        ray.close()
    more = median(there - here for here, there in pairs)
    print(f"local {median(here for here, _ in pairs):.2f} s, Ray {median(there for _, there in pairs):.2f} s per job")
    print(f"joining the cluster, once per run: {joined:.1f} s; its first job: {first:.2f} s")
    print(f"Ray takes {more:.2f} s more per job (median of {jobs}); limit {LIMIT_S:g} s")
    return 0 if more <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
