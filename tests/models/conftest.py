"""A results folder in which jobs are made, started and published by hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tunestudy.config.job import Job
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.publish import save_result
from tunestudy.models.start import load_start
from tunestudy.records.atomic import temporary_beside, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import seal

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
MODEL: dict[str, Any] = {
    "architecture": "qwen3",
    "config": {**TINY, "tie_word_embeddings": True},
    "tokenizer": {"type": "characters", "alphabet": "0123456789ab\n="},
}


@dataclass
class Lab:
    """`results/s/` below a temporary folder."""

    root: Path

    def job(self, stage: str, *, parents: tuple[str, ...] = (), seed: int = 1, **options: Any) -> tuple[Job, JobDir]:
        """Write a job.json; `settings=None` makes a job that only evaluates."""
        folder = JobDir(self.root / "results" / "s" / "jobs" / f"{stage}-{seed:012d}")
        settings = {"data": ["d"], "learning_rate": 1e-3, **(options.get("settings") or {})}
        values = {
            "id": folder.root.name,
            "stage": stage,
            "fingerprint": "0" * 64,
            "seed": seed,
            "variants": ["v"],
            "parents": parents,
            "model": options.get("model", MODEL),
            "settings": None if "settings" in options and options["settings"] is None else settings,
            "datasets": {"d": {"type": "digits"}},
            "base_dir": "../../../..",
        }
        folder.root.mkdir(parents=True)
        write_json(folder.job_json, Job.model_validate(values).model_dump(mode="json"))
        return Job.model_validate(values), folder

    def publish(self, folder: JobDir, loaded: LoadedModel, model: Any = None) -> None:
        """Seal a result the way a finished stage does."""
        prepared = temporary_beside(folder.model)
        facts = save_result(loaded.model if model is None else model, loaded.tokenizer, prepared)
        seal(prepared, folder.model, {**facts, "base": loaded.identity})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    torch.set_num_threads(1)
    return Lab(tmp_path)


@pytest.fixture
def logits():
    """A function: logits of a model on a fixed input, in evaluation mode."""

    def of(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            return model.eval()(input_ids=torch.tensor([[4, 5, 6, 7, 8, 9]])).logits

    return of


@pytest.fixture
def disturb():
    """A function: move every trainable tensor, as training would."""

    def of(model: Any, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)

    return of


@pytest.fixture
def parent(lab: Lab, disturb) -> tuple[Job, JobDir]:
    """A full-weights parent job, published."""
    job, folder = lab.job("base")
    loaded = load_start(job, folder, "cpu")
    disturb(loaded.model)
    lab.publish(folder, loaded)
    return job, folder
