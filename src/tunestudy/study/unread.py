"""Keys of `resources:` that the chosen executor does not read: said, so that nobody relies on a limit that is none."""

from collections.abc import Iterator

from tunestudy.config.resources import RaySettings, Resources, SlurmSettings


def unread_warnings(resources: Resources) -> Iterator[str]:
    """One line for what was set and changes nothing."""
    if resources.executor == "slurm" and resources.slurm.mode == "jobs":
        names = ("gpus", "slots", "share_gpus")
        set_here = [key for key in names if getattr(resources, key) != Resources.model_fields[key].default]
        if set_here:
            cure = "slurm.max_submitted limits what is in the queue, slurm.mode: allocation packs jobs itself"
            yield f"resources: {', '.join(set_here)} limit nothing where SLURM places every job by itself; {cure}"
    elif resources.executor == "ray" and resources.share_gpus == "auto":
        yield "resources.share_gpus: auto means one job on a GPU with Ray; give a number"
    if "executor" in resources.model_fields_set:
        return
    for name, empty in (("slurm", SlurmSettings()), ("ray", RaySettings())):
        if getattr(resources, name) != empty:
            yield f"resources.{name} is not read: jobs run on this machine; did you forget executor: {name}?"
