"""What crosses a host's network while ranks of a job train, sampled by a thread into logs/network-<rank>.csv.

Bytes that InfiniBand carries go past the kernel's own counters, so its ports are read beside them.
"""

import threading
import time
from pathlib import Path
from typing import Self

from tunestudy.records.layout import JobDir
from tunestudy.records.tables import TableLog

COLUMNS = ("t", "interface", "sent_mbit_per_s", "received_mbit_per_s")
INFINIBAND = Path("/sys/class/infiniband")
WORD = 4
"""Bytes that InfiniBand's counters `port_xmit_data` and `port_rcv_data` count as one."""

Counters = dict[str, tuple[int, int]]
"""Interface → bytes sent and received since the machine started."""


class NetworkSampler:
    """A context in which a host's network is sampled; nothing for a job of one rank."""

    def __init__(self, folder: JobDir, *, rank: int, interval_s: float, enabled: bool) -> None:
        """enabled: on one rank per host."""
        self._path = folder.network_log(rank)
        self._interval_s = interval_s
        self._before, self._then = counters() if enabled else {}, time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_end, name="network", daemon=True) if enabled else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _sample_until_end(self) -> None:
        table = TableLog(self._path, COLUMNS)
        before, then, ended = self._before, self._then, False
        while not ended:
            ended = self._end.wait(self._interval_s)
            after, now = counters(), time.monotonic()
            for row in rates(before, after, now - then):
                table.append({"t": round(time.time(), 3), **row})
            before, then = after, now
        table.close()


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
