"""Puts this folder on the path, so that tests can import `studies`; makes results folders once for all readers."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from evaluations import make_evaluated
from merging import make_merging
from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report

HALF = Recipe(
    name="half-done",
    failed=(("full", 2),),
    pending=(("lora_r16", 2), ("lora_r16", 3)),
    running=(("lora_r4", 3),),
    unscored=(("lora_r4", 1),),
    overlap=4,
    benchmarks=("digits", "other_digits"),
)


SPARSE = Recipe(
    name="adapter_sparsity",
    description="How much of an adapter can be pruned before it shows?",
    accuracy={
        "lora": 0.936,
        "dora": 0.941,
        "sora_lambda0.1": 0.934,
        "sora_lambda0.3": 0.929,
        "sora_lambda0.5": 0.902,
        "sdora_lambda0.3": 0.938,
    },
    descriptions={},
    gated={"sora_lambda0.1": 0.25, "sora_lambda0.3": 0.5, "sora_lambda0.5": 0.75, "sdora_lambda0.3": 0.5},
    seeds=(1, 2, 3, 4, 5),
    flat=True,
    expected_s=13.0,
    unforeseen=("dora",),
)


@pytest.fixture(scope="session")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> StudyDir:
    """A finished study of adapters, four of them with gates; not to be changed."""
    study_dir = make_study(tmp_path_factory.mktemp("sparse"), SPARSE)
    build_report(study_dir)
    return study_dir


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyDir:
    """A finished study with its report; not to be changed."""
    recipe = Recipe(overfits=("full",), retried=(("lora_r4", 2),))
    study_dir = make_study(tmp_path_factory.mktemp("finished"), recipe)
    build_report(study_dir)
    return study_dir


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> StudyDir:
    """A study half-way, one job failed and one running, with its report; not to be changed."""
    study_dir = make_study(tmp_path_factory.mktemp("half"), HALF)
    build_report(study_dir)
    return study_dir


@pytest.fixture(scope="session")
def vision(tmp_path_factory: pytest.TempPathFactory) -> StudyDir:
    """Four variants at three seeds on circular, fractional, pictured and plain benchmarks; not to be changed."""
    study_dir = make_evaluated(tmp_path_factory.mktemp("vision"))
    build_report(study_dir)
    return study_dir


@pytest.fixture(scope="session")
def merging(tmp_path_factory: pytest.TempPathFactory) -> StudyDir:
    """A finished study that merges two languages, and mixes them; not to be changed."""
    study_dir = make_merging(tmp_path_factory.mktemp("merging"))
    build_report(study_dir)
    return study_dir
