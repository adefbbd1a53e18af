"""The memory that a rank may fill."""

from dataclasses import dataclass

import psutil

from tunestudy.config.study import Study
from tunestudy.launch.local import visible_gpus
from tunestudy.records.snapshot import gpus


@dataclass(frozen=True, kw_only=True)
class Card:
    """The memory that a rank may fill."""

    device: str
    """`cuda` or `cpu`."""
    bytes: float | None
    """None: unknown."""
    words: str

    def as_json(self) -> dict[str, object]:
        return {"device": self.device, "bytes": self.bytes, "name": self.words}


def card_of(study: Study) -> Card:
    """What the study states, else the first GPU that it may use here, else this machine's memory."""
    stated = study.estimate.gpu_memory_gb
    if stated is not None:
        return Card(device="cuda", bytes=stated * 1e9, words=f"a card of {stated:g} GB, as the study states")
    visible = visible_gpus()
    if visible:
        here = next((gpu for gpu in gpus() if visible[0] in (str(gpu["index"]), gpu["uuid"])), None)
        size = None if here is None else here["memory_bytes"]
        name = "an unknown GPU" if here is None else str(here["name"])
        return Card(device="cuda", bytes=size, words=name + (f", {size / 1e9:.1f} GB" if size else ""))
    if study.resources.gpus:
        return Card(device="cuda", bytes=None, words="GPUs that are not here (estimate.gpu_memory_gb states theirs)")
    size = psutil.virtual_memory().total
    return Card(device="cpu", bytes=float(size), words=f"this machine's memory, {size / 1e9:.1f} GB (no GPU here)")
