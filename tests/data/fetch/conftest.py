"""The server of `tests/lab/badweb.py`, and a study's folder to fetch into."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from badweb import Fetcher, Server

from tunestudy.data.sources import Folders
from tunestudy.records.layout import StudyDir


@pytest.fixture(scope="session")
def running_server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running_server: Server) -> Server:
    """The server, with its counts at zero."""
    running_server.seen.clear()
    running_server.hosts.clear()
    running_server.most_under_way = 0
    return running_server


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    study = StudyDir(tmp_path / "results" / "study")
    return Fetcher(Folders(tmp_path, study.cache), study)
