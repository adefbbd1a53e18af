"""`tunestudy export`: a published result in the form that another tool wants."""

import os
import sys
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.launch.requests.by_worker import by_worker, refuse_without
from tunestudy.launch.select import must_be_known, select
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.tiny import other_form

MODULE = "tunestudy.train.export"
FORMS = ("folded", "merged", "quantised")
DTYPES = ("float32", "bfloat16", "float16")
NEEDED = {"torch": "torch", "transformers": "transformers", "peft": "peft"}
ELSEWHERE = {
    "gguf": "llama.cpp's convert_hf_to_gguf.py makes it from `--form merged`",
    "awq": "AutoAWQ or llm-compressor make it from `--form merged`",
    "gptq": "GPTQModel or llm-compressor make it from `--form merged`",
    "onnx": "optimum-cli export onnx makes it from `--form merged`",
    "mlx": "mlx_lm.convert makes it from `--form merged`",
}


def export(
    where: Path,
    results: Path,
    *,
    to: Path | None,
    form: str,
    only: str = "",
    seed: int | None = None,
    dtype: str | None = None,
    bits: int | None = None,
    tiny: bool = False,
) -> Exit:
    """Export the result in a job's folder, or of a study's variant. Raises StudyError."""
    if to is None or not form:
        which = "" if where.is_dir() else " --only VARIANT --seed 1"
        example = f"tunestudy export {where}{which} --form merged --to DIR"
        forms = "`--form folded` is the adapter alone, `merged` a whole model, `quantised` that in few bits"
        raise StudyError("export", f"--form and --to are missing, such as `{example}`; {forms}")
    form = "quantised" if form == "quantized" else form
    if form not in FORMS:
        known = ELSEWHERE.get(form.lower(), f"there are: {', '.join(FORMS)}")
        raise StudyError("--form", f"there is no form `{form}` here; {known}")
    if dtype is not None and dtype not in DTYPES:
        raise StudyError("--dtype", f"`{dtype}` is none of {', '.join(DTYPES)}")
    if (bits is not None) != (form == "quantised") or bits not in (None, 4, 8):
        raise StudyError("--bits", "is 4 or 8 with `--form quantised`, and goes with no other form")
    folder = job_folder(where) or folder_of_study(where, results, only, seed, tiny=tiny)
    require_published(folder)
    require_free(to)
    refuse_without("export", {**NEEDED, **({"bitsandbytes": "bitsandbytes"} if bits else {})})
    request = {
        "job": str(folder.root.resolve()),
        "to": str(to.absolute()),
        "form": form,
        "dtype": dtype,
        "bits": bits,
    }
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    return by_worker("export", MODULE, folder.study.cache, request, environment)


def job_folder(where: Path) -> JobDir | None:
    """The job whose folder (or `model/` in it, or a link under trials/) was given; None for a study file."""
    for folder in (where, where.parent):
        if (folder / "job.json").is_file():
            return JobDir(folder.resolve())
    if where.is_dir():
        raise StudyError(str(where), "is no job's folder: it has no job.json; give one of `jobs/`, or the study file")
    return None


def folder_of_study(where: Path, results: Path, only: str, seed: int | None, *, tiny: bool) -> JobDir:
    """The folder of the one job that `--only` and `--seed` name."""
    loaded = load_study(where, tiny=tiny)
    if loaded.has_tiny and (note := other_form(loaded.study.study, results, small=tiny)):
        print(note, file=sys.stderr)
    plan = make_plan(loaded, results)
    if not only:
        names = ", ".join(plan.study.variants)
        raise StudyError("--only", f"say which result: --only VARIANT or VARIANT@STAGE; there are {names}")
    job = chosen(plan, only, seed)
    if job.settings is None:
        raise StudyError("--only", f"`{only}` is the study's model as it is: nothing of it was trained")
    return StudyDir(results / loaded.study.study).job(job.id)


def chosen(plan: Plan, only: str, seed: int | None) -> Job:
    """The job of a variant's stage (its last by default) at a seed, which may be left out where there is one."""
    every = [planned.job for planned in plan.jobs]
    if seed is not None:
        must_be_known("--seed", str(seed), {str(job.seed) for job in every})
    jobs = select(every, [only], [] if seed is None else [seed])
    variant, _, stage = only.partition("@")
    wanted = stage or next(reversed(plan.study.variants[variant].stages), "")
    found = [job for job in jobs if variant in job.variants and wanted in ("", job.stage)]
    found = [job for job in found if seed is None or job.seed == seed]
    if len(found) > 1:
        known = ", ".join(str(job.seed) for job in found)
        raise StudyError("--seed", f"`{only}` was trained at seeds {known}; say which")
    return found[0]


def require_published(folder: JobDir) -> None:
    """Raise StudyError where there is no result yet, or one that has no weights of its own."""
    if not folder.result_json.is_file():
        told = "nothing is published yet; first `tunestudy run` its study"
        raise StudyError(folder.root.name, told, exit_code=Exit.PREFLIGHT_REFUSED)
    if not folder.model.is_dir():
        kind = (read_json(folder.result_json) or {}).get("model_kind")
        told = "the study's model was only scored" if kind == "base" else "its `model/` folder is gone"
        raise StudyError(folder.root.name, f"there are no weights to export: {told}", exit_code=Exit.PREFLIGHT_REFUSED)


def require_free(to: Path) -> None:
    """Raise StudyError unless `to` can become a new folder."""
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise StudyError("--to", f"`{to}` is there already; give a new folder, or remove it first")
    above = next(folder for folder in to.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise StudyError("--to", f"`{to}` cannot be made: nothing can be written in `{above}`")
