"""What crosses a host's network while ranks of a job train: what logs/network-<rank>.csv is made of.

Bytes that InfiniBand carries go past the kernel's own counters, so its ports are read beside them.
"""

import time
from pathlib import Path

COLUMNS = ("t", "interface", "sent_mbit_per_s", "received_mbit_per_s")
INFINIBAND = Path("/sys/class/infiniband")
WORD = 4
"""Bytes that InfiniBand's counters `port_xmit_data` and `port_rcv_data` count as one."""

Counters = dict[str, tuple[int, int]]
"""Interface → bytes sent and received since the machine started."""


class NetworkLook:
    """Rows of what went over the network since the last look, the first time since it was made."""

    def __init__(self) -> None:
        self._before, self._then = counters(), time.monotonic()

    def __call__(self) -> list[dict[str, str | float]]:
        after, now = counters(), time.monotonic()
        rows = rates(self._before, after, now - self._then)
        self._before, self._then = after, now
        return [{"t": round(time.time(), 3), **row} for row in rows]


def counters() -> Counters:
    """Bytes so far of every interface and InfiniBand port."""
    import psutil

    found = {name: (io.bytes_sent, io.bytes_recv) for name, io in psutil.net_io_counters(pernic=True).items()}
    for port in sorted(INFINIBAND.glob("*/ports/*/counters")):
        sent, received = (int((port / name).read_text()) for name in ("port_xmit_data", "port_rcv_data"))
        found[f"{port.parents[2].name}:{port.parent.name}"] = sent * WORD, received * WORD
    return found


def rates(before: Counters, after: Counters, seconds: float) -> list[dict[str, str | float]]:
    """Mbit/s of every interface over which anything went."""
    rows: list[dict[str, str | float]] = []
    for name in before.keys() & after.keys():
        sent, received = (later - earlier for later, earlier in zip(after[name], before[name], strict=True))
        if sent > 0 or received > 0:
            mbit = [round(8e-6 * count / seconds, 3) for count in (sent, received)]
            rows.append({"interface": name, "sent_mbit_per_s": mbit[0], "received_mbit_per_s": mbit[1]})
    return sorted(rows, key=lambda row: str(row["interface"]))
