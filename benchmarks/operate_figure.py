"""One measured figure beside its limit: what every part of operate.py yields."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`value` must not be above `limit`; None: told for information."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool:
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{self.limit:g}"
        verdict = "" if self.limit is None else "met" if self.is_met else "MISSED"
        return f"{self.name:58}{self.value:10.3f} {self.unit:7}{limit:>7}  {verdict:7}{self.note}"
