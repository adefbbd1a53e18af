"""Saving and loading adapters with gates outside of a study."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from tunestudy.config.errors import StudyError, at
from tunestudy.models.fold import GATED_CONFIG, GATED_WEIGHTS, RAW
from tunestudy.models.publish import save_adapter


def save(model: Any, folder: Path | str) -> None:
    """Write the adapter `default` as stock PEFT reads it, folded, and its raw form into `folder/gated`."""
    prepared = Path(folder)
    prepared.mkdir(parents=True, exist_ok=True)
    save_adapter(model, prepared)


def load(base: Any, folder: Path | str) -> Any:
    """`base` with an adapter in its raw form, trainable: `folder` is what `save` wrote, or the `gated` in it."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    from tunestudy.adapters.gates import add_gates, refuse_plain_saving

    raw = Path(folder) / RAW if (Path(folder) / RAW).is_dir() else Path(folder)
    if not (raw / GATED_CONFIG).is_file():
        raise StudyError(at(str(raw)), f"{GATED_CONFIG} is not there: this is no adapter with gates in its raw form")
    options = json.loads((raw / GATED_CONFIG).read_text(encoding="utf-8"))
    kind = str(options.pop("peft_type")).lower()
    options.pop("base_model_name_or_path", None)  # where it was then; PEFT asks the base itself
    known = {name: value for name, value in options.items() if name in LoraConfig.__dataclass_fields__}
    model = get_peft_model(base, LoraConfig(**{**known, "inference_mode": False}))
    if kind == "sdora":
        import_module("tunestudy.adapters.dora").quicken(model, "default")
        add_gates(model, "default", start="ones", seed=0)
        refuse_plain_saving(model)
    else:
        import_module("tunestudy.adapters.gated_lora").gate(model, start="ones")
    state = load_file(raw / GATED_WEIGHTS)
    outcome = set_peft_model_state_dict(model, state)
    absent = [name for name in outcome.missing_keys if ".lora_" in name]
    if absent or outcome.unexpected_keys:
        wrong = absent or outcome.unexpected_keys
        raise StudyError(
            at(str(raw / GATED_WEIGHTS)), f"does not fit the model: {len(wrong)} tensors, such as {wrong[0]}"
        )
    return model
