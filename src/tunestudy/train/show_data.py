"""`python -m tunestudy.train.show_data FOLDER`: what `tunestudy data` shows, made as a job would make it.

FOLDER holds job.json, as deep in the study as a job's, and request.json (`data.show.Look`); shown.json is written into
it. Weights are loaded only where a stage adds parts that change how images or tokens are written.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.data.show import Look, Shower
from tunestudy.data.sources import Folders
from tunestudy.data.vision import Vision
from tunestudy.models.origin import architecture_config, find_origin, load_processor
from tunestudy.models.own import tokenizer_of
from tunestudy.models.start import load_start
from tunestudy.models.vision import vision_of
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import REQUEST, SHOWN, JobDir
from tunestudy.train.question import job_in


def main(root: str) -> int:
    """Exit code of `config.errors.Exit`; a mistake of the user's stands in shown.json."""
    folder = JobDir(Path(root).resolve())
    job = job_in(folder)
    asked = read_json(folder.root / REQUEST)
    look = Look(tuple(asked["sources"]), asked["num_samples"], asked["num_records"])
    assert job.training is not None, "only a stage that trains has data"
    try:
        tokenizer, vision = reading_with(job, folder)
        shower = Shower(tokenizer, job.training, vision, Folders.of(job, folder))
        shown = shower.shown(look, dict(job.datasets))
    except StudyError as error:
        write_json(folder.root / SHOWN, {"error": error.message, "key": error.place.key})
        return int(error.exit_code)
    write_json(folder.root / SHOWN, shown)
    return int(Exit.DONE)


def reading_with(job: Job, folder: JobDir) -> tuple[Any, Vision | None]:
    """The tokenizer of the stage, and how its model takes images."""
    settings = job.training
    assert settings is not None
    if settings.world is not None or settings.components is not None:
        plain = settings.model_copy(update={"init": "base", "adapter": None, "quantization": None})
        loaded = load_start(job.model_copy(update={"parents": (), "settings": plain}), folder, "cpu")
        return loaded.tokenizer, loaded.vision
    tokenizer = tokenizer_of(job, folder)
    base = folder.root / job.base_dir
    config = configuration(job, folder, tokenizer)
    processor = load_processor(job.model, base, SimpleNamespace(config=config))
    return tokenizer, vision_of(config, tokenizer, processor)


def configuration(job: Job, folder: JobDir, tokenizer: Any) -> Any:
    """The configuration of the study's model, without its weights."""
    from transformers import AutoConfig

    if job.model.architecture:
        return architecture_config(job.model, tokenizer)
    origin = find_origin(job.model, folder.root / job.base_dir)
    options = {"revision": origin.revision, "trust_remote_code": job.model.trust_remote_code}
    return AutoConfig.from_pretrained(origin.name, **options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
