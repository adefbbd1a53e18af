"""What mkdocs does not do by itself for the book (`make docs`): named as a hook in mkdocs.yml.

Pages link to files of the repository as they lie there, so that links hold on GitHub. Here those files become pages, or
are shown as code, and links are turned to them. The study file reference and the index of decisions are written.
"""

import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from reference import reference  # noqa: E402

PAGES = {
    "README.md": "index.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/decisions": "decisions/index.md",
    "docs/studies": "studies/index.md",
    "docs": "index.md",
    "studies": "studies/index.md",
    "src/tunestudy/config": "reference.md",
}
"""Files and folders of the repository → the pages that they are in the book."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".txt": "text", ".js": "js", ".toml": "toml"}
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_CODE = re.compile(r"^( *`{3,}).*?^\1 *$|(?<!`)(`+)(?!`).+?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)
"""Fenced blocks, and code inside of lines."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write out entries of `nav:` that stand for all pages of a folder."""
    config.nav = [_spread(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files."""
    made = {
        "reference.md": reference(),
        "decisions/index.md": _decisions(),
        **{f"assets/{file.name}": file.read_text(encoding="utf-8") for file in (ROOT / "tools/book").iterdir()},
    }
    made |= {PAGES[path]: (ROOT / path).read_text(encoding="utf-8") for path in PAGES if path.endswith(".md")}
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    for path in sorted(_shown(made)):
        files.append(File.generated(config, _uri(path), content=_as_code(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links to files of the repository to what they are in the book."""
    here = page.file.src_uri

    def turned(target: str) -> str:
        path, mark, fragment = target.partition("#")
        found = _in_repository(_source(here), path)
        return posixpath.relpath(_uri(found), posixpath.dirname(here) or ".") + mark + fragment if found else target

    return _with_links(markdown, turned)


def _spread(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _spread(below) for title, below in entry.items()}
    if isinstance(entry, list):
        return [one for below in entry for one in _pages(below)]
    return entry


def _pages(entry: Any) -> list[Any]:
    """The pages that `folder/*.md` stands for, without the folder's index."""
    if not (isinstance(entry, str) and "*" in entry):
        return [_spread(entry)]
    docs = ROOT / "docs"
    return [path.relative_to(docs).as_posix() for path in sorted(docs.glob(entry)) if path.name != "index.md"]


def _decisions() -> str:
    """A table of the decision records, by their titles."""
    rows = []
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        rows.append(f"| {path.stem[:4]} | [{re.sub(r'^[0-9]+[.:]? *', '', title)}]({path.name}) |\n")
    head = "Choices that are hard to undo, and why they were made."
    return f"# Decisions\n\n{head}\n\n| | |\n|---|---|\n{''.join(rows)}"


def _shown(made: dict[str, str]) -> set[str]:
    """Files outside of docs/ that some page links to, and that are no pages."""
    texts = {_source(uri): text for uri, text in made.items() if uri.endswith(".md")}
    for path in (ROOT / "docs").rglob("*.md"):
        texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    found = {_in_repository(source, target) for source, text in texts.items() for target in _targets(text)}
    return {path for path in found if path and _uri(path).startswith("files/")}


def _as_code(path: str) -> str:
    file = ROOT / path
    if file.is_dir():
        names = (f"- `{one.relative_to(ROOT)}`" for one in sorted(file.rglob("*.*")) if "__pycache__" not in one.parts)
        return f"# {path}\n\n" + "\n".join(names)
    return f"# {path}\n\n`````{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text(encoding='utf-8')}\n`````\n"


def _source(uri: str) -> str:
    """Where a page of the book lies in the repository."""
    return next((path for path, page in PAGES.items() if page == uri and path.endswith(".md")), f"docs/{uri}")


def _uri(path: str) -> str:
    """What a path of the repository is in the book."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}.md"


def _in_repository(source: str, target: str) -> str | None:
    """The path that a link from `source` leads to; None for one that leads elsewhere, or nowhere."""
    if not target or ":" in target or target.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _with_links(markdown: str, turned: Callable[[str], str]) -> str:
    """Markdown with the targets of its links replaced; code stays as it is."""
    parts = []
    end = 0
    for link in _links(markdown):
        parts += [markdown[end : link.start()], turned(link[0])]
        end = link.end()
    return "".join([*parts, markdown[end:]])


def _targets(markdown: str) -> Iterator[str]:
    """What its links lead to, without anchors."""
    return (link[0].partition("#")[0] for link in _links(markdown))


def _links(markdown: str) -> Iterator[re.Match[str]]:
    """Targets of links outside of code."""
    code = [found.span() for found in _CODE.finditer(markdown)]
    for link in _LINK.finditer(markdown):
        if not any(start < link.start() < end for start, end in code):
            yield link
