"""Parts of one model on several devices of one process: accelerate's dispatch, by a map of modules or by size."""

from collections.abc import Mapping
from typing import Any

from tunestudy.config.errors import StudyError, at
from tunestudy.models.decoder import blocks_of

Placement = str | Mapping[str, int | str]
"""`auto`, `balanced`, `balanced_low_0` or `sequential`, or module → device, as transformers' `device_map`."""


def place(model: Any, device_map: Placement) -> Any:
    """The model with every part on its device; what goes into a part is moved there when it is called.

    Blocks stay whole. StudyError where the map names no module, leaves one out, or a device that is not there.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import check_device_map, get_balanced_memory

    places: dict[str, int | str]
    if isinstance(device_map, str):
        whole = sorted({type(block).__name__ for block in blocks_of(model)})
        limits = None
        if device_map != "sequential":
            low_zero = device_map == "balanced_low_0"
            limits = get_balanced_memory(model, no_split_module_classes=whole, low_zero=low_zero)
        places = infer_auto_device_map(model, max_memory=limits, no_split_module_classes=whole)
    else:
        places = dict(device_map)
    _check(model, places)
    try:
        check_device_map(model, places)
        return dispatch_model(model, places, force_hooks=True)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise StudyError(at("device_map"), str(error).splitlines()[0]) from error


def _check(model: Any, places: Mapping[str, int | str]) -> None:
    known = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    unknown = [name for name in places if name not in known]
    if unknown:
        raise StudyError(at("device_map"), f"{type(model).__name__} has no module {unknown[0]}")
    left = [name for name, device in places.items() if device == "disk" or device == "cpu"]
    if left and len(set(places.values())) > 1:
        raise StudyError(
            at("device_map"),
            f"{', '.join(left[:3])} would stay off the GPUs, where accelerate keeps weights that cannot learn; "
            "give more GPUs, or use engine: fsdp2 with cpu_offload",
        )
