"""Every study is carried out once for all tests that look at it."""

from collections.abc import Callable
from functools import cache

import pytest
from five import Finished, carry_out


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """By the name of its file."""
    return cache(lambda name: carry_out(name, tmp_path_factory.mktemp(name)))
