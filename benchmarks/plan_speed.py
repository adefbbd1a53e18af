"""Time of `tunestudy --help` and of `tunestudy plan` as whole processes, on studies of 1,000 and 10,000 jobs.

    python benchmarks/plan_speed.py [repetitions]

Prints minimum and median wall time, and processor time (which a busy machine distorts less), beside the limits;
exits with 1 when a median wall time is above its limit.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

HEAD = """\
study: speed
seeds: [{seeds}]
model:
  architecture: qwen3
  config: {{hidden_size: 64, num_hidden_layers: 2}}
  tokenizer: {{type: characters, alphabet: "0123456789abcdefg"}}
datasets:
  upright: {{type: digits, held_out: 0.2}}
benchmarks:
  digits: {{type: exact_match, dataset: upright@held_out}}
defaults:
  learning_rate: 1e-3
  effective_batch_size: 32
stages:
  base: {{data: upright, max_steps: 300}}
  adapt: {{data: upright, max_steps: 200}}
variants:
"""


def matrix_study(values: int, seeds: int) -> str:
    """One matrix of `values` variants: jobs = seeds × (values + 1)."""
    return HEAD.format(seeds=_numbers(seeds)) + (
        "  lora_r{r}:\n"
        f"    matrix: {{r: [{_numbers(values)}]}}\n"
        "    stages: [base, adapt]\n"
        "    overrides: {adapt: {adapter: {lora_r: '{r}'}}}\n"
    )


def written_study(variants: int, seeds: int, padding: int = 0) -> str:
    """Every variant written out in 8 (+ `padding`) lines: jobs = seeds × (variants + 1)."""
    return HEAD.format(seeds=_numbers(seeds)) + "".join(_written(index, padding) for index in range(variants))


def _written(index: int, padding: int) -> str:
    return (
        f"  v{index}:\n    description: rank {index + 1}\n    stages: [base, adapt]\n    overrides:\n      adapt:\n"
        f"        learning_rate: {1e-5 * (index + 1):.3e}\n        adapter:\n          lora_r: {index + 1}\n"
        + "".join(f"        {key}\n" for key in PADDING[:padding])
    )


PADDING = (
    "weight_decay: 0.01",
    "warmup_steps: 20",
    "lr_scheduler_type: cosine",
    "max_grad_norm: 0.5",
    "adam_beta2: 0.95",
    "logging_steps: 20",
    "max_length: 96",
    "save_total_limit: 3",
)


def _numbers(count: int) -> str:
    return ", ".join(str(number) for number in range(1, count + 1))


def cases() -> Iterator[tuple[str, str | None, float]]:
    """(name, study text or None for --help, limit in seconds)."""
    yield "tunestudy --help", None, 0.15
    yield "plan, 1,000 jobs, one matrix", matrix_study(199, 5), 0.6
    yield "plan, 1,000 jobs, written out", written_study(199, 5), 0.6
    yield "plan, 10,000 jobs, 4,000 lines", written_study(499, 20), 2.0
    yield "plan, 6,748 jobs, 27,000 lines", written_study(1686, 4, padding=8), 5.0


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall and processor time of a whole process, start to exit."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> int:
    """Measure every case and print the table."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    tunestudy = str(Path(sys.executable).with_name("tunestudy"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, Python {platform.python_version()}, {date.today()}, {repetitions} repetitions\n")  # noqa: DTZ011
    print(f"{'case':34}{'lines':>8}{'jobs':>8}{'min s':>8}{'median s':>10}{'cpu s':>8}{'limit s':>9}")
    slow = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, text, limit in cases():
            command, lines, jobs = [tunestudy, "--help"], "", ""
            if text is not None:
                path = Path(folder) / "study.yaml"
                path.write_text(text, encoding="utf-8")
                command = [tunestudy, "plan", str(path), "--results", folder]
                lines, jobs = f"{text.count(chr(10)):,}", _jobs(command)
            times = [seconds(command) for _ in range(repetitions)]
            walls = [wall for wall, _ in times]
            median, cpu = statistics.median(walls), statistics.median(cpu for _, cpu in times)
            slow += median > limit
            print(f"{name:34}{lines:>8}{jobs:>8}{min(walls):8.2f}{median:10.2f}{cpu:8.2f}{limit:9.2f}", flush=True)
    return 1 if slow else 0


def _jobs(command: list[str]) -> str:
    import json

    told = subprocess.run([*command, "--json"], check=True, capture_output=True).stdout
    return f"{json.loads(told)['totals']['jobs']:,}"


if __name__ == "__main__":
    sys.exit(main())
