"""The small form of a study has the jobs of the large one."""

import json

import pytest
from five import FIVE, STUDIES, shape_of, tunestudy


@pytest.mark.slow
@pytest.mark.parametrize("name", FIVE)
def test_full_and_tiny_are_isomorphic(tmp_path, name):
    full, tiny = (
        tunestudy("plan", STUDIES / f"{name}.yaml", *words, "--json", "--results", tmp_path)
        for words in ((), ("--tiny",))
    )
    assert full.returncode == 0, full.stderr
    assert tiny.returncode == 0, tiny.stderr
    assert shape_of(json.loads(full.stdout)) == shape_of(json.loads(tiny.stdout))
