"""How much of LoRA's accuracy does SoRA keep when it shuts a third of the gates? Same data, steps and seeds.

    python benchmarks/pruning.py [--seeds 12] [--target 0.31] [--keep FOLDER]

The study is studies/adapters_digits.yaml with the variants `lora` and `sora`: a base that learns upright handwritten
digits, once per seed, and an adapter that learns them turned. Differences are paired by seed; the interval is
Student's, 95 %. Exit code 1: a figure is beyond its limit. Nothing is written but stdout.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from scipy.stats import t as student

STUDY = Path(__file__).resolve().parents[1] / "studies" / "adapters_digits.yaml"
PRUNED, LOSS, EXCLUDED = 0.30, 1.0, 2.0
"""Share of ranks; points of accuracy lost on average; points that the interval must exclude."""


def written(folder: Path, seeds: int, target: float) -> Path:
    study = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    sora = {"adapt": {"adapter": {"type": "sora", "target_sparsity": target, "gate_init": "ones"}}}
    stages = ["base", "adapt"]
    study |= {"study": "pruning", "seeds": list(range(1, seeds + 1)), "report": {"baseline": "lora"}}
    study["variants"] = {"lora": {"stages": stages}, "sora": {"stages": stages, "overrides": sora}}
    path = folder / "pruning.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def measured(folder: Path, variant: str, seed: int) -> tuple[float, float]:
    """Accuracy in percent, and the share of gates that is shut."""
    job = folder / "results" / "pruning" / "trials" / variant / f"seed_{seed}" / "adapt"
    score = json.loads((job / "eval" / "digits.json").read_text(encoding="utf-8"))
    result = json.loads((job / "result.json").read_text(encoding="utf-8"))
    return 100 * score["metrics"]["accuracy"], result["sparsity"] or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--target", type=float, default=0.31)
    parser.add_argument("--keep", type=Path, help="where the study runs; a finished one is only read")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        study = written(folder, chosen.seeds, chosen.target)
        command = [sys.executable, "-m", "tunestudy.cli", "run", str(study), "--results", str(folder / "results")]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the study failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        rows = [(measured(folder, "lora", seed), measured(folder, "sora", seed)) for seed in range(1, chosen.seeds + 1)]
    print("seed    LoRA    SoRA   lost   ranks pruned")
    for seed, ((lora, _), (sora, shut)) in enumerate(rows, 1):
        print(f"{seed:4}{lora:8.2f}{sora:8.2f}{lora - sora:7.2f}{shut:15.3f}")
    lost = [lora - sora for (lora, _), (sora, _) in rows]
    mean = statistics.mean(lost)
    half = float(student.ppf(0.975, len(lost) - 1)) * statistics.stdev(lost) / math.sqrt(len(lost))
    least = min(shut for _, (_, shut) in rows)
    print(f"mean loss {mean:+.2f} points, 95 % interval [{mean - half:+.2f}, {mean + half:+.2f}]")
    met = least >= PRUNED and mean <= LOSS and mean + half < EXCLUDED
    verdict = "met" if met else "MISSED"
    print(f"limits: {PRUNED:.0%} pruned at every seed, {LOSS:g} point, {EXCLUDED:g} points excluded: {verdict}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
