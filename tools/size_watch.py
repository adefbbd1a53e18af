"""Fails when a function passes 60 lines or a file 500: then its name is hiding two things.

Run it as `python tools/size_watch.py`; `make lint` does.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
ROOT = Path(__file__).resolve().parent.parent


def complaints(path: Path) -> Iterator[str]:
    """What is too long in one Python file."""
    source = path.read_text(encoding="utf-8")
    num_lines = source.count("\n")
    name = path.relative_to(ROOT)
    if num_lines > MAX_FILE_LINES:
        yield f"{name}: {num_lines} lines (at most {MAX_FILE_LINES})"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines (at most {MAX_FUNCTION_LINES})"


def main() -> int:
    folders = ["src", "tests", "benchmarks", "tools"]
    found = [text for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) for text in complaints(path)]
    print("\n".join(found) or "sizes: every function and file within its limit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
