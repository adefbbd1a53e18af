"""Shared by all tests: one thread per process, and no silent skips where CI promises real parts."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "lab"))  # tinyjob, tinyranks, hosts: helpers of several rooms

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REAL_PARTS = {
    "browser": ("chromium", "apt-get install chromium"),
    "compiler": ("c++", "apt-get install g++"),
    "slurm": ("slurmctld", "apt-get install slurm-wlm, as root"),
    "accounting": ("slurmdbd mariadbd", "apt-get install slurmdbd mariadb-server, as root"),
    "lab": ("sshd", "apt-get install openssh-server iproute2, as root"),
}
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose real part is missing here, but fail it where CI says that all parts are there."""
    for marker, (programs, cure) in REAL_PARTS.items():
        missing = [name for name in programs.split() if shutil.which(name, path=PATH) is None]
        if item.get_closest_marker(marker) and missing:
            reason = f"needs {', '.join(missing)}: {cure}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as playwright drives it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()
