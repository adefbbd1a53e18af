"""Stands in for the worker of a merging job: the same files, no torch; the result is a list of what was asked for."""

import json
import os
import sys
from pathlib import Path

from tunestudy.config.job import Job
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import seal

folder = JobDir(Path(sys.argv[1]))
job = Job.model_validate(read_json(folder.job_json))
assert job.merging is not None
with open(folder.root / "starts.txt", "a") as file:
    file.write("start\n")
prepared = folder.root / ".tmp-model"
prepared.mkdir()
home = (folder.root / job.base_dir).resolve()
if job.merging.into == "adapter":
    base = os.path.relpath(home / str(job.model.model_name_or_path), folder.model.resolve())
    (prepared / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 2}))
    (prepared / "adapter_model.safetensors").write_text("adapter")
else:
    (prepared / "config.json").write_text("{}")
    read = {name: (home / str(one.path) / "model.safetensors").read_text() for name, one in job.merging.models.items()}
    (prepared / "model.safetensors").write_text(json.dumps(read))
write_json(prepared / "merge.json", {"settings": job.merging.model_dump(mode="json"), "seed": job.seed})
seal(prepared, folder.model, {"kind": job.merging.into})
role = {
    "tensors": 3,
    "parameters": 1200,
    "models": {"en": {"zero_share": 0.25, "norm": 1.0, "relative_norm": 0.0123}},
    "cosine": {"en|ko": 0.5},
}
report = {"method": job.merging.method, "roles": {"language_model": role}, "warnings": ["they are much alike"]}
write_json(folder.root / "merge_report.json", report)
write_json(folder.result_json, {"fingerprint": job.fingerprint, "status": "done"})
