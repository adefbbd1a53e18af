"""The tables of a run, which trackers are told from. Only rank 0 writes; elsewhere every call does nothing.

Floats keep all digits. A resumed run cuts every table back to its checkpoint, so that no row is lost or doubled.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tunestudy.config.stage import TrainStage
from tunestudy.records.atomic import point_to, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.tables import TableLog, Value, read_table
from tunestudy.train.experts import load_row
from tunestudy.train.gates import GateDrive
from tunestudy.train.metrics import Sums

LOSS_COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "learning_rate",
    "gpu_memory_mb",
    "sparsity",
    "grad_norm",
    "tokens",
    "target_tokens",
    "tokens_per_s",
)
SPARSITY_COLUMNS = ("epoch", "step", "overall")
EXPERT_COLUMNS = ("epoch", "step", "overall", "idle")
MOLE_COLUMNS = ("epoch", "step", "module", "entropy", "balance")
EVAL_COLUMNS = ("epoch", "step", "eval_loss", "perplexity", "target_tokens")
SAMPLE_COLUMNS = ("step", "id", "source", "loss", "target_tokens")
GRADIENT_COLUMNS = ("step", "role", "grad_norm", "grad_max", "param_norm", "update_ratio")


class Logs:
    """The tables of a run and training_history.json."""

    def __init__(
        self,
        folder: JobDir,
        settings: TrainStage,
        *,
        writes: bool,
        keep_through_step: int,
        sources: Sequence[str],
        in_order: bool = False,
        eval_sources: Sequence[str],
        gated_modules: Sequence[str] = (),
        expert_modules: Sequence[str] = (),
        mole_experts: Sequence[str] = (),
    ) -> None:
        """keep_through_step: rows of later steps are cut away; -1 for a run from the beginning. in_order: a curriculum
        by numbers tells them."""
        self._folder = folder
        self._writes = writes
        self.tables: list[TableLog] = []
        if not writes:
            return
        columns = [*LOSS_COLUMNS, *(["order_value"] if in_order else []), *_source_columns(sources)]
        self._loss = self._open(folder.loss_log, columns, keep_through_step)
        self._eval = self._open(folder.eval_log, [*EVAL_COLUMNS, *_source_columns(eval_sources)], keep_through_step)
        if settings.eval_sample_losses:
            self._samples = self._open(folder.eval_samples, SAMPLE_COLUMNS, keep_through_step)
        if gated_modules:
            columns = [*SPARSITY_COLUMNS, *gated_modules]
            self._sparsity = self._open(folder.sparsity_log, columns, keep_through_step)
        if expert_modules:
            self._experts = self._open(folder.expert_log, [*EXPERT_COLUMNS, *expert_modules], keep_through_step)
        if mole_experts:
            self._mole = self._open(folder.mole_log, [*MOLE_COLUMNS, *mole_experts], keep_through_step)
        if settings.log_gradients:
            self._gradients = self._open(folder.gradient_log, GRADIENT_COLUMNS, keep_through_step)

    def training(self, row: Mapping[str, Value]) -> None:
        """One row of loss_log.csv."""
        if self._writes:
            self._loss.append(row)

    def evaluation(self, *, epoch: float, step: int, sums: Sums, sources: tuple[str, ...]) -> None:
        """One row of eval_log.csv."""
        row: dict[str, Value] = {
            "epoch": epoch,
            "step": step,
            "eval_loss": sums.loss,
            "perplexity": perplexity(sums.loss),
            "target_tokens": sums.num_targets,
            **sums.loss_by_source(sources),
        }
        if self._writes:
            self._eval.append(row)

    def samples(self, *, step: int, rows: Sequence[Mapping[str, Value]]) -> None:
        """Rows of eval_samples.csv; nothing unless losses of samples were asked for."""
        for row in rows if self._writes else ():
            self._samples.append({"step": step, **row})

    def sparsity(self, *, epoch: float, step: int, gates: GateDrive) -> None:
        """One row of sparsity_log.csv; nothing without gates."""
        if self._writes and gates.total:
            self._sparsity.append({"epoch": epoch, "step": step, "overall": gates.sparsity(), **gates.by_module()})

    def experts(self, *, epoch: float, step: int, window: Mapping[str, list[int]]) -> None:
        """One row of expert_log.csv; nothing without experts."""
        if self._writes and window:
            self._experts.append({"epoch": epoch, "step": step, **load_row(window)})

    def mole(self, *, epoch: float, step: int, rows: Sequence[Mapping[str, Value]]) -> None:
        """Rows of mole_log.csv, one for every gated block and one for all; nothing without a mixture."""
        for row in rows if self._writes else ():
            self._mole.append({"epoch": epoch, "step": step, **row})

    def gradients(self, step: int, rows: Sequence[Mapping[str, Value]]) -> None:
        """One row per role of gradient_log.csv."""
        for row in rows if self._writes else ():
            self._gradients.append({"step": step, **row})

    def history(self, history: Mapping[str, Sequence[Any]]) -> None:
        """Replace training_history.json, and training_log.json, its other name."""
        if self._writes:
            write_json(self._folder.training_history, history)
            point_to(self._folder.training_log, self._folder.training_history.name)

    def trainer_state(self, *, step: int, epoch: float, best: Any) -> None:
        """trainer_state.json, for scripts that read the one of transformers."""
        if not self._writes:
            return
        rows = [*_read(self._folder.loss_log), *_read(self._folder.eval_log)]
        rows.sort(key=lambda row: row["step"])
        found = {} if best is None else {"best_metric": best.value, "best_model_checkpoint": f"checkpoint-{best.step}"}
        write_json(self._folder.trainer_state, {"global_step": step, "epoch": epoch, **found, "log_history": rows})

    def close(self) -> None:
        for table in self.tables:
            table.close()

    def _open(self, path: os.PathLike[str], columns: Sequence[str], keep_through_step: int) -> TableLog:
        table = TableLog(path, columns, keep_through_step=keep_through_step)  # type: ignore[arg-type]
        self.tables.append(table)
        return table


def perplexity(loss: float | None) -> float | None:
    """e to the loss; None where that is too large for a float."""
    return math.exp(loss) if loss is not None and loss < 700 else None


def _source_columns(sources: Sequence[str]) -> list[str]:
    return [f"loss/{name}" for name in sources] if len(sources) > 1 else []


def _read(path: Any) -> list[dict[str, Any]]:
    rows = [{name: _number(text) for name, text in row.items() if text} for row in read_table(path)]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _number(text: str) -> float | int | None:
    number = float(text)
    if not math.isfinite(number):
        return None
    return int(number) if text.lstrip("-").isdigit() else number
