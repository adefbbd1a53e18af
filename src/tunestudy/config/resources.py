"""What a study may use of machines, and how it deals with what machines do to it. None of it changes a result."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from tunestudy.config.base import Config, neutral

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(min|[dhms])")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{2})(?::(\d{2}))?")


def seconds_of(value: object) -> object:
    """Seconds of a duration as people write it: `6h`, `1h30m`, `90m`, `2d 12h`, SLURM's `1-12:00:00`, or a number.

    `6:00` and `6:00:00` are hours; anything else is left for the number's own check to refuse.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return days * 86400.0 + hours * 3600.0 + minutes * 60.0 + seconds
    parts = _PART.findall(text)
    if parts and not _PART.sub("", text).strip():
        return sum(float(amount) * _UNITS_S[unit] for amount, unit in parts)
    raise ValueError("must be a duration such as 6h, 90m, 1h30m or 1-12:00:00, or a number of seconds")


LONGEST_S = 100 * 365 * 86400.0
"""A century: what is longer is a slip of the pen, and no calendar holds it."""
_WRITTEN: dict[str, Any] = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}
"""How a duration may be written, for editors."""
Duration = Annotated[float, BeforeValidator(seconds_of), Field(gt=0, le=LONGEST_S), WithJsonSchema(_WRITTEN)]
"""Seconds."""


def _one_word(value: str) -> str:
    if not value or value.split() != [value]:
        raise ValueError("is one word for sbatch: without spaces and new lines, of several with commas between")
    return value


Word = Annotated[str, AfterValidator(_one_word)]
"""As an option of sbatch takes it: a space or a new line would begin another."""


class Retries(Config):
    """How often a run starts a job again after a failure of each kind; it goes on from its last full checkpoint.

    Whatever is said here, a job that fails twice at the same step for the same cause is given up, unless that cause
    was the cluster (`preempted`, `node_lost`) or its micro-batch has become smaller meanwhile. docs/failures.md tells
    how each kind is recognised.
    """

    oom: int = neutral(3, ge=0)
    """Out of memory: each time with half the micro-batch at the same effective batch size."""
    killed: int = neutral(1, ge=0)
    """Ended by a signal that nobody of this study sent, or by a crash inside a native library."""
    node_lost: int = neutral(3, ge=0)
    """Its machine, or the connection to it, is gone."""
    nan: int = neutral(0, ge=0)
    """The loss is not a number any more."""
    hang: int = neutral(1, ge=0)
    """Ranks waited for another for `timeout_s`, the job showed no progress for one and a half times as long, or gave no
    first sign of life within `start_timeout_s`."""
    preempted: int = neutral(100, ge=0)
    """The cluster wanted the machine for someone else, or a time limit came."""
    disk: int = neutral(1, ge=0)
    """No space was left."""
    error: int = neutral(1, ge=0)
    """Anything else that is not the user's mistake."""
    wait_s: float = neutral(30.0, ge=0)
    """Pause before the first start after `node_lost` and `disk`, twice as long before each further one, up to ten
    minutes. Other jobs use the slot meanwhile."""


_OURS = frozenset(
    {"--job-name", "-J", "--comment", "--output", "-o", "--open-mode", "--signal", "--requeue", "--no-requeue"}
    | {"--array", "-a", "--dependency", "-d", "--wrap", "--nodes", "-N", "--ntasks-per-node", "--ntasks", "-n"}
)
"""Options of sbatch that have a key of their own here, or on which `status` and `stop` rely."""


