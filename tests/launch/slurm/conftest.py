"""A study for SLURM, whichever one answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_study import OnSlurm


@pytest.fixture
def on_slurm(tmp_path: Path) -> Callable[..., OnSlurm]:
    return lambda name="s", *, seeds=(1,), **settings: OnSlurm(tmp_path / name, seeds=list(seeds), **settings)
