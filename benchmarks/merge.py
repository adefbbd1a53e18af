"""Merging against mergekit 0.1.5: the same inputs, whole processes, and what both take net of their start.

    python benchmarks/merge.py [--mergekit PYTHON] [--keep FOLDER] [--layers 17]

A random Llama of 169M parameters in bfloat16 and two fine-tunes of it with small differences. mergekit runs in an
environment of its own: that of --mergekit, or one that is made in ~/.cache/tunestudy-benchmarks (pip must reach an
index). Ratios are mergekit's time ÷ ours, as whole processes and each without its start: mergekit's `--help`, our
imports. Ours is once the merge by itself, and once `tunestudy merge`, which also hashes its inputs and its result,
looks at the differences before it merges, and reports. Every case is run --repeats times and the least counts. Exit
code 1: a figure is beyond its limit. Nothing is written but stdout.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

MERGEKIT = "0.1.5"
WEIGHTS = {"en": 0.6, "ko": 0.4}
DENSITIES = {"linear": None, "ties": 0.2, "dare_ties": 0.1}
LIMITS = {"linear": (3.0, None), "ties": (5.0, 5.0), "dare_ties": (4.0, 4.0)}
"""Method → least ratio of wall time, of processor time."""
COPY_LIMIT = 0.9
MEMORY_BYTES, MEMORY_TENSORS = 1.5e9, 4

OURS = """
import sys
from pathlib import Path
from tunestudy.config.merge import MergeStage
from tunestudy.merge.source import FolderSource, Inputs
from tunestudy.merge.stream import merge_into
root, method, density, out = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
if method != "none":
    one = {"density": density} if density else {}
    models = {name: {"path": name, "weight": weight, **one} for name, weight in (("en", 0.6), ("ko", 0.4))}
    settings = MergeStage(method=method, models=models, base={"path": "base"} if density else None)
    sources = {name: FolderSource(root / name) for name in models}
    base = FolderSource(root / "base") if density else None
    given = Inputs(models=sources, base=base, carried_from=root / "base")
    facts = merge_into(Path(out), given, settings, seed=1, threads=None, stop=lambda: False)
    print(facts.duration_s)
"""


@dataclass(frozen=True)
class Run:
    wall: float
    cpu: float
    peak: int
    """Bytes."""
    said: str


def run(command: list[str], *, repeats: int = 1) -> Run:
    """A whole process; of several runs the least wall and the least processor time."""
    found = [_once(command) for _ in range(repeats)]
    best = min(found, key=lambda one: one.cpu)
    return Run(min(one.wall for one in found), best.cpu, max(one.peak for one in found), best.said)


def _once(command: list[str]) -> Run:
    began = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{said[-3000:]}")
    return Run(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, said)


def make_models(root: Path, layers: int) -> int:
    """base, en, ko; returns how many parameters each has."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=12,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(root / "base")
    base = {name: values.clone() for name, values in model.state_dict().items()}
    for name in WEIGHTS:
        with torch.no_grad():
            for key, values in model.named_parameters():
                values.copy_(base[key].float() + 1e-3 * torch.randn(values.shape))
        model.save_pretrained(root / name)
    return sum(values.numel() for values in base.values())


