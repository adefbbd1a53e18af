"""Estimates stand beside what jobs took, by stage and term."""

import json
import shutil
from pathlib import Path

import pytest

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.foreseen import foreseen, foreseen_table


@pytest.fixture
def foretold(finished: StudyDir, tmp_path: Path) -> StudyDir:
    """A finished study of whose jobs everything was expected to take half of what it took."""
    copied = StudyDir(tmp_path / finished.root.name)
    shutil.copytree(finished.root, copied.root, symlinks=True)
    entries = {}
    for job in collect(copied).jobs:
        if job.training and job.training.steps:
            took = job.training
            terms = {"training": (took.train_s or 0) / 2, "evaluation": (took.eval_s or 0) / 2}
            entries[job.id] = {"terms_s": terms, "peak_memory_mb": (took.peak_memory_mb or 0) / 2}
    copied.estimates.write_text(json.dumps(entries))
    return copied


def test_every_term_that_was_foreseen_stands_beside_the_truth(foretold: StudyDir) -> None:
    rows = foreseen(collect(foretold))
    assert {row.what for row in rows} >= {"training", "peak memory"}
    assert {row.off_by_text for row in rows} == {"+100 %"}
    assert "checkpoints" not in {row.what for row in rows}, "nobody foresaw them"


def test_it_is_in_the_page_and_the_document(foretold: StudyDir) -> None:
    build_report(foretold)
    assert 'id="foreseen"' in (foretold.report / "index.html").read_text()
    assert "### Estimates against the truth" in foretold.experiment_md.read_text()


def test_without_estimates_there_is_no_table(finished: StudyDir) -> None:
    assert foreseen_table(collect(finished)) == ""
    assert 'id="foreseen"' not in (finished.report / "index.html").read_text()
