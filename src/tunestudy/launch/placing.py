"""Which place a study's jobs run at: this machine (or a hostfile's), or a Ray cluster."""

from tunestudy.launch.local import find_slots
from tunestudy.launch.place import Place, ThisMachine
from tunestudy.launch.ray.place import RayPlace
from tunestudy.launch.spread import command_for
from tunestudy.launch.torchrun import Command
from tunestudy.preflight.hosts import files_named
from tunestudy.study.load import LoadedStudy


def place_for(loaded: LoadedStudy, command: Command | None = None, *, smallest_mb: float | None = None) -> Place:
    """`command` starts one job on this machine (tests replace it); `smallest_mb`: memory of the smallest job, where it
    is known, for jobs that share a GPU.

    Raises StudyError where not even one job fits; a cluster is asked only when its `slots` are.
    """
    resources, base = loaded.study.resources, loaded.path.parent
    if resources.executor == "ray" and command is None:
        return RayPlace(resources, files_named(loaded))
    return ThisMachine(find_slots(resources, smallest_mb=smallest_mb), command or command_for(resources, base))
