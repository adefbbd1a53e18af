"""What a job ran on: machine, software and code, as env.json and the report hold it. Imports none of what it lists."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from tunestudy.records.host import host_name
from tunestudy.records.redact import is_secret_name, redact_tree

_PACKAGES = (
    "tunestudy",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
    "trl",
    "deepspeed",
    "bitsandbytes",
    "flash-attn",
    "liger-kernel",
    "triton",
    "xformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyarrow",
    "pydantic",
    "tensorboard",
    "nvidia-nccl-cu12",
    "nvidia-nccl-cu13",
)
_VARIABLES = {"CUDA_VISIBLE_DEVICES", "CUDA_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"}
_VARIABLE_FAMILIES = ("SLURM_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "HF_", "TRANSFORMERS_", "TUNESTUDY_")
_COMMAND_TIMEOUT_S = 20.0


def snapshot(folder: Path) -> dict[str, Any]:
    """Facts about this process's surroundings; `folder` is the study file's, asked for its git state.

    Keys: host, time (unix s), python, os, cpu {model, cores, threads, threads_usable}, memory_bytes, disk_free_bytes,
    gpus [{index, uuid, name, memory_bytes, driver}], packages {name: version}, git {branch, commit, dirty, remote} or
    None, env {selected variables}. Redacted.
    """
    facts = {
        "host": host_name(),
        "time": round(time.time(), 3),
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": cpu(),
        "memory_bytes": psutil.virtual_memory().total,
        "disk_free_bytes": psutil.disk_usage(str(folder)).free,
        "gpus": gpus(),
        "packages": packages(),
        "git": git_state(folder),
        "env": selected_environment(),
    }
    cleaned: dict[str, Any] = redact_tree(facts)
    return cleaned


def cpu() -> dict[str, Any]:
    """Model, physical cores, hardware threads, and the threads this process may use."""
    return {
        "model": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "threads_usable": usable_threads(),
    }


def usable_threads() -> int:
    """Hardware threads this process may run on: less than the machine's under taskset, SLURM or a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def gpus() -> list[dict[str, Any]]:
    """GPUs of this machine as nvidia-smi tells, whatever CUDA_VISIBLE_DEVICES says; empty without any."""
    query = "--query-gpu=index,uuid,name,memory.total,driver_version"
    answer = _output(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    rows = [[field.strip() for field in line.split(",")] for line in (answer or "").splitlines() if line.strip()]
    return [
        {
            "index": int(index),
            "uuid": uuid,
            "name": name,
            "memory_bytes": int(float(memory) * 2**20) if memory.replace(".", "").isdigit() else None,
            "driver": driver,
        }
        for index, uuid, name, memory, driver in (row for row in rows if len(row) == 5 and row[0].isdigit())
    ]


def packages() -> dict[str, str]:
    """Installed versions of what can change a result, from metadata alone."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Branch, commit, whether files differ from it, and the remote; None outside of a repository."""
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if commit is None:
        return None
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return {
        "branch": _output(["git", "-C", str(folder), "rev-parse", "--abbrev-ref", "HEAD"]),
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "remote": _output(["git", "-C", str(folder), "config", "--get", "remote.origin.url"]),
    }


def selected_environment() -> dict[str, str]:
    """Variables that change how training runs; never one that is named like a secret."""
    chosen = {name for name in os.environ if name in _VARIABLES or name.startswith(_VARIABLE_FAMILIES)}
    return {name: os.environ[name] for name in sorted(chosen) if not is_secret_name(name)}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _output(command: list[str]) -> str | None:
    """What a command prints, stripped; None when it is not there, fails or hangs."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
