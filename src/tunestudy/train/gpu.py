"""Use, memory and power of the GPUs over time, sampled by a thread into gpu.csv."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from tunestudy.records.layout import JobDir
from tunestudy.records.tables import TableLog

COLUMNS = ("t", "device", "utilisation_percent", "memory_mb", "power_w")
MEBIBYTE = 2**20


class GpuSampler:
    """A context in which every GPU of this machine that the job may see is sampled; nothing where there is none."""

    def __init__(self, folder: JobDir, *, interval_s: float, enabled: bool) -> None:
        self._folder = folder
        self._interval_s = interval_s
        self._nvml = _open_nvml() if enabled else None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._nvml is not None:
            self._thread = threading.Thread(target=self._sample_until_end, name="gpu", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _sample_until_end(self) -> None:
        import torch

        indices = [
            _nvml_index(self._nvml, torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())
        ]
        table = TableLog(self._folder.gpu_log, COLUMNS)
        while True:
            for index in indices:
                table.append(sample(self._nvml, index))
            if self._end.wait(self._interval_s):
                table.close()
                return


def sample(nvml: Any, index: int) -> dict[str, float | int | None]:
    """One row of gpu.csv; a figure that the device does not give stays empty."""
    device = nvml.nvmlDeviceGetHandleByIndex(index)
    readings: dict[str, float | int | None] = {"t": round(time.time(), 3), "device": index}
    queries: dict[str, Callable[[], float | int]] = {
        "utilisation_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu,
        "memory_mb": lambda: round(nvml.nvmlDeviceGetMemoryInfo(device).used / MEBIBYTE, 1),
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000,
    }
    for name, query in queries.items():
        try:
            readings[name] = query()
        except nvml.NVMLError:
            readings[name] = None  # not every device has every sensor
    return readings


def _open_nvml() -> Any | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        import torch

        if torch.cuda.is_available():
            print(f"GPUs are not sampled: {error}", file=sys.stderr)
        return None
    return pynvml


def _nvml_index(nvml: Any, properties: Any) -> int:
    """NVML counts all devices of the machine, CUDA only the visible ones: they are matched by UUID."""
    handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
    return int(nvml.nvmlDeviceGetIndex(handle))
