"""Taking values out of files that anyone may have touched: the wrong type counts as not recorded."""

import math
from typing import Any


def mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def texts(value: object) -> list[str]:
    """A list of texts; anything else in it is shown as text too."""
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def number(value: object) -> float | None:
    """A finite number, from a number or from text as CSV holds it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        as_float = float(value)
    except (ValueError, OverflowError):
        return None
    return as_float if math.isfinite(as_float) else None


def whole(value: object) -> int | None:
    """A whole number; 3.0 counts, 3.5 does not."""
    as_float = number(value)
    return int(as_float) if as_float is not None and as_float.is_integer() else None


def numbers(value: object) -> dict[str, float]:
    """The entries of a mapping that are finite numbers."""
    return {str(name): known for name, entry in mapping(value).items() if (known := number(entry)) is not None}
