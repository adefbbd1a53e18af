"""The content of result.json for a job that trained nothing: a model that is only evaluated, or a merge."""

import resource
import sys
from typing import Any

from tunestudy.records.progress import Progress

MEBIBYTE = 2**20
_NOTHING = ("final_train_loss", "best", "flops_per_token", "eval_ids_sha256", "sparsity")
_NONE_OF_A_BATCH = ("micro_batch", "accumulation", "effective_batch_size")
_TIMES = ("train_s", "eval_s", "save_s", "steps", "epochs", "tokens", "target_tokens", "samples")
_COUNTS = ("trainable_params", "effective_params", "gates")


def untrained_result(
    fingerprint: str, progress: Progress, *, kind: str, total_params: int, memory_mb: float, world_size: int = 1
) -> dict[str, Any]:
    """The keys that a trained job's has, with nothing in those of training. memory_mb: peak, MiB."""
    return {
        "fingerprint": fingerprint,
        "status": "done",
        "started_at": progress.first_began,
        "finished_at": progress.now(),
        "duration_s": round(progress.elapsed_s, 3),
        **dict.fromkeys(_NOTHING),
        **dict.fromkeys((*_TIMES, *_COUNTS), 0),
        "total_params": total_params,
        "peak_memory_mb": memory_mb,
        "world_size": world_size,
        **dict.fromkeys(_NONE_OF_A_BATCH),
        "roles": [],
        "resumed_from": [],
        "model_kind": kind,
    }


def peak_of_process_mb() -> float:
    """Peak memory (MiB) of this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # kibibytes everywhere but there
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE, 1)
