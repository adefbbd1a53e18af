"""The lines that make hosts equal: packages that came from files, and hosts that answer in another encoding."""

import json
import subprocess
from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.launch.setup_hosts import from_files, packages, run


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages as pip leaves them when they come from a wheel that is kept, one that is gone, and elsewhere."""
    kept = tmp_path / "my wheels" / "ours-1.0-py3-none-any.whl"
    kept.parent.mkdir()
    kept.touch()
    told = {
        "ours": {"url": kept.as_uri(), "archive_info": {}},
        "numpies": {"url": "file:///croot/numpies_1689/work/dist/numpies-2.1-py3-none-any.whl", "archive_info": {}},
        "here": {"url": tmp_path.as_uri(), "dir_info": {"editable": True}},
        "public": {"url": "https://example.org/public.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
        "plain": None,
    }
    site = tmp_path / "site"
    for name, origin in told.items():
        folder = site / f"{name}-2.1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
        if origin is not None:
            (folder / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(site))
    return kept


def test_packages_that_came_from_files_reach_a_host(installed: Path) -> None:
    found = {name: path for name, _, path in from_files()}
    assert found["ours"] == str(installed) and not {"here", "public", "plain"} & found.keys()
    copied, frozen = packages("h9", "python")
    assert f"'{str(installed).lstrip('/')}'" in copied and copied.startswith("tar -C / ")
    freeze, renamed, sent = frozen.split(" | ")
    assert freeze.startswith("python -m pip") and sent.startswith("ssh ") and "--no-deps" in sent
    listed = "plain==2.1\nnumpies @ file:///croot/numpies_1689/work/dist/numpies-2.1-py3-none-any.whl#sha256=0\n"
    said = subprocess.run(renamed, shell=True, input=listed, capture_output=True, text=True, check=True).stdout
    assert said == "plain==2.1\nnumpies==2.1\n"


def test_a_host_that_complains_in_another_encoding() -> None:
    with pytest.raises(StudyError, match="failed: no ro\ufffdm"):
        run("h9", [r"printf 'no ro\374m\n' >&2; exit 1"])
