"""What is told of a file that cannot be written."""

from pathlib import Path

import pytest

from tunestudy.records.space import told_of

ROOT = Path("/results/tiny")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, "no"),
        ("/results/tiny", "no"),
        ("/results/tiny/jobs/base/job.json", "jobs/base/job.json: no"),
        ("/results/tiny/jobs/base/claim/.tmp-000001.json-7", "jobs/base/claim: no"),
        ("/elsewhere/file", "/elsewhere/file: no"),
    ],
)
def test_the_file_is_named_as_seen_from_the_study(name, told):
    assert told_of(OSError(28, "no", name) if name else OSError(28, "no"), ROOT) == told
