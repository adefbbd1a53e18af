"""Makes losses.json anew: python tests/golden/make_losses.py. The commit of a numeric change shows both lists."""

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lab"))

SETTINGS = {
    "two_sources": True,
    "packing": True,
    "max_length": 48,
    "effective_batch_size": 4,
    "per_device_train_batch_size": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "num_train_epochs": 3,
}


def main() -> None:
    """Train the tiny job with SETTINGS and write down its losses."""
    import torch
    from tinyjob import make_job, rows_of, run

    with tempfile.TemporaryDirectory() as root:
        folder = make_job(Path(root), **SETTINGS)
        assert run(folder)
        losses = [float(row["train_loss"]) for row in rows_of(folder.loss_log)]
    golden = {"settings": SETTINGS, "torch": torch.__version__, "train_loss": losses}
    (HERE / "losses.json").write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
