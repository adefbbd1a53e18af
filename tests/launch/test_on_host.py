"""One host's part of a job on several: which of its GPUs it shows."""

import pytest

from tunestudy.launch.on_host import devices_dealt


@pytest.mark.parametrize(
    ("shown", "dealt", "seen"),
    [("4,5,6,7", "1,3", "5,7"), (None, "1,3", "1,3"), ("", "1", ""), ("4,5", "", "4,5"), (None, "", None)],
)
def test_a_job_sees_the_gpus_that_it_was_dealt(shown: str | None, dealt: str, seen: str | None) -> None:
    environment = {"TUNESTUDY_DEVICES": dealt} | ({} if shown is None else {"CUDA_VISIBLE_DEVICES": shown})
    found = devices_dealt(environment)
    assert found.get("CUDA_VISIBLE_DEVICES") == seen
    assert "TUNESTUDY_DEVICES" not in found
