"""A wide area between network namespaces: every frame is late, and no host sends faster than its line.

    python wan.py RATE_MBIT DELAY_MS PID …

gives each process's network a device `wan0` and switches frames between them until it is ended. Each host's line is a
queue: a frame leaves when those before it are gone, at RATE_MBIT, and arrives DELAY_MS later. Stands in for `tc netem`,
which kernels without that module lack; `tbf` shapes a rate, and nothing else delays.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, TAP_WITHOUT_HEADER = 0x400454CA, 0x1002
"""linux/if_tun.h: IFF_TAP | IFF_NO_PI."""
CLONE_NEWNET = 0x40000000
MTU = 9000
QUEUE_S = 0.5
"""A line's buffer: frames that would wait longer are dropped, as a router does, and TCP slows down."""


def open_tap(pid: int) -> int:
    """A device `wan0` in the network of a process; frames are read from and written to the returned descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    _enter(libc, there)
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"wan0", TAP_WITHOUT_HEADER))
        subprocess.run(["ip", "link", "set", "wan0", "up", "mtu", str(MTU), "txqueuelen", "100"], check=True)
    finally:
        _enter(libc, home)
    return device


def _enter(libc: ctypes.CDLL, space: int) -> None:
    if libc.setns(space, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def switch(devices: list[int], bytes_per_s: float, delay_s: float) -> None:
    """Carry frames between the devices for ever."""
    free = dict.fromkeys(devices, 0.0)
    places: dict[bytes, int] = {}
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, device, frame = heapq.heappop(waiting)
            with contextlib.suppress(BlockingIOError):  # a full device drops frames, as any does
                os.write(device, frame)
        timeout = max(0.0, waiting[0][0] - now) if waiting else 1.0
        ready, _, _ = select.select(devices, [], [], timeout)
        for device in ready:
            frame = os.read(device, MTU + 100)
            now = time.monotonic()
            places[frame[6:12]] = device
            start = max(now, free[device])
            if start - now > QUEUE_S:
                continue
            free[device] = start + len(frame) / bytes_per_s
            known = places.get(frame[:6])
            for other in [known] if known not in (None, device) else [d for d in devices if d != device]:
                number += 1
                heapq.heappush(waiting, (free[device] + delay_s, number, other, frame))


if __name__ == "__main__":
    rate, delay, *pids = sys.argv[1:]
    taps = [open_tap(int(pid)) for pid in pids]
    print("ready", flush=True)
    switch(taps, float(rate) * 1e6 / 8, float(delay) / 1e3)
