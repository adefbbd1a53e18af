"""Published models with components: what they are, and reading them."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunestudy.config.components import VisionComponents
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.models.stored import COMPONENTS_FILE
from tunestudy.records.atomic import read_json

PATHS = (".rope2d.", ".encoder.pyramid.", "multi_modal_projector.net.")
"""Parts of the names of components' tensors, in files and in models."""


def load_vision_model(folder: str | Path, **options: Any) -> Any:
    """A published InternVL with its components; options are those of transformers' `from_pretrained`.

        from tunestudy.models.components import load_vision_model
        model = load_vision_model("results/my-study/jobs/…/model", dtype=torch.bfloat16)

    Raises StudyError for a folder without components, and for a tensor that is missing or of another shape.
    """
    from transformers import AutoConfig

    path = Path(folder)
    if not (path / COMPONENTS_FILE).is_file():
        cure = "AutoModelForImageTextToText.from_pretrained loads a model without components"
        raise StudyError(at(str(folder)), f"holds no {COMPONENTS_FILE}; {cure}")
    config = AutoConfig.from_pretrained(folder)
    model_class, extra = class_with_components(str(folder))
    model, info = model_class.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told below, by name
        **extra,
        **options,
    )
    if wrong := wrong_tensors(info):
        message = f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}"
        raise StudyError(at(str(folder)), message, exit_code=Exit.PREFLIGHT_REFUSED)
    return model


def class_with_components(name: str, revision: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The class to load a folder or hub id as, with its own arguments; (None, {}) for a model without components."""
    settings = read_components(name, revision)
    if settings is None:
        return None, {}
    from tunestudy.models.components.model import InternVLWithComponents

    return InternVLWithComponents, {"components": settings}


def read_components(name: str, revision: str | None = None) -> VisionComponents | None:
    """The settings beside a model's weights; None where there are none."""
    path = Path(name) / COMPONENTS_FILE if Path(name).is_dir() else _from_hub(name, revision)
    if path is None or not path.is_file():
        return None
    try:
        # JSON has lists where settings have tuples; everything else must be as it was written.
        return VisionComponents.model_validate(read_json(path))
    except ValidationError as error:
        message = f"{path} does not describe components: {error.errors()[0]['msg']}"
        raise StudyError(at(COMPONENTS_FILE), message, exit_code=Exit.PREFLIGHT_REFUSED) from error


def wrong_tensors(info: dict[str, Any]) -> list[str]:
    """Of transformers' loading report: tensors that are missing or of another shape, and components' without a place.

    The last happens where components.json was lost: the model would compute without what it learnt.
    """
    homeless = [f"{key} (without {COMPONENTS_FILE})" for key in info["unexpected_keys"] if _is_component(key)]
    return sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"]) + sorted(homeless)


def _is_component(key: str) -> bool:
    return any(part in key for part in PATHS)


def _from_hub(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, COMPONENTS_FILE, revision=revision))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None  # offline a file that was never fetched looks alike; its tensors are then found to be homeless
