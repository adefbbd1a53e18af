"""Weights and tokenizers from where they come: a folder, the hub, or a seeded generator."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.model import CharacterTokenizer, ModelConfig
from tunestudy.config.paths import located
from tunestudy.config.stage import Quantization
from tunestudy.models.components.load import class_with_components, wrong_tensors
from tunestudy.models.quantize import check_quantised, keep_layout, loading_options
from tunestudy.models.stored import ADAPTER_CONFIG
from tunestudy.models.tensorfiles import INDEX, SINGLE
from tunestudy.models.tokenizer import character_tokenizer
from tunestudy.models.vision import image_processor, module_of
from tunestudy.records.atomic import read_json
from tunestudy.records.hub_cache import FETCH_FIRST

NAMED = 3
"""Tensors named in an error; the rest is counted."""
BAD_SETTINGS = (ArithmeticError, AttributeError, ImportError, LookupError, TypeError, ValueError)
"""What transformers raises, wherever it stumbles, for settings that it cannot make a model of."""


@dataclass(frozen=True)
class Origin:
    """Where pretrained weights lie: a folder's path, or a hub id at a revision."""

    name: str
    revision: str | None = None
    local: bool = True


def find_origin(settings: ModelConfig, base_dir: Path) -> Origin:
    """The origin of a pretrained model; a path is relative to the study file, anything else is a hub id."""
    name = settings.model_name_or_path
    assert name is not None
    folder = located(base_dir, name).resolve()
    if folder.is_dir():
        return Origin(str(folder))
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise _wrong(f"there is no folder {name} (relative paths start at the study file)")
    return Origin(name, settings.revision, local=False)


def origin_of_base(folder: Path, facts: Mapping[str, Any]) -> Origin | None:
    """The base that a published folder names in `facts`: another folder, as seen from it, or a hub id. None where that
    other folder is gone."""
    name = str(facts["base_model_name_or_path"])
    base = (folder / name).resolve()
    if base.is_dir():
        return Origin(str(base))
    return None if name.startswith((".", "/")) else Origin(name, facts.get("revision"), local=False)


def load_tokenizer(settings: ModelConfig, base_dir: Path) -> Any:
    """The study's tokenizer with its chat template; refuses one without character offsets."""
    if isinstance(settings.tokenizer, CharacterTokenizer):
        eyes = module_of(settings.architecture or "")
        tokenizer = character_tokenizer(settings.tokenizer, () if eyes is None else eyes.SPECIAL)
    else:
        tokenizer = _pretrained_tokenizer(settings, base_dir)
    tokenizer.backend_tokenizer.no_truncation()  # saved with some tokenizers, and gone after the first call:
    tokenizer.backend_tokenizer.no_padding()  # its identity must not depend on who has called it already
    if tokenizer.chat_template is None and settings.model_name_or_path:
        tokenizer.chat_template = _template_of_processor(settings, base_dir)
    if settings.chat_template:
        path = located(base_dir, settings.chat_template)
        inline = "{" in settings.chat_template or "\n" in settings.chat_template
        if not inline and not path.is_file():
            raise StudyError(at("model.chat_template"), f"there is no file {settings.chat_template}")
        tokenizer.chat_template = settings.chat_template if inline else path.read_text(encoding="utf-8")
    return tokenizer


def _template_of_processor(settings: ModelConfig, base_dir: Path) -> str | None:
    """The template in chat_template.json, where processors kept it before tokenizers could find it."""
    from transformers.utils import cached_file

    origin = find_origin(settings, base_dir)
    file = cached_file(
        origin.name, "chat_template.json", revision=origin.revision, _raise_exceptions_for_missing_entries=False
    )
    found = read_json(Path(file)) if file else None
    return found.get("chat_template") if isinstance(found, dict) else None


def load_processor(settings: ModelConfig, base_dir: Path, model: Any) -> Any:
    """The image processor of the study's model, for a model with eyes; None for one without."""
    if settings.architecture:
        return image_processor(settings, model.config, "")
    origin = find_origin(settings, base_dir)
    return image_processor(settings, model.config, origin.name, origin.revision)


def pretrained(
    origin: Origin, settings: ModelConfig, device: torch.device | str, quantization: Quantization | None = None
) -> Any:
    """A model from a folder or the hub, in few bits if asked; one that lacks a tensor, or has one of another shape, is
    refused."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig

    if origin.local:
        check_model_folder(Path(origin.name))
    common = {"revision": origin.revision, "trust_remote_code": settings.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(origin.name, **common)
        model_class, extra = class_of(config, origin)
        model, info = model_class.from_pretrained(
            origin.name,
            config=config,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
            **loading_options(quantization, device),
            **common,
            **extra,
        )
    except (OSError, RuntimeError, SafetensorError, StrictDataclassError, *BAD_SETTINGS) as error:
        raise _wrong(_unloadable(origin, error)) from error
    if absent := wrong_tensors(info):
        raise _wrong(
            f"{origin.name} lacks {len(absent)} tensors of its architecture ({config.model_type}), or has them in "
            f"another shape: {', '.join(absent[:NAMED])}{', …' if len(absent) > NAMED else ''}"
        )
    model.name_or_path = origin.name
    if quantization is not None:
        check_quantised(model, origin.name)
        keep_layout(model)
        return model
    return model.to(device)


def random_weights(settings: ModelConfig, tokenizer: Any, *, seed: int, device: torch.device | str) -> Any:
    """A fresh model of a real class; the same weights for the same seed, whatever ran before.

    seed: the job's, which counts unless the settings name one for all jobs.
    """
    config = architecture_config(settings, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.drawn_by(seed))
        try:
            model = _model_class(config).from_config(
                config, dtype=getattr(torch, settings.dtype), attn_implementation=settings.attn_implementation
            )
        except BAD_SETTINGS as error:
            raise _refused(settings, error) from error
    return model.to(device)


def architecture_config(settings: ModelConfig, tokenizer: Any) -> Any:
    """The transformers configuration of `architecture`; vocabulary and special ids follow the tokenizer."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    if settings.architecture not in CONFIG_MAPPING:
        raise StudyError(at("model.architecture"), _unknown_architecture(str(settings.architecture), CONFIG_MAPPING))
    _check_config_keys(settings)
    try:
        config = CONFIG_MAPPING[settings.architecture](**_with_tokenizer(settings, tokenizer))
    except (StrictDataclassError, *BAD_SETTINGS) as error:
        raise _refused(settings, error) from error
    vocabulary = config.get_text_config().vocab_size
    if vocabulary < len(tokenizer):
        raise StudyError(
            at("model.config.vocab_size"), f"{vocabulary} is less than the tokenizer's {len(tokenizer)} tokens"
        )
    return config


