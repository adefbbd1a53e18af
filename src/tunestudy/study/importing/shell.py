"""Enough of a shell to read published training scripts: quotes, continued lines, variables, sums. Nothing is run."""

import re
import shlex
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """One command: its words with their lines, and the variables set for it."""

    words: tuple[tuple[str, int], ...]
    env: dict[str, str] = field(default_factory=dict)


def commands_of(text: str) -> list[Command]:
    """The commands of a script, in order, variables put in; what cannot be computed stays as it is, with its `$`."""
    variables: dict[str, str] = {}
    exported: dict[str, str] = {}
    found: list[Command] = []
    for line, number in _logical_lines(text):
        for part in _parts(line):
            words = _words(part, variables)
            exports = bool(words) and words[0] == "export"
            words = words[1:] if exports else words
            env: dict[str, str] = {}
            while words and (assigned := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0], re.DOTALL)):
                env[assigned[1]] = assigned[2]
                words = words[1:]
            if words and not exports:
                of_words = tuple((word, number + _offset(text, number, word)) for word in words)
                found.append(Command(of_words, {**exported, **env}))
            else:
                variables |= env
                exported |= env if exports else {}
    return found


def _logical_lines(text: str) -> list[tuple[str, int]]:
    """Lines with continued ones joined, and the number of each one's first; comments left out."""
    joined: list[tuple[str, int]] = []
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.rstrip()
        if not pending and line.lstrip().startswith("#"):
            continue
        first = first if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        joined.append((pending + line, first))
        pending = ""
    return [*joined, (pending, first)] if pending else joined


def _parts(line: str) -> list[str]:
    """Commands that stand in one line, parted by `;` or `&&` outside of quotes."""
    return re.split(r"""\s*(?:&&|;)\s*(?=(?:[^"']|"[^"]*"|'[^']*')*$)""", line)


def _words(line: str, variables: dict[str, str]) -> list[str]:
    computed = _sums(_filled(line, variables))
    try:
        return shlex.split(computed, comments=True)
    except ValueError:
        return computed.split()


def _filled(line: str, variables: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name, default = found[1] or found[3], found[2]
        return variables.get(name, default if default is not None else found[0])

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)", value, line)


_TERMS = r"(\d+(?:\s*\\?[-+*/]\s*\d+)+)"
_SUM = re.compile(rf"\$\(\(\s*{_TERMS}\s*\)\)|[$`]\(?expr\s+{_TERMS}\s*[)`]")


def _sums(line: str) -> str:
    """`$(expr 16 / 4)` and `$((16 / 4))` as the number that they are, from left to right."""

    def result(found: re.Match[str]) -> str:
        total, *rest = re.findall(r"\d+|[-+*/]", found[1] or found[2])
        amount = int(total)
        for sign, term in zip(rest[::2], map(int, rest[1::2]), strict=True):
            if sign == "/" and term == 0:
                return found[0]
            amount = {"+": amount + term, "-": amount - term, "*": amount * term}.get(sign, amount // max(term, 1))
        return str(amount)

    return _SUM.sub(result, line)


def _offset(text: str, first: int, word: str) -> int:
    """How many lines below the command's first line a word stands."""
    lines = text.splitlines()[first - 1 :]
    for below, line in enumerate(lines):
        if word in line:
            return below
        if not line.rstrip().endswith("\\"):
            break
    return 0
