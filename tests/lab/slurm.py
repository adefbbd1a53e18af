"""A real SLURM on this machine: a controller and nodes that share its processors, with authentication switched off.

    with slurm(folder, nodes=2, gpus=2) as environment:
        subprocess.run(["salloc", "--nodes=2", …], env=environment)
        with environment.controller_away():
            …

GPUs are pretended: character devices, which SLURM counts and deals out as it does real ones.

Needs root and slurm-wlm. Everything that was started ends with the context.
"""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_CONFIG = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,requeue_delay=1
ReturnToService=2
KillWait=5
MessageTimeout=5
SlurmdTimeout=60
{accounting}
GresTypes=gpu
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={first}-{last} CPUs=4 {memory}{gres}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}
PartitionName=short Nodes=ALL MaxTime=30 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=30 State=UP PriorityTier=10 PreemptMode=OFF
"""

NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"


class Cluster(dict[str, str]):
    """The environment in which SLURM's commands mean this one."""

    daemons: list["subprocess.Popen[bytes]"]
    folder: Path

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """One daemon, which ends with the cluster."""
        found = shutil.which(words[0], path=self["PATH"])
        assert found is not None, words[0]
        with open(self.folder / "log", "ab") as log:
            daemon = subprocess.Popen(
                [found, *words[1:]],
                env=self,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.daemons.append(daemon)
        return daemon

    def save_state(self, number: str) -> None:
        """Wait until the controller has written down the job `number` and all before it, which takes it some seconds.

        Killed earlier it would not know that the job runs, start it again on the same node and drain that node as one
        with a "Duplicate jobid".
        """
        mark = uuid.uuid4().hex
        subprocess.run(["scontrol", "update", f"jobid={number}", f"comment={mark}"], env=self, check=True)
        give_up = time.monotonic() + 60
        while mark.encode() not in (self.folder / "state/job_state").read_bytes():
            assert time.monotonic() < give_up, "the controller did not save its state"
            time.sleep(0.2)

    @contextlib.contextmanager
    def controller_away(self) -> Iterator[None]:
        """The controller is killed, and started again in the end; nodes and their jobs go on meanwhile."""
        self.daemons[0].kill()
        self.daemons[0].wait()
        try:
            yield
        finally:
            self.daemons[0] = self.start("slurmctld", "-D", "-f", self["SLURM_CONF"])
            self.daemons.pop()


@contextlib.contextmanager
def slurm(
    folder: Path, nodes: int, gpus: int = 0, grace_s: int = 0, accounting: str = NO_ACCOUNTING
) -> Iterator[Cluster]:
    """`folder` must not exist. Jobs of the partition `urgent` take the nodes of others, after `grace_s`.

    `accounting`: lines of slurm.conf (see slurm_accounting.py).
    """
    folder.mkdir()
    (folder / "state").mkdir()
    config = folder / "slurm.conf"
    port = _free_ports(nodes + 1)
    config.write_text(
        _CONFIG.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            port=port,
            first=port + 1,
            last=port + nodes,
            nodes=nodes,
            memory="RealMemory=4000",
            gres=f" Gres=gpu:{gpus}" if gpus else "",
            grace=grace_s,
            accounting=accounting,
        )
    )
    for number in range(gpus):
        os.mknod(folder / f"nvidia{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    if gpus:
        devices = f"{folder}/nvidia[0-{gpus - 1}]"
        (folder / "gres.conf").write_text(f"NodeName=node[1-{nodes}] Name=gpu File={devices}\n")
    environment = Cluster({**os.environ, "SLURM_CONF": str(config), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    environment.daemons, environment.folder = [], folder
    try:
        environment.start("slurmctld", "-D", "-f", str(config))
        for number in range(1, nodes + 1):
            environment.start("slurmd", "-D", "-f", str(config), "-N", f"node{number}")
        _wait_until_idle(environment, nodes, folder / "log")
        yield environment
    finally:
        for daemon in reversed(environment.daemons):
            daemon.terminate()
        for daemon in environment.daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens at."""
    for first in range(17000 + os.getpid() % 1000, 19000, count):
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for port in range(first, first + count):
                opened.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise RuntimeError("no free ports")


def _wait_until_idle(environment: dict[str, str], nodes: int, log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        told = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "lab", "-o", "%T"], env=environment, capture_output=True, text=True
        )
        if told.stdout.split().count("idle") == nodes:
            return
        time.sleep(0.2)
    raise TimeoutError(f"SLURM did not come up:\n{log.read_text(errors='replace')[-3000:]}")
