"""`python -m tunestudy.train.export REQUEST`: a job's result in another form, compared with what was published.

REQUEST is a JSON file: `job` (its folder), `to`, `form`, `dtype` and `bits` (null: as published, none). The new folder
appears whole or not at all, sealed by a manifest that tells what it was made from and how far its outputs lie apart.
"""

import json
import logging
import math
import os
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.stage import Quantization
from tunestudy.models.fold import RAW
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.origin import Origin, load_tokenizer, pretrained
from tunestudy.models.publish import save_result
from tunestudy.models.quantize import require_bitsandbytes
from tunestudy.models.results import load_result, load_whole
from tunestudy.models.stored import COMPONENTS_FILE
from tunestudy.records.atomic import is_disk_full, temporary_beside
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, read_manifest, seal
from tunestudy.train.outputs import Rows, apart, logits_of, perplexity, probe_ids, rows_of
from tunestudy.train.question import job_in
from tunestudy.train.start import versions

LARGEST_SHARE = 1e-4
"""Of the largest output: how far a merged model in float32 may lie from its adapter on its base."""
NO_PLAIN_MODEL = {
    "world": "a world part is no set of weights that a stock class holds; `tunestudy push` shares it as it is",
    "mole": "gates that read the tokens cannot be folded into weights; `tunestudy push` shares the mixture as it is; "
    "or train it with `gate: layer`",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be exported."""

    folder: JobDir
    to: Path
    form: str
    dtype: str | None
    bits: int | None

    @property
    def job(self) -> Job:
        return job_in(self.folder)


def main(path: str) -> int:
    """Exit code of `config.errors.Exit`; a mistake of the user's is one line on stderr."""
    asked = json.loads(Path(path).read_text(encoding="utf-8"))
    request = Request(
        folder=JobDir(Path(asked["job"])),
        to=Path(asked["to"]),
        form=asked["form"],
        dtype=asked["dtype"],
        bits=asked["bits"],
    )
    be_quiet()
    try:
        facts = export(request)
    except StudyError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    except Exception as error:
        if not is_disk_full(error):
            raise
        print(f"--to: no space left for {request.to}; nothing of it stays", file=sys.stderr)
        return int(Exit.PREFLIGHT_REFUSED)
    print("\n".join(told(request, facts)))
    return int(Exit.DONE)


def be_quiet() -> None:
    """Leave the terminal to what is told at the end: libraries warn hundreds of times of their own insides."""
    from transformers.utils import logging as of_transformers

    warnings.simplefilter("ignore")
    of_transformers.disable_progress_bar()
    logging.disable(logging.WARNING)


def export(request: Request) -> dict[str, Any]:
    """Make `request.to`; returns what its manifest says of the export. Raises StudyError."""
    manifest = require_sound(request.folder)
    kind = str(manifest["kind"])
    if kind in NO_PLAIN_MODEL:
        raise StudyError("--form", NO_PLAIN_MODEL[kind], exit_code=Exit.PREFLIGHT_REFUSED)
    if request.form == "folded" and kind != "adapter":
        raise StudyError("--form", "folded is a form of adapters, and this result is a whole model; use merged")
    if request.form == "quantised" and (request.folder.model / COMPONENTS_FILE).is_file():
        raise StudyError("--form", "models with own vision components load through tunestudy, which reads no few bits")
    prepared = temporary_beside(request.to)
    request.to.parent.mkdir(parents=True, exist_ok=True)
    try:
        facts = _FORMS[request.form](request, prepared, kind)
        require_finite(facts)
        about = {"from": request.folder.root.name, "form": request.form, **facts}
        kept = {key: manifest.get(key) for key in ("fingerprint", "base", "step")}
        new_kind = "adapter" if request.form == "folded" else "full"
        if request.to.is_dir():
            request.to.rmdir()  # an empty one
        seal(prepared, request.to, {"kind": new_kind, **kept, "versions": versions(), "export": about})
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
    return about


def require_sound(folder: JobDir) -> dict[str, Any]:
    """The manifest of the published model, after all its hashes held."""
    if wrong := problems(folder.model):
        cure = "delete it and result.json, then run again to make it anew"
        raise StudyError(f"jobs/{folder.root.name}/model", f"{wrong[0]}; {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
    manifest = read_manifest(folder.model)
    assert manifest is not None
    return manifest


def require_finite(facts: dict[str, Any]) -> None:
    """Refuse a model whose outputs, or what is measured of them, are no numbers."""
    if any(isinstance(value, float) and not math.isfinite(value) for value in facts.values()):
        others = " or ".join(name for name in ("bfloat16", "float32") if name != facts["dtype"])
        why = f"its outputs overflow in {facts['dtype']}; nothing was written; use {others}"
        raise StudyError("--dtype", why, exit_code=Exit.JOBS_FAILED)


def folded(request: Request, prepared: Path, _kind: str) -> dict[str, Any]:
    """The adapter as stock PEFT reads it, without the raw form of its gates, and naming its base from where it lies."""
    from safetensors.torch import load_file, save_file

    from tunestudy.models.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS

    had_gates = (request.folder.model / RAW).is_dir()
    shutil.copytree(request.folder.model, prepared, ignore=shutil.ignore_patterns(RAW, "MANIFEST.json", "README.md"))
    config = json.loads((prepared / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = (request.folder.model / str(config["base_model_name_or_path"])).resolve()
    if base.is_dir():
        config["base_model_name_or_path"] = os.path.relpath(base, request.to.resolve())
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (prepared / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
    if request.dtype is not None:
        tensors = load_file(prepared / ADAPTER_WEIGHTS)
        cast = {name: tensor.to(getattr(torch, request.dtype)) for name, tensor in tensors.items()}
        save_file(cast, prepared / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return {"gates": "folded into the weights" if had_gates else "none", "dtype": request.dtype or "as published"}


def merged(request: Request, prepared: Path, kind: str) -> dict[str, Any]:
    """The whole model in safetensors, its outputs read back and compared with the adapter's on its base."""
    job, device = request.job, _device()
    whole = load_whole(request.folder, device)
    loaded = _with_tokens(request)
    ids = probe_ids(loaded.tokenizer, seed=0).to(device)
    before = logits_of(whole, ids)
    model = whole.merge_and_unload() if kind == "adapter" else whole
    if request.dtype is not None:
        model = model.to(getattr(torch, request.dtype))
    save_result(model, loaded.tokenizer, prepared, None, loaded.processor)
    dtype = request.dtype or job.model.dtype
    back = pretrained(Origin(str(prepared)), job.model.model_copy(update={"dtype": dtype}), device)
    difference = apart(before, logits_of(back, ids))
    largest = float(before.abs().max())
    if dtype == job.model.dtype == "float32" and difference > LARGEST_SHARE * max(largest, 1.0):
        why = f"merged, its outputs differ by {difference:.2g} from the adapter's on its base; nothing was written"
        raise StudyError(f"jobs/{request.folder.root.name}", why, exit_code=Exit.JOBS_FAILED)
    return {"dtype": dtype, "max_difference": difference, "largest_output": largest}


def quantised(request: Request, prepared: Path, kind: str) -> dict[str, Any]:
    """The merged model with linear layers in few bits, compared by outputs and by perplexity on held-out rows."""
    require_bitsandbytes("--form")
    job, device = request.job, _device()
    assert request.bits is not None
    dtype = request.dtype or job.model.dtype
    bits = Quantization(load_in_4bit=request.bits == 4, load_in_8bit=request.bits == 8, bnb_4bit_compute_dtype=dtype)
    settings = job.model.model_copy(update={"dtype": dtype})
    loaded = _with_tokens(request)
    ids = probe_ids(loaded.tokenizer, seed=0).to(device)
    rows = rows_of(job, request.folder, loaded)
    in_full = temporary_beside(request.to)
    try:
        whole = load_whole(request.folder, device)
        whole = whole.merge_and_unload() if kind == "adapter" else whole
        before, perplexity_before = logits_of(whole, ids), perplexity(whole, rows)
        save_result(whole, loaded.tokenizer, in_full, None, loaded.processor)
        del whole
        small = pretrained(Origin(str(in_full)), settings, device, bits)
        save_result(small, loaded.tokenizer, prepared, None, loaded.processor)
        in_memory = logits_of(small, ids)
        del small
    finally:
        shutil.rmtree(in_full, ignore_errors=True)
    back = _stock(prepared, settings, device)
    after = logits_of(back, ids)
    return {
        "bits": request.bits,
        "dtype": dtype,
        "max_difference": apart(before, after),
        "largest_output": float(before.abs().max()),
        "max_difference_saved": apart(in_memory, after),
        **_told_perplexity(perplexity_before, perplexity(back, rows), rows),
    }


def _stock(folder: Path, settings: Any, device: torch.device) -> Any:
    """As anyone loads it: the folder's own configuration says that it is in few bits."""
    from transformers import AutoConfig

    from tunestudy.models.origin import class_of
    from tunestudy.models.quantize import keep_layout

    model_class, _ = class_of(AutoConfig.from_pretrained(folder), Origin(str(folder)))
    model = model_class.from_pretrained(folder, dtype=getattr(torch, settings.dtype), device_map={"": device})
    keep_layout(model)
    return model


def _told_perplexity(before: float | None, after: float | None, rows: Rows) -> dict[str, Any]:
    if before is None or after is None:
        return {"perplexity": rows.why_none}
    told = {"perplexity_before": before, "perplexity_after": after}
    return {**{key: _in_json(value) for key, value in told.items()}, "rows": len(rows.samples)}


def _in_json(value: float) -> float | str:
    """JSON has no infinity. A perplexity that is too large for a float is a finding, not an overflow of outputs."""
    return "inf" if math.isinf(value) else value


def _with_tokens(request: Request) -> LoadedModel:
    """Tokenizer and processor as they were published; the model that comes with them is not used."""
    from transformers import AutoTokenizer

    from tunestudy.models.origin import load_processor

    job, folder = request.job, request.folder
    published = folder.model / "tokenizer_config.json"
    base = folder.root / job.base_dir
    tokenizer = AutoTokenizer.from_pretrained(folder.model) if published.is_file() else load_tokenizer(job.model, base)
    if not any(folder.model.glob("*processor_config.json")):
        return LoadedModel(None, tokenizer, {})
    model = load_result(folder, "cpu").model
    from tunestudy.models.decoder import base_model_of

    return LoadedModel(model, tokenizer, {}, processor=load_processor(job.model, base, base_model_of(model)))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_FORMS = {"folded": folded, "merged": merged, "quantised": quantised}


def told(request: Request, facts: dict[str, Any]) -> list[str]:
    """What was made, in lines."""
    lines = [f"{request.form}: {request.to}"]
    if request.form == "folded":
        lines.append(f"   gates: {facts['gates']}; an adapter that stock PEFT loads on its base")
    else:
        what = "the adapter on its base" if request.form == "merged" else "the whole model"
        scale = f"(outputs reach {facts['largest_output']:.3g})"
        lines.append(f"   outputs differ from {what} by at most {facts['max_difference']:.2g} {scale}")
    if "perplexity_before" in facts:
        before, after = (f"{float(facts[key]):.4g}" for key in ("perplexity_before", "perplexity_after"))
        lines.append(f"   perplexity on {facts['rows']} held-out rows: {before} before, {after} in few bits")
    elif "perplexity" in facts:
        lines.append(f"   perplexity was not compared: {facts['perplexity']}")
    training = request.job.training
    if request.form != "folded" and training is not None and training.quantization is not None:
        lines.append("   the adapter learnt on a base in few bits; on the full one its scores may differ a little")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
