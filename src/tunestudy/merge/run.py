"""A job that merges, from its inputs to its published result."""

from tunestudy.config.job import Job
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest


def run_merge(job: Job, folder: JobDir, stop: StopRequest) -> bool:
    """Merge and publish `model/` and result.json; False, with nothing published, when asked to stop on the way."""
    raise NotImplementedError
