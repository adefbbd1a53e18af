"""Files of ours that someone else changed."""

from pathlib import Path

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import read_json


@pytest.mark.parametrize("content", [b"", b"{half", b"\xff\xfe{}"])
def test_a_damaged_file_is_told_with_its_cure(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "jobs" / "adapt-1" / "result.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(StudyError, match="delete it and run again") as caught:
        read_json(file)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    assert str(caught.value).startswith("jobs/adapt-1/result.json: ")
