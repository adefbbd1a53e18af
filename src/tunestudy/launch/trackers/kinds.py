"""The trackers there are, each behind the same three calls. Their packages are imported when a run is opened."""

import contextvars
import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

from tunestudy.config.trackers import Tracker
from tunestudy.launch.trackers.about import About
from tunestudy.launch.trackers.steps import Values


class OpenRun(Protocol):
    """A run that takes values."""

    def log(self, step: int, values: Values) -> None:
        """Steps come in order, each once."""

    def close(self, step: int, summary: Mapping[str, Any]) -> None:
        """Hand over what is still here; `summary` stands beside the curves, whose last step is `step`."""


def open_run(tracker: Tracker, about: About) -> OpenRun:
    """The job's run, the same one as before when it has one already."""
    if tracker == "wandb":
        return WandbRun(about)
    return TrackioRun(about) if tracker == "trackio" else TensorboardRun(about)


def project_from_environment(tracker: Tracker) -> str:
    """Where no project is set."""
    return os.environ.get({"wandb": "WANDB_PROJECT", "trackio": "TRACKIO_PROJECT"}.get(tracker, ""), "")


class WandbRun:
    """W&B. `WANDB_MODE`, `WANDB_BASE_URL`, `WANDB_DIR` and the like are its own affair; offline runs lie in the job's
    `trackers/wandb/`. Nothing but what is logged is sent: no console output, code, git state or machine figures."""

    def __init__(self, about: About) -> None:
        import wandb

        settings = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True)
        folder = None if os.environ.get("WANDB_DIR") else str(about.folder.trackers)
        self._run = wandb.init(
            id=about.run_id,
            resume="allow",
            reinit="create_new",
            project=about.project,
            entity=about.entity,
            name=about.name,
            group=about.group,
            tags=about.tags,
            notes=about.notes,
            config=dict(about.config),
            dir=folder,
            settings=settings,
        )

    def log(self, step: int, values: Values) -> None:
        self._run.log(values, step=step)

    def close(self, step: int, summary: Mapping[str, Any]) -> None:  # noqa: ARG002 - it keeps summaries apart
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=1 if "failure" in summary else 0)


class TrackioRun:
    """trackio: a data base in `TRACKIO_DIR`, or the place that `TRACKIO_SPACE_ID` names."""

    def __init__(self, about: About) -> None:
        import trackio

        # trackio tells runs of a project apart by their names alone
        name = f"{about.name} {about.run_id}"
        config = {**about.config, "tags": list(about.tags), "notes": about.notes}
        quiet = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}
        named = {"project": about.project, "name": name, "group": about.group, "config": config}
        alone = contextvars.Context()  # in a context where another run is open it would end that one
        self._run = alone.run(lambda: trackio.init(**named, resume="allow", **quiet))

    def log(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def close(self, step: int, summary: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        if numbers:  # it has no summaries: they stand after the last step
            self._run.log(numbers, step=step + 1)
        self._run.finish()


class TensorboardRun:
    """TensorBoard's event files in the job's `tensorboard/`; a resumed job adds a file."""

    def __init__(self, about: About) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(about.folder.tensorboard))

    def log(self, step: int, values: Values) -> None:
        scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars))
        self._writer.add_event(event)
        self._writer.flush()  # which a thread of its own writes: what counts as told outlives a kill

    def close(self, step: int, summary: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
        if numbers:
            self.log(max(0, step), numbers)
        self._writer.close()
