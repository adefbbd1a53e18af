"""How each vision-language architecture takes images: one module per `model_type` of transformers.

A module has `Vision`, which `data/vision.py` describes, made by `of(config, tokenizer, processor)`; `PROCESSOR`, the
class of transformers that turns PIL images into its inputs, with `defaults(config)` for random weights; `SPECIAL`,
tokens that its tokenizer must have; and `arguments(base, batch)`, what its forward pass gets beside the usual.
Everything goes through transformers' PIL classes: torchvision resizes otherwise, and need not be there.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.model import ModelConfig
from tunestudy.data.vision import Vision
from tunestudy.records.atomic import read_json, write_json

TRIED = ((64, 64), (150, 60), (33, 121))
"""Sizes of images that a processor's options are tried on."""

ARCHITECTURES = ("internvl", "gemma3", "qwen3_vl")


def module_of(model_type: str) -> ModuleType | None:
    """The module of a vision-language architecture; None for all others."""
    return import_module(f"tunestudy.models.vision.{model_type}") if model_type in ARCHITECTURES else None


def image_processor(settings: ModelConfig, config: Any, folder: str | Path, revision: str | None = None) -> Any:
    """The model's own image processor with the study's `image_processor` options; None for a model without eyes.

    folder: of the model, or its hub id; one without a processor's file gets what its configuration implies.
    """
    module = module_of(config.model_type)
    if module is None:
        if settings.image_processor:
            raise StudyError(at("model.image_processor"), f"{config.model_type} takes no images here; leave it out")
        return None
    options = {**module.ALWAYS, **settings.image_processor}
    kind = _class(module.PROCESSOR)
    _check_options(kind, settings.image_processor)
    try:
        if settings.architecture or not _has_file(folder):
            return kind(**{**module.defaults(config), **options})
        return kind.from_pretrained(folder, revision=revision, **options)
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(
            at("model.image_processor"), f"{module.PROCESSOR} cannot be made: {error}", exit_code=Exit.PREFLIGHT_REFUSED
        ) from error


def save_processor(processor: Any, model_type: str, folder: Path) -> None:
    """preprocessor_config.json, which names the processor that transformers makes of it and the tokenizer."""
    module = module_of(model_type)
    assert module is not None
    processor.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    write_json(file, {**read_json(file), "processor_class": module.PROCESSOR_CLASS})


def vision_of(config: Any, tokenizer: Any, processor: Any) -> Vision | None:
    """How a model of this configuration takes images; None for a model without eyes."""
    module = module_of(config.model_type)
    if module is None or processor is None:
        return None
    vocabulary = tokenizer.get_vocab()
    absent = [token for token in module.SPECIAL if token not in vocabulary]
    if absent:
        raise StudyError(
            at("model.tokenizer"), f"lacks {', '.join(absent)}, which {config.model_type} needs for images"
        )
    vision: Vision = module.of(config, tokenizer, processor)
    _try_out(vision, config, module)
    return vision


def _try_out(vision: Vision, config: Any, module: ModuleType) -> None:
    """That what the processor makes of a few shapes is what the model takes, and as many tokens as were foreseen."""
    from PIL import Image

    where, told = at("model.image_processor"), "these options do not fit the model"
    for size in TRIED:
        try:
            count = vision.num_tokens(size)
            problem = module.misfit(config, vision.pixels([Image.new("RGB", size)]), count)
        except Exception as error:
            if isinstance(error, StudyError):
                raise
            raise StudyError(where, f"{told}: {error}", exit_code=Exit.PREFLIGHT_REFUSED) from error
        if problem:
            raise StudyError(where, f"{told}: {problem}", exit_code=Exit.PREFLIGHT_REFUSED)


def _class(name: str) -> Any:
    """An image processor's class, which transformers 5 names without its backend where torchvision is absent."""
    import transformers

    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def _has_file(folder: str | Path) -> bool:
    path = Path(folder)
    files = ("preprocessor_config.json", "processor_config.json")
    return not path.is_dir() or any((path / name).is_file() for name in files)


def _check_options(kind: Any, options: dict[str, Any]) -> None:
    """Processors take any keyword and keep it for nobody."""
    from difflib import get_close_matches

    known = list(kind.valid_kwargs.__annotations__)
    for key in options:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StudyError(at(f"model.image_processor.{key}"), f"{kind.__name__} has no such option{hint}")
