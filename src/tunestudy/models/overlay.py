"""Weights laid over a whole model to evaluate it: a PEFT adapter, or the tensors of a checkpoint."""

from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.models.fold import GATED_CONFIG
from tunestudy.models.mole_files import put_saved, sits_on_its_base
from tunestudy.models.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MOLE_CONFIG, put_back
from tunestudy.records.manifest import MANIFEST, problems


class UnusableError(Exception):
    """What a folder lacks, in words."""


def with_adapter(base: Any, folder: Path, *, trainable: bool, name: str = "default") -> Any:
    """`base` with the PEFT adapter in `folder` attached. UnusableError for a file without a tensor, or a broken one."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            saved = set(file.keys())
        model = PeftModel.from_pretrained(base, folder, adapter_name=name, is_trainable=trainable)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UnusableError(f"{ADAPTER_WEIGHTS} cannot be loaded: {error}") from error
    except (LookupError, TypeError) as error:  # PEFT checks nothing that it reads there
        raise UnusableError(
            f"{ADAPTER_CONFIG} is not what PEFT writes for an adapter that it knows: {error}"
        ) from error
    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).keys()
    if absent := sorted(wanted - saved):
        raise UnusableError(f"{ADAPTER_WEIGHTS} lacks {len(absent)} tensors, such as {absent[0]}")
    return model


def lay_over(model: Any, folder: Path) -> Any:
    """The model with a folder's weights: an adapter or a mixture of experts on it, or its own tensors replaced.

    Raises StudyError for a folder that is damaged or belongs to another model.
    """
    try:
        if (folder / MANIFEST).is_file() and (wrong := problems(folder)):
            raise UnusableError("; ".join(wrong[:3]))
        if (folder / ADAPTER_CONFIG).is_file():
            return with_adapter(model, folder, trainable=False)
        if (folder / GATED_CONFIG).is_file():
            cure = "give the job's `model` folder, or set `checkpoints: true` in the study"
            raise UnusableError(f"it is the raw form of an adapter with gates, which PEFT cannot read; {cure}")
        if (folder / MOLE_CONFIG).is_file():
            if not sits_on_its_base(model, folder):
                raise UnusableError(
                    f"{Path(model.name_or_path).name} is not the model that this mixture was trained on"
                )
            put_saved(model, folder, trainable=False)
            return model
        if wrong := put_back(model, folder):
            raise UnusableError("; ".join(wrong[:3]))
    except UnusableError as error:
        raise StudyError(at("model.weights"), f"{folder.name}: {error}", exit_code=Exit.PREFLIGHT_REFUSED) from error
    return model
