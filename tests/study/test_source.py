"""YAML 1.2 with lines, the same from both parsers."""

import math
from pathlib import Path
from typing import Any

import pytest

from tunestudy.study import source
from tunestudy.study.source import parse_value, read_source, resolve_scalar

TEXTS = [
    "a: 1\nb:\n  - x\n  - {c: 1e-3, d: [on, yes, ~]}\n",
    "base: &b\n  x: 1\n  y: 2\nother:\n  <<: *b\n  y: 3\nlist: [*b, *b]\n",
    "text: |\n  two\n  lines\nfolded: >-\n  one\n  line\nquoted: '1'\ndouble: \"a\\tb\"\n",
    "---\na: 1 # comment\n...\n",
    "\ufeffa: é\n",
    "a: !!str 12\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_both_parsers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    assert source._libyaml_events(text.lstrip("\ufeff")) is not None
    fast = read_source(path)
    monkeypatch.setattr(source, "_libyaml_events", lambda _text: None)
    slow = read_source(path)
    assert fast.values == slow.values
    assert fast.lines == slow.lines


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e+3", 1000.0),
        (".5", 0.5),
        ("-7", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("True", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("-", "-"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("1e3x", "1e3x"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    assert resolve_scalar(text) == value
    assert type(resolve_scalar(text)) is type(value)


def test_lines_of_keys_and_items(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("a:\n  b:\n  - 1\n  - c: 2\n", encoding="utf-8")
    read = read_source(path)
    assert [read.line_of(where) for where in [("a",), ("a", "b", 0), ("a", "b", 1, "c"), ("a", "x", "y")]] == [
        1,
        3,
        4,
        1,
    ]


def test_merge_keys_give_way_to_what_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(TEXTS[1], encoding="utf-8")
    assert read_source(path).values["other"] == {"x": 1, "y": 3}


def test_values_of_the_command_line() -> None:
    assert parse_value("[1, 2]", "seeds") == [1, 2]
    assert parse_value("1e-4", "learning_rate") == 1e-4
    assert parse_value("", "max_grad_norm") is None
