"""One subset as a folder of links."""

from pathlib import Path

from tunestudy.data.hub.view import folder_of

CARD = """---
configs:
- {config_name: a, data_files: a.jsonl}
- {config_name: b, data_files: b.jsonl}
---
"""


def snapshot(cache: Path) -> Path:
    folder = cache / "datasets--org--data" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}')
    return folder


def test_links_follow_the_hubs_cache_to_where_it_is_now(tmp_path: Path) -> None:
    first, moved = snapshot(tmp_path / "first"), snapshot(tmp_path / "moved")
    view = folder_of(first, "a", tmp_path / "views")
    assert sorted(file.name for file in view.iterdir()) == ["README.md", "a.jsonl"]
    (first / "a.jsonl").unlink()
    assert folder_of(moved, "a", tmp_path / "views") == view
    assert (view / "a.jsonl").read_text() == '{"text": "a"}' and len(list(view.iterdir())) == 2