class SlurmSettings(Config):
    """With `executor: slurm`: how jobs are handed to SLURM. sbatch's own spellings; docs/slurm.md shows the files."""

    mode: Literal["jobs", "allocation"] = neutral("jobs")
    """`jobs`: an sbatch file per job, with dependencies. `allocation`: one sbatch file for the whole study, which packs
    its jobs on the GPUs that it gets."""
    partition: Word | None = neutral(None)
    """Where submissions go; default: the cluster's own."""
    account: Word | None = neutral(None)
    """Whom the time is charged to."""
    qos: Word | None = neutral(None)
    """Quality of service."""
    constraint: Word | None = neutral(None)
    """Features that nodes must have."""
    exclude: Word | None = neutral(None)
    """Nodes that are not wanted, as sbatch writes them."""
    time: Duration | None = neutral(None)
    """Limit of one submission; what takes longer goes on in another (default: the partition's)."""
    nodes: int = neutral(1, ge=1)
    """Of one submission. `jobs`: with `launcher: srun` a job has `ranks` ÷ nodes of its ranks on each."""
    gpus_per_node: int | None = neutral(None, ge=0)
    """Default: what a job's ranks need there; in an allocation `resources.gpus` ÷ nodes; 0 where there are no GPUs."""
    cpus_per_task: int | None = neutral(None, ge=1)
    """Of a node: tunestudy is one task there. Default: `threads` for each rank that it holds."""
    mem: Word | None = neutral(None)
    """Per node, e.g. `120G`."""
    prologue: tuple[str, ...] = neutral(())
    """Lines of shell before the job: `module load …`, `conda activate …`."""
    wrap: str = neutral("")
    """Put before the command, e.g. `apptainer exec --nv image.sif`; it passes signals on, as apptainer and srun do."""
    python: str | None = neutral(None)
    """The Python of compute nodes, e.g. the one inside an image; default: the one that submits."""
    sbatch: tuple[str, ...] = neutral(())
    """More options, one `--option=value` each; they win over those above."""
    signal_s: float = neutral(300.0, ge=10)
    """How long before the limit jobs are told to save and leave."""
    requeue: bool = neutral(True)
    """Let SLURM queue a submission again that was preempted or lost its node."""
    max_submitted: int | None = neutral(None, ge=1)
    """Submissions of this study in the queue at a time; more are sent as they end."""
    array: bool = neutral(False)
    """`jobs`: send jobs that wait for the same ones as one array."""
    max_running: int | None = neutral(None, ge=1)
    """`array`: how many of an array run at a time."""

    @field_validator("sbatch")
    @classmethod
    def _options(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            if not re.fullmatch(r"--?[A-Za-z][\w-]*([= ].+)?", option):
                raise ValueError(f"`{option}` is no option of sbatch: --option=value, one in each line")
            if option.split("=")[0] in _OURS:
                raise ValueError(
                    f"{option.split('=')[0]} is set by tunestudy, which could not follow its jobs otherwise"
                )
        return options


class RaySettings(Config):
    """With `executor: ray` (extra `ray`): jobs as placement groups on a Ray cluster that runs already."""

    address: str = neutral("auto")
    """As `ray.init` takes it: `auto`, or `host:port` of its head. All machines see the results under the same path."""
    cpus_per_rank: float = neutral(1.0, gt=0)
    """Cores that Ray reserves for a rank."""
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = neutral("PACK")
    """How the ranks of one job lie over machines."""
    runtime_env: dict[str, str] = neutral({})
    """More environment variables on the cluster's machines."""

    @field_validator("address")
    @classmethod
    def _of_a_cluster(cls, address: str) -> str:
        if address == "local" or not address.strip():
            raise ValueError("name a cluster that runs: `auto` for this machine's, or `host:port` of its head")
        if "://" not in address and address != "auto" and not re.fullmatch(r"[^\s:]+:\d+", address):
            raise ValueError(f"`{address}` is not `auto` or `host:port`; the port of a head is 6379 by default")
        return address


class Resources(Config):
    """What jobs get on a machine or a cluster."""

    executor: Literal["local", "slurm", "ray"] = neutral("local")
    """Who places jobs: this program on this machine (or on a hostfile's, all for one job), SLURM, or Ray."""
    gpus: int | None = neutral(None, ge=1)
    """GPUs that the study may hold at a time; default: all that can be seen."""
    wall_clock: Duration | None = neutral(None)
    """The study should be through by then, evaluation included: `plan` says whether it can be, and what would have to
    give."""
    share_gpus: Annotated[int, Field(ge=1)] | Literal["auto"] = neutral(1)
    """Jobs on one GPU at a time; `auto`: as many as fit in its memory by what is known of them."""
    slots: Annotated[int, Field(ge=1)] | Literal["auto"] = neutral("auto")
    """Jobs at the same time. `auto`: GPUs ÷ ranks × `share_gpus`, without GPUs: cores ÷ (ranks × threads)."""
    ranks: int = neutral(1, ge=1)
    """Processes per job: one GPU (or CPU share) each."""
    gpus_per_rank: int = neutral(1, ge=1)
    """More than one for a stage's `device_map`, which spreads a rank's model over them."""
    hostfile: str | None = neutral(None)
    """Spread every job over these machines, reached by ssh: a file of lines `name slots=N`, relative to the study file.
    `ranks` is the sum of their slots then. All see the same files under the same paths."""
    launcher: Literal["ssh", "srun"] = neutral("ssh")
    """`srun`: spread every job over the nodes of the SLURM allocation that tunestudy runs in, `ranks` in all."""
    rendezvous_address: str | None = neutral(None)
    """Where ranks on several hosts meet; default: the first host."""
    rendezvous_port: int = neutral(29500, ge=1, le=65535)
    """The port at which they meet."""
    threads: int | None = neutral(None, ge=1)
    """OMP_NUM_THREADS of a rank; default: 1 on CPU slots."""
    retries: Retries = neutral(Retries())
    """Starts again, by kind of failure."""
    max_retries: int | None = neutral(None, ge=0)
    """Starts again at most, all kinds of failure together; default: as `retries` says."""
    timeout_s: float = neutral(300.0, gt=0)
    """A rank that others have waited for this long counts as lost, and the job as failed: it hangs."""
    start_timeout_s: float | None = neutral(None, gt=0)
    """How long a job's processes may run before their first sign of life, while they load Python and torch; then it
    hangs. Default: half an hour, or 1.5 × `timeout_s` where that is longer."""
    host_silence_s: float = neutral(40.0, ge=10)
    """Ranks on another machine end when they have heard nothing from their launcher for this long."""
    push_wait_s: float = neutral(600.0, ge=0)
    """How long `run` waits at its end for uploads to the hub, while the hub works; they go on without it."""
    stop_grace_s: float = neutral(120.0, gt=0)
    """Time a job has to save and leave after SIGTERM."""
    slurm: SlurmSettings = neutral(SlurmSettings())
    """Of `executor: slurm`."""
    ray: RaySettings = neutral(RaySettings())
    """Of `executor: ray`."""

    @property
    def uses_this_python(self) -> bool:
        """Whether jobs are carried out by the Python that runs here, and not by one of an image's."""
        return self.executor != "slurm" or self.slurm.python is None

    @property
    def is_spread(self) -> bool:
        """Whether a job takes several hosts."""
        return self.hostfile is not None or self.launcher == "srun"

    @model_validator(mode="after")
    def _one_list_of_hosts(self) -> Self:
        if self.hostfile is not None and self.launcher == "srun":
            raise ValueError("srun takes the hosts of its allocation; leave hostfile out")
        if self.gpus_per_rank > 1 and (self.ranks > 1 or self.is_spread):
            raise ValueError("gpus_per_rank: a rank with several GPUs is alone; with more ranks each has one")
        if self.hostfile is not None and self.executor != "local":
            raise ValueError(f"executor: {self.executor} places jobs itself; leave hostfile out")
        return self

    @model_validator(mode="after")
    def _nodes_have_a_launcher(self) -> Self:
        if self.executor != "slurm":
            return self
        slurm = self.slurm
        if slurm.mode == "jobs" and slurm.nodes > 1 and self.launcher != "srun":
            raise ValueError(
                f"a job on {slurm.nodes} nodes is spread by srun: set launcher: srun, and ranks of all nodes"
            )
        if slurm.mode == "jobs" and self.launcher == "srun" and self.ranks % slurm.nodes:
            raise ValueError(f"{self.ranks} ranks do not divide by slurm.nodes: {slurm.nodes}")
        if slurm.mode == "allocation" and self.launcher == "srun":
            raise ValueError("slurm.mode: allocation packs jobs of one node each; launcher: srun needs mode: jobs")
        if slurm.mode == "allocation" and slurm.array:
            raise ValueError("slurm.array is for mode: jobs; an allocation is one submission")
        if slurm.max_running is not None and not slurm.array:
            raise ValueError("slurm.max_running is of arrays: set slurm.array: true, or max_submitted")
        return self