def mergekit_python(given: Path | None) -> Path:
    """The interpreter of an environment with mergekit, made when there is none."""
    import torch

    if given is not None:
        return given.absolute()
    folder = Path.home() / ".cache" / "tunestudy-benchmarks" / f"mergekit-{MERGEKIT}"
    python = folder / "bin" / "python"
    if not (folder / "bin" / "mergekit-yaml").exists():
        version = torch.__version__.split("+", maxsplit=1)[0]
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = [f"torch=={version}", f"mergekit=={MERGEKIT}"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def peer_command(python: Path, root: Path, method: str) -> list[str]:
    density = DENSITIES[method]
    lines = [f"merge_method: {method}", "dtype: bfloat16", "models:"]
    for name, weight in WEIGHTS.items():
        share = "" if density is None else f", density: {density}"
        lines += [f"  - model: {root / name}", f"    parameters: {{weight: {weight}{share}}}"]
    lines += [] if density is None else [f"base_model: {root / 'base'}"]
    (root / f"{method}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    program = str(python.parent / "mergekit-yaml")
    return [program, str(root / f"{method}.yaml"), str(root / f"peer-{method}"), "--quiet", "--random-seed", "1"]


def our_command(root: Path, method: str, out: Path) -> list[str]:
    """`tunestudy merge`, with results of its own for every run: again, nothing would be merged."""
    density = DENSITIES[method]
    shares = [] if density is None else ["--density", str(density), "--base", str(root / "base")]
    weights = [f"{name}={weight}" for name, weight in WEIGHTS.items()]
    models = [f"{name}={root / name}" for name in WEIGHTS]
    program = [sys.executable, "-c", "from tunestudy.cli import main; main()", "merge", "--method", method]
    given = [*program, "--models", *models, "--weights", *weights, *shares]
    return [*given, "--output", str(out), "--results", str(out.with_suffix(".results"))]


def whole_command(root: Path, method: str, repeats: int) -> Run:
    found = []
    for number in range(repeats):
        out = root / f"command-{method}-{number}"
        found.append(_once(our_command(root, method, out)))
        shutil.rmtree(out)
        shutil.rmtree(out.with_suffix(".results"))
    return min(found, key=lambda one: one.wall)


def differing(one: Path, other: Path) -> tuple[int, int]:
    """Values that differ, and all."""
    from tunestudy.models.tensorfiles import TensorFiles

    ours, theirs = TensorFiles(one), TensorFiles(other)
    assert set(ours.tensors) == set(theirs.tensors)
    counts = [(int((ours.whole(n) != theirs.whole(n)).sum()), info.num_values) for n, info in ours.tensors.items()]
    return sum(one for one, _ in counts), sum(total for _, total in counts)


def copy_times(root: Path, repeats: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """(wall, processor) seconds of copying both inputs, and of a linear merge: by turns, in this process, warm."""
    from tunestudy.config.merge import MergeStage
    from tunestudy.merge.source import FolderSource, Inputs
    from tunestudy.merge.stream import merge_into

    models = {name: {"path": name, "weight": weight} for name, weight in WEIGHTS.items()}
    settings = MergeStage(method="linear", models=models)  # type: ignore[arg-type]
    given = Inputs(models={name: FolderSource(root / name) for name in WEIGHTS}, base=None, carried_from=root)

    def copy() -> None:
        for name in WEIGHTS:
            shutil.copyfile(root / name / "model.safetensors", root / "warm" / f"{name}.copy")

    def merge() -> None:
        merge_into(root / "warm", given, settings, seed=0, threads=None, stop=lambda: False)

    best = {copy: (1e9, 1e9), merge: (1e9, 1e9)}
    for _ in range(repeats):
        for action, (wall, cpu) in best.items():
            shutil.rmtree(root / "warm", ignore_errors=True)
            (root / "warm").mkdir()
            began, used = time.perf_counter(), time.process_time()
            action()
            best[action] = (min(wall, time.perf_counter() - began), min(cpu, time.process_time() - used))
    shutil.rmtree(root / "warm")
    return best[copy], best[merge]


def verdict(label: str, value: float, limit: float, *, at_most: bool = False) -> bool:
    met = value <= limit if at_most else value >= limit
    print(
        f"{label:44}{value:9.2f}  limit {'≤' if at_most else '≥'} {limit:g}: {'met' if met else 'MISSED'}", flush=True
    )
    return met


def compared(root: Path, python: Path, repeats: int, largest: int) -> bool:
    """The table of whole processes, then a verdict for each limit."""
    ours = [sys.executable, "-c", OURS, str(root)]
    peer_start = run([str(python.parent / "mergekit-yaml"), "--help"], repeats=repeats + 1)
    our_start = run([*ours, "none", "0", ""], repeats=repeats + 1)
    print(f"start: mergekit {peer_start.wall:.2f} s wall, {peer_start.cpu:.2f} s CPU; ", end="")
    print(f"ours {our_start.wall:.2f}, {our_start.cpu:.2f}\n")
    print("method       mergekit wall     CPU  peak MB   ours wall     CPU  peak MB   of it merging   differing values")
    met = []
    for method, density in DENSITIES.items():
        out = root / f"ours-{method}"
        peer = run(peer_command(python, root, method), repeats=repeats)
        mine = run([*ours, method, str(density or 0), str(out)], repeats=repeats)
        count, total = differing(out, root / f"peer-{method}")
        print(
            f"{method:12}{peer.wall:14.2f}{peer.cpu:8.2f}{peer.peak / 1e6:9.0f}{mine.wall:12.2f}{mine.cpu:8.2f}"
            f"{mine.peak / 1e6:9.0f}{float(mine.said):16.2f}{count:16,} of {total:,}"
        )
        net = [(peer.wall - peer_start.wall) / max(1e-3, mine.wall - our_start.wall)]
        net.append((peer.cpu - peer_start.cpu) / max(1e-3, mine.cpu - our_start.cpu))
        wall, cpu = LIMITS[method]
        met.append((f"{method}: wall time, whole processes", peer.wall / mine.wall, wall, False))
        if cpu is not None:
            met.append((f"{method}: wall time net of start", net[0], wall, False))
            met.append((f"{method}: processor time net of start", net[1], cpu, False))
        if method == "linear":
            met.append(("linear: values that differ", count, 0, True))
        limit = (MEMORY_BYTES + MEMORY_TENSORS * largest) / 1e6
        met.append((f"{method}: peak memory, MB", mine.peak / 1e6, limit, True))
        command = whole_command(root, method, repeats)
        print(f"{'':12}{'`tunestudy merge`':>38}{command.wall:12.2f}{command.cpu:8.2f}{command.peak / 1e6:9.0f}")
        met.append((f"{method}: wall time of `tunestudy merge`", peer.wall / command.wall, wall, False))
        met.append((f"{method}: its peak memory, MB", command.peak / 1e6, limit, True))
    print()
    missed = [one for one in met if not verdict(one[0], one[1], one[2], at_most=one[3])]
    return not missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", type=Path, help="python of an environment with mergekit")
    parser.add_argument("--keep", type=Path, help="where the models lie; those that are there are used again")
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--repeats", type=int, default=2)
    chosen = parser.parse_args()
    python = mergekit_python(chosen.mergekit)
    with tempfile.TemporaryDirectory() as temporary:
        root = (chosen.keep or Path(temporary)).absolute()
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "ko" / "model.safetensors").exists():
            make_models(root, chosen.layers)
        from tunestudy.models.tensorfiles import TensorFiles

        tensors = TensorFiles(root / "base").tensors.values()
        parameters, largest = sum(one.num_values for one in tensors), max(one.num_bytes for one in tensors)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        print(f"{machine}, {date.today()}; {parameters / 1e6:.0f}M parameters, bfloat16")  # noqa: DTZ011
        met = compared(root, python, chosen.repeats, largest)
        copying, merging = copy_times(root, 5 * chosen.repeats)
        print(f"\nboth inputs copied {copying[0]:.3f} s wall, {copying[1]:.3f} s CPU;", end=" ")
        print(f"warm linear merge {merging[0]:.3f} s wall, {merging[1]:.3f} s CPU")
        met &= verdict("linear: wall time ÷ copying both inputs", merging[0] / copying[0], COPY_LIMIT, at_most=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
