"""When experiments ran, how long they took, and how long they were expected to take."""

import pytest

from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect
from tunestudy.report.tracking import experiments, whole_study


def test_truth_against_what_was_expected(sparse: StudyDir) -> None:
    facts = collect(sparse)
    found = {one.variant: one for one in experiments(facts)}
    assert list(found) == list(facts.variants)
    for name, one in found.items():
        jobs = [job for job in facts.jobs if name in job.variants]
        trainings = [job.training for job in jobs if job.training]
        assert (one.finished, one.jobs) == (10, 10)
        assert one.took_s == pytest.approx(sum(t.duration_s or 0 for t in trainings))
        assert one.start == min(t.started_at for t in trainings)
        assert one.end == max(t.finished_at for t in trainings)
        assert one.folder == f"trials/{name}"
        if name == "dora":
            assert one.expected_s is None
            assert one.off_by_text == "—"
        else:
            assert one.expected_s == pytest.approx(10 * 13.0)
            assert one.off_by == pytest.approx(one.took_s / 130 - 1)
    total = whole_study(facts)
    assert total.jobs == len(facts.jobs)
    assert total.took_s < sum(one.took_s or 0 for one in found.values()), "a shared stage counts once"


def test_nothing_expected_and_nothing_done(finished: StudyDir, half: StudyDir) -> None:
    assert all(one.expected_s is None and one.took_s for one in experiments(collect(finished)))
    assert {one.off_by_text for one in experiments(collect(half))} == {"—"}


def test_it_is_in_the_page_and_the_document(sparse: StudyDir) -> None:
    assert 'id="experiments"' in (sparse.report / "index.html").read_text()
    document = sparse.experiment_md.read_text()
    assert "### Experiments" in document
    assert "| sora\\_lambda0.3 | 10 of 10 | 2026-" in document
    assert "`trials/sora_lambda0.3`" in document
