"""Use, memory and power of the GPUs: what gpu.csv is made of."""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tunestudy.train.sampling import Look

COLUMNS = ("t", "device", "utilisation_percent", "memory_mb", "power_w")
MEBIBYTE = 2**20


def gpu_look() -> Look | None:
    """What samples every GPU of this machine that the job may see; None where there is none."""
    nvml = _open_nvml()
    return None if nvml is None else partial(samples, nvml)


def samples(nvml: Any) -> list[dict[str, float | int | None]]:
    """A row of gpu.csv for each of them."""
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [sample(nvml, _nvml_index(nvml, properties)) for properties in devices]


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
