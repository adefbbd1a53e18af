"""What a worker is asked beside training: the job that a question is about, and its ranks for as long as it takes."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tunestudy.config.job import Job
from tunestudy.records.atomic import read_json
from tunestudy.records.hub_cache import stay_offline
from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress
from tunestudy.records.stop import StopRequest
from tunestudy.train.run import Task
from tunestudy.train.world import open_world


def job_in(folder: JobDir) -> Job:
    """The job of a folder. From here on this process asks the hub nothing where everything it reads is locked."""
    job = Job.model_validate(read_json(folder.job_json))
    if job.offline:
        stay_offline()
    return job


@contextmanager
def opened_task(folder: JobDir, *, tells: bool) -> Iterator[Task]:
    """A stage that trains, as a task of this rank. tells: rank 0 writes progress.json."""
    job = job_in(folder)
    assert job.training is not None, "only a stage that trains has steps"
    stop = StopRequest.on_signals(signal.SIGTERM, signal.SIGINT)
    with open_world() as world:
        progress = Progress(folder, writes=tells and world.rank == 0)
        try:
            yield Task(job=job, settings=job.training, folder=folder, world=world, stop=stop, progress=progress)
        finally:
            progress.close()
