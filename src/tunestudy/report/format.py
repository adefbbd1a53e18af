"""Numbers, times and lists as people read them. None is always an em dash."""

import time
from collections.abc import Sequence

MISSING = "—"


def sig(value: float | None) -> str:
    """A measured value: three decimals below 10, fewer above, scientific when tiny or huge."""
    if value is None:
        return MISSING
    value = to_ten_digits(value)
    size = abs(value)
    if size != 0 and (size < 5e-4 or size >= 1e6):
        return minus(f"{value:.2e}")
    digits = 3 if size < 10 else 2 if size < 100 else 1
    return minus(f"{value:.{digits}f}")


def to_ten_digits(value: float) -> float:
    """The value as results.csv holds it: rounding from there gives readers of both the same digits, 0.8375 or not."""
    return float(f"{value:.10g}")


def spread(low: float, high: float) -> float:
    """From one to the other; 0 when they differ by no more than rounding does."""
    return high - low if high - low > 1e-9 * max(abs(low), abs(high)) else 0.0


def signed(value: float | None) -> str:
    """Like `sig`, with a sign: for differences."""
    if value is None:
        return MISSING
    return sig(value) if value < 0 or value == 0 else f"+{sig(value)}"


def minus(text: str) -> str:
    """A true minus sign; negative zero is zero, also of per cent."""
    return text.lstrip("-") if text.startswith("-") and not text.strip("-0. %") else text.replace("-", "−")


def p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def count(value: float | None) -> str:
    """A number of things, with thousands separated."""
    return MISSING if value is None else f"{value:,.0f}"


def short_count(value: float | None) -> str:
    """12.3 k, 4.1 M, 7.6 B."""
    if value is None:
        return MISSING
    for least, size, unit in ((999.5e9, 1e12, "T"), (999.5e6, 1e9, "B"), (999.5e3, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:  # from there on three digits of the smaller unit would be four
            return f"{value / size:.3g} {unit}"
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds == 0:
        return "0 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def moment(unix_s: float | None) -> str:
    """A time in UTC, to the minute."""
    return MISSING if unix_s is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))


def memory_mb(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value / 1024:.1f} GiB" if value >= 1024 else f"{value:.0f} MiB"


def size(value: float | None) -> str:
    """Bytes with a binary unit."""
    if value is None:
        return MISSING
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >= 2**power:
            return f"{value / 2**power:.1f} {unit}"
    return f"{value:.0f} B"


def percent(share: float | None) -> str:
    return MISSING if share is None else minus(f"{share * 100:.1f} %")


def share(value: float | None) -> str:
    """A share of which it matters whether it is all or nothing: 99.97 % is not 100 %."""
    if value is None or value in (0, 1):
        return MISSING if value is None else f"{value:.0%}".replace("%", " %")
    return "< 0.1 %" if value < 0.001 else "> 99.9 %" if value > 0.999 else percent(value)


def plural(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def listing(items: Sequence[str], most: int = 8) -> str:
    """`a, b, c`, shortened when there are many."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def setting(value: object) -> str:
    """A configuration value on one line, YAML-like."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        said = {key: item for key, item in value.items() if item is not None}
        if list(said) == ["dataset"]:  # a part of a mixture that is nothing but its name
            return setting(said["dataset"])
        return "{" + ", ".join(f"{key}: {setting(item)}" for key, item in said.items()) + "}"
    if isinstance(value, list | tuple):
        items = [setting(item) for item in value]
        return items[0] if len(items) == 1 else f"[{', '.join(items)}]"
    return str(value)
