"""What holds for all five studies once `run --tiny` has carried them out."""

import pytest
from five import FIVE, LEAST_STEPS

pytestmark = pytest.mark.study


@pytest.mark.parametrize("name", FIVE)
def test_every_job_is_done_and_the_report_is_there(finished, name):
    study = finished(name)
    assert study.jobs
    assert all((study.folder / "jobs" / one / "result.json").is_file() for one in study.jobs)
    assert (study.folder / "report" / "index.html").is_file()
    assert {row["variant"] for row in study.table()} == {
        variant for job in study.jobs.values() for variant in job.variants
    }


@pytest.mark.parametrize("name", FIVE)
def test_every_training_stage_learns(finished, name):
    study = finished(name)
    training = [job for job in study.jobs.values() if job.training is not None and not job.training.trains_nothing]
    learnt = {job.id: study.learnt(job) for job in training}
    assert learnt
    assert {one: told for one, told in learnt.items() if told.steps < LEAST_STEPS} == {}
    assert {one: told for one, told in learnt.items() if not told.last_loss < told.first_loss} == {}
