"""Reads the `.wandb` file of an offline run: a LevelDB log of protocol buffers."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES = 7
BLOCK_BYTES = 32 * 1024
WHOLE, LAST = 1, 4


def files_in(job: Path) -> list[Path]:
    """The files of a job's offline runs in the order in which they were begun.

    Their folders' names tell it: W&B's own process may write a run's last bytes after the next one has begun.
    """
    return sorted(job.glob("trackers/wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)


def is_ended(path: Path, patience_s: float = 60.0) -> bool:
    """Whether the run's last record is there, after a while if need be: W&B's own process writes it."""
    give_up = time.monotonic() + patience_s
    while not (ended := "exit" in [record.WhichOneof("record_type") for record in records(path)]):
        if time.monotonic() > give_up:
            break
        time.sleep(0.1)
    return ended


def history(path: Path) -> list[dict[str, Any]]:
    """Logged rows in the order in which they were logged; `_step` is the step."""
    return [_items(record.history.item) for record in records(path) if record.WhichOneof("record_type") == "history"]


def summary(path: Path) -> dict[str, Any]:
    """What stands beside the curves."""
    told: dict[str, Any] = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "summary":
            told |= _items(record.summary.update)
    return told


def run_of(path: Path) -> Any:
    """The run's own record: run_id, display_name, run_group, tags, notes, project, config."""
    kinds = [record.WhichOneof("record_type") for record in records(path)]
    assert "run" in kinds, f"{path} ({path.stat().st_size} bytes) holds {kinds} alone"
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


def records(path: Path) -> Iterator[Any]:
    """Each record; the torn one at the end of a killed run is left out."""
    from wandb.proto.wandb_internal_pb2 import Record

    for data in _payloads(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        yield record


def _payloads(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, begun = HEADER_BYTES, b""
    while place + HEADER_BYTES <= len(data):
        left_in_block = BLOCK_BYTES - place % BLOCK_BYTES
        if left_in_block < HEADER_BYTES:
            place += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += HEADER_BYTES
        if kind == 0 or place + length > len(data):
            return
        begun += data[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            yield begun
            begun = b""


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