def _with_tokenizer(settings: ModelConfig, tokenizer: Any) -> dict[str, Any]:
    """The configuration's arguments with what the tokenizer decides: vocabulary and special ids."""
    derived = {"vocab_size": len(tokenizer)}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        derived[name] = getattr(tokenizer, name)
    eyes = module_of(str(settings.architecture))
    if eyes is None:
        return {**derived, **settings.config}
    text = {**derived, **(settings.config.get("text_config") or {})}
    return {**eyes.token_ids(tokenizer), **settings.config, "text_config": text}


def _check_config_keys(settings: ModelConfig) -> None:
    """transformers keeps any keyword of a configuration as an attribute that nobody reads."""
    from difflib import get_close_matches

    from transformers import CONFIG_MAPPING

    usual = CONFIG_MAPPING[str(settings.architecture)]()
    known = [name for name in dir(usual) if not name.startswith("_") and not callable(getattr(usual, name, None))]
    known.append("head_dim")  # several decoders read it without declaring it
    for key in settings.config:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StudyError(at(f"model.config.{key}"), f"{settings.architecture} has no such option{hint}")


def check_model_folder(folder: Path) -> None:
    """A folder that is no model, or that lacks weight files, is told apart before anything is loaded."""
    if not (folder / "config.json").is_file():
        held = sorted(path.name for path in folder.iterdir())[:5]
        cure = "; an adapter goes into model.weights, and its base here" if ADAPTER_CONFIG in held else ""
        raise _wrong(f"{folder} is no model folder: no config.json, it holds {', '.join(held) or 'nothing'}{cure}")
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise _wrong(f"{folder}: {INDEX} does not say which file holds what")
        absent = sorted(name for name in set(weight_map.values()) if not (folder / name).is_file())
    else:
        absent = [] if (folder / SINGLE).is_file() else [SINGLE]
    if absent:
        pickled = any(folder.glob("*.bin"))
        cure = "; convert its .bin files to safetensors first" if pickled else ""
        raise _wrong(f"{folder} lacks {', '.join(absent[:NAMED])}{cure}")


def _pretrained_tokenizer(settings: ModelConfig, base_dir: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    name = settings.tokenizer or settings.model_name_or_path
    assert isinstance(name, str)
    folder = located(base_dir, name).resolve()
    revision = settings.revision if settings.tokenizer is None else settings.tokenizer_revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder if folder.is_dir() else name, revision=revision, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, StrictDataclassError, *BAD_SETTINGS) as error:
        raise _no_tokenizer(name, folder, error) from error
    if not tokenizer.is_fast:
        raise StudyError(at("model.tokenizer"), f"{name} has no fast tokenizer (tokenizer.json), which masks need")
    return tokenizer


def _no_tokenizer(name: str, folder: Path, error: Exception) -> StudyError:
    if folder.is_dir():
        return StudyError(at("model.tokenizer"), f"{name} holds no tokenizer that can be loaded: {error}")
    return StudyError(at("model.tokenizer"), _not_from_hub(name, error), exit_code=Exit.PREFLIGHT_REFUSED)


def _model_class(config: Any) -> Any:
    """The Auto class that knows this configuration: text first, then image and text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    is_text = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    return AutoModelForCausalLM if is_text or remote else AutoModelForImageTextToText


def class_of(config: Any, origin: Origin) -> tuple[Any, dict[str, Any]]:
    """The class to load pretrained weights as, and its own arguments: components of the vision pipeline are told by a
    file beside them."""
    if config.model_type == "internvl":
        with_components, extra = class_with_components(origin.name, origin.revision)
        if with_components is not None:
            return with_components, extra
    return _model_class(config), {}


def _unloadable(origin: Origin, error: Exception) -> str:
    return f"{origin.name} cannot be loaded: {error}" if origin.local else _not_from_hub(origin.name, error)


def _not_from_hub(name: str, error: Exception) -> str:
    """transformers speaks of a missing network in three ways and at length."""
    unreached = any(words in str(error) for words in ("connect to", "offline mode", "HF_HUB_OFFLINE", "local cache"))
    told = "is not in the hub's cache, and the hub cannot be reached" if unreached else f"cannot be loaded: {error}"
    return f"{name} {told}; {FETCH_FIRST}"


def _refused(settings: ModelConfig, error: Exception) -> StudyError:
    told = f"there is no {error}" if isinstance(error, LookupError) else " ".join(str(error).split())
    return StudyError(at("model.config"), f"{settings.architecture} refuses its settings: {told}")


def _unknown_architecture(name: str, known: Any) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 3)
    return f"transformers has no model_type {name!r}" + (f"; nearest: {', '.join(near)}" if near else "")


def _wrong(message: str) -> StudyError:
    return StudyError(at("model.model_name_or_path"), message, exit_code=Exit.PREFLIGHT_REFUSED)
