"""The book: it builds without a warning, needs no network, and every link in it leads somewhere; on GitHub, too."""

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tunestudy.config.stage import TrainStage

ROOT = Path(__file__).resolve().parent.parent
MADE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md"]
CODE = re.compile(r"^( *`{3,}).*?^\1 *$|(?<!`)(`+)(?!`).+?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    return [*(ROOT / name for name in MADE), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_hold_on_github(page: Path) -> None:
    broken = [target for target in links_of(page) if not leads_somewhere(page, target)]
    assert not broken


def links_of(page: Path) -> list[str]:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in target]


def leads_somewhere(page: Path, target: str) -> bool:
    path, anchor = urldefrag(target)
    file = (page.parent / path).resolve() if path else page
    return file.exists() and (not anchor or anchor in headings(file))


@cache
def headings(page: Path) -> frozenset[str]:
    """Anchors as GitHub makes them: lower case, spaces as hyphens, without punctuation."""
    text = re.sub(r"^( *`{3,}).*?^\1 *$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found)


class Page(HTMLParser):
    """What a built page names: its anchors, where it leads, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
        elif tag in ("link", "script", "img", "iframe"):
            self.loads += [
                given[name] for name in ("href", "src") if given.get(name) and given.get("rel") != "canonical"
            ]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    env = {"NO_MKDOCS_2_WARNING": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return site


@pytest.fixture(scope="module")
def built(book: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in book.rglob("*.html") if path.name != "404.html"}


@pytest.mark.slow
def test_links_hold_in_the_book(book: Path, built: dict[Path, Page]) -> None:
    broken = [
        f"{path.relative_to(book)}: {href}"
        for path, page in built.items()
        for href in page.leads
        if not holds(path, href, built)
    ]
    assert not broken


def holds(path: Path, href: str, built: dict[Path, Page]) -> bool:
    if re.match(r"[a-z]+:", href):
        return True
    target, anchor = urldefrag(unquote(href))
    file = (path.parent / target).resolve() if target else path
    if file.is_dir():
        file = file / "index.html"
    return file.is_file() and (not anchor or file not in built or anchor in built[file].ids)


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(built: dict[Path, Page]) -> None:
    assert not [url for page in built.values() for url in page.loads if re.match(r"(https?:)?//", url)]


@pytest.mark.slow
def test_the_reference_has_every_key(book: Path, built: dict[Path, Page]) -> None:
    anchors = built[book / "reference.html"].ids
    assert {f"stage-settings.{key}" for key in TrainStage.model_fields if key not in OF_MERGES_TOO} <= anchors
    assert {"datasets", "variants", "file-seeds", "sharing-settings.push_to_hub", "slurm-settings.partition"} <= anchors


OF_MERGES_TOO = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision")
"""Keys that have a table of their own."""


@pytest.mark.slow
def test_files_of_the_repository_are_pages(book: Path, built: dict[Path, Page]) -> None:
    assert "sdora" in (book / "files/studies/adapter_sparsity.yaml.html").read_text(encoding="utf-8")
    assert "0003-paired-tests.html" in built[book / "decisions/index.html"].leads
