"""What the chosen executor does not read is said; what it reads is not."""

import pytest

from tunestudy.config.resources import Resources
from tunestudy.study.unread import unread_warnings

SLURM = {"executor": "slurm"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**SLURM, "gpus": 4, "slots": 2}, "resources: gpus, slots limit nothing"),
        ({**SLURM, "gpus": 4, "slurm": {"mode": "allocation"}}, ""),
        ({**SLURM, "slurm": {"partition": "gpu"}}, ""),
        ({"executor": "ray", "share_gpus": "auto"}, "give a number"),
        ({"slurm": {"partition": "gpu"}}, "did you forget executor: slurm?"),
        ({"executor": "local", "slurm": {"partition": "gpu"}}, ""),
        ({"gpus": 4, "share_gpus": "auto"}, ""),
    ],
)
def test_what_changes_nothing_is_said(settings, words):
    told = list(unread_warnings(Resources.model_validate(settings)))
    assert len(told) == bool(words) and words in "".join(told)
