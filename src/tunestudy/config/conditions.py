"""Conditions on a number, as `report.require` has them: `>= 0.7`."""

import operator
import re
from collections.abc import Callable

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
_CONDITION = re.compile(r"\s*(>=|<=|==|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


def condition_in(text: str) -> Callable[[float], bool]:
    """Whether a number fulfils the condition. ValueError, with what to write, for a text that is none."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no condition; write one like ">= 0.7"')
    compare, bound = _OPERATORS[match[1]], float(match[2])
    return lambda value: bool(compare(value, bound))
