"""How ranks share a model: DeepSpeed's and FSDP's settings of other programs as an engine of ours.

None of it changes a result, so that what cannot be carried costs speed or memory at most.
"""

import json
import re
from pathlib import Path
from typing import Any

from tunestudy.config.deepspeed import AUTO, KEYS, flattened, is_off, nested
from tunestudy.study.importing.rules import ImpossibleError, NotNeededError, View, listed

_STAGES = re.compile(r"(?i)(?:ds_)?z(?:ero)?_?-?([0-3])(.*)")
SLICED_OPTIMISERS = ("adamw_torch_fused", "adamw_torch", "sgd", "adamw_hf", None)


def DEEPSPEED(value: Any, view: View) -> dict[str, Any]:  # noqa: N802 (a row of tables)
    """A section, a file of one, or a name that every program knows: `zero2`, `ds_z3_offload_config.json`."""
    section = value if isinstance(value, dict) else _section(str(value), view)
    zero = section.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage == 0:
        return {"stage.engine": "ddp"}
    if stage == 3 and few_bits(view):
        raise ImpossibleError("ZeRO stage 3 cannot slice weights in few bits; several ranks get engine ddp")
    _check_optimiser(view, "deepspeed")
    kept = _passed(section)
    return {"stage.engine": "deepspeed", "stage.deepspeed": kept}


def FSDP(value: Any, view: View) -> dict[str, Any]:  # noqa: N802 (a row of tables)
    """`fsdp: full_shard auto_wrap`, `[full_shard, offload]`, `fsdp2`, or true with an `fsdp_config`."""
    if value in (False, "", "false", []):
        raise NotNeededError("switched off")
    _check_optimiser(view, "fsdp2")
    names = str(value).split() if isinstance(value, str) else [str(one) for one in listed(value)]
    config = view["fsdp_config"]
    config = {str(key).removeprefix("fsdp_"): one for key, one in config.items()} if isinstance(config, dict) else {}
    options: dict[str, Any] = {}
    if "offload" in names or config.get("offload_params") is True:
        options["cpu_offload"] = True
    if "hybrid_shard" in names or str(config.get("sharding_strategy", "")).startswith("HYBRID"):
        options["within_node"] = True
    if "shard_grad_op" in names or config.get("sharding_strategy") == "SHARD_GRAD_OP" or few_bits(view):
        options["shard"] = "gradients"  # weights in few bits cannot be sliced
    return {"stage.engine": "fsdp2", **({"stage.fsdp2": options} if options else {})}


def few_bits(view: View) -> bool:
    """Whether the base is in 4 or 8 bits."""
    keys = ("load_in_4bit", "load_in_8bit")
    return any(view.on(key) for key in keys) or any(view[key] for key in ("quantization_bit", "quant_bits"))


def _check_optimiser(view: View, engine: str) -> None:
    name = view["optimizer"] or view["optim"]
    if name not in SLICED_OPTIMISERS:
        raise ImpossibleError(f"{engine} takes AdamW of torch and sgd, not {name}; several ranks get engine ddp")
    if view.on("fp16"):
        raise ImpossibleError(f"{engine} takes no fp16, whose loss scaler does not see slices; several ranks get ddp")


def _section(name: str, view: View) -> dict[str, Any]:
    file = view.found(name)
    if file is not None and file.is_file():
        return _read(file)
    known = _STAGES.fullmatch(Path(name).stem)
    if known is None:
        raise ImpossibleError(f"there is no file {name}; put it beside the configuration, or set the stage's engine")
    zero: dict[str, Any] = {"stage": int(known[1])}
    if "offload" in known[2]:
        zero["offload_optimizer"] = {"device": "cpu"}
        zero |= {"offload_param": {"device": "cpu"}} if known[1] == "3" else {}
    return {"zero_optimization": zero}


def _read(file: Path) -> dict[str, Any]:
    try:
        section = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ImpossibleError(f"{file.name} cannot be read as JSON") from None
    if not isinstance(section, dict):
        raise ImpossibleError(f"{file.name} must hold one mapping of keys")
    return section


def _passed(section: dict[str, Any]) -> dict[str, Any]:
    """The part of a section that DeepSpeed itself reads. Raises ImpossibleError for what tunestudy refuses."""
    kept = []
    for name, value in flattened(section):
        key = KEYS.get(name)
        if key is not None and key.kind == "refused" and value != AUTO and not is_off(value):
            raise ImpossibleError(f"{name}: {key.words}; take it out of the file, or set engine: deepspeed by hand")
        if key is None or key.kind != "passed on" or value == AUTO or key.wrong(value):
            continue  # without effect, or a second voice for a key of the study
        kept.append((name, value))
    return nested(kept)
