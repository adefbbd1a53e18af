"""What data sets and models *are*, apart from how they are called: hashes of local files, revisions of hub ids.

Hashes of large files are remembered in the results folder by (path, size, mtime), so that `plan` stays instant.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from tunestudy.config.benchmark import Benchmark, LmEval
from tunestudy.config.data import DatacompDataset, Dataset, DigitsDataset, FileDataset, HubDataset, SynthDataset
from tunestudy.config.errors import StudyError
from tunestudy.config.fonts import candidates
from tunestudy.config.model import ModelConfig
from tunestudy.config.paths import located
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.records.atomic import read_object, write_json
from tunestudy.records.fetched import FetchDir, fetch_key, files_of, images_digest
from tunestudy.records.hashes import content_of, sha256
from tunestudy.records.layout import StudyDir
from tunestudy.study.fingerprint import datasets_of, digest, significant

DIGITS_VERSION = 1
"""Raised when the text form of the bundled digits changes."""

SYNTH_VERSION = 1
"""Raised with `data.synth.sample.VERSION`."""

REMEMBERED_FROM_BYTES = 1_000_000


class Identities:
    """Identities of a study's inputs; call `remember` when done to keep the hashes for the next time."""

    def __init__(self, study: Study, folder: Path, results: StudyDir) -> None:
        self._folder, self._fetch = folder, results.fetch
        self._cache_file = results.hashes
        self._hashes: dict[str, str] = read_object(self._cache_file)
        self._new = False
        self.unpinned: list[str] = []
        """Hub ids without a revision, neither in the study nor in its lock."""
        self.datasets = {name: self._dataset(dataset) for name, dataset in study.datasets.items()}
        self.unfetched = {name for name, one in self.datasets.items() if "images" in one and one["images"][1] is None}
        """Data sets of images by URL of which is not known yet which came."""
        self.model = self.model_of(study.model)
        self.unpinned += sorted(_encoders(study, folder))
        self.dataset_digests = {name: digest(identity) for name, identity in self.datasets.items()}
        self.model_digest = digest(self.model)

    def remember(self) -> None:
        """Keep new hashes. A results folder that cannot be written only costs hashing again; `run` will say so."""
        if self._new:
            with contextlib.suppress(OSError):
                write_json(self._cache_file, self._hashes)

    def not_final(self, study: Study, stage: TrainStage | None) -> tuple[str, ...]:
        """What `fetch` has still to pin of what a stage, or an untrained model, reads: the fingerprints of its jobs
        become others then. Data sets by their names, models by their hub ids."""
        names = datasets_of(stage) if stage is not None else ()
        loose = [name for name in names if study.datasets[name].hub_id in self.unpinned or name in self.unfetched]
        encoder = stage.world.encoder if stage is not None and stage.world is not None else None
        models = [study.model.model_name_or_path, encoder.model_name_or_path if encoder is not None else None]
        return (*loose, *(model for model in models if model is not None and model in self.unpinned))

    def of_path(self, path: str) -> str:
        """Digest of a file's or a folder's content; the path is relative to the study file."""
        return digest(self._content(located(self._folder, path)))

    def of_benchmark(self, benchmark: Benchmark) -> str:
        """Digest of what a benchmark's rows come from: its data set, or the files of its own tasks."""
        if not isinstance(benchmark, LmEval):
            return self.dataset_digests[benchmark.dataset.partition("@")[0]]
        paths = [located(self._folder, name) for name in benchmark.named]
        return digest([self._task(path) if path.exists() else None for path in paths])

    def _task(self, path: Path) -> Any:
        """Hashes of a folder of tasks, or of a task's file and of every file that it names."""
        if path.is_dir():
            return self._content(path)
        hashes: dict[str, str] = {}
        waiting = [path]
        while waiting:
            file = waiting.pop()
            if (name := os.path.relpath(file, path.parent)) in hashes:
                continue
            hashes[name] = self._hash(file)
            if file.suffix in (".yaml", ".yml"):
                words = re.findall(r"[\w./-]+", file.read_text(encoding="utf-8", errors="replace"))
                named = [file.parent / one for word in words for one in (word, f"{word.partition('.')[0]}.py")]
                waiting += [one for one in named if one.is_file()]
        return hashes

    def _dataset(self, dataset: Dataset) -> dict[str, Any]:
        options = significant(dataset)
        options.pop("fetch", None)
        if isinstance(dataset, FileDataset | DatacompDataset) and dataset.path is not None:
            del options["path"]
            content = files_of(dataset, self._folder, self._hash)
            return {**options, "content": content, **self._images(dataset, content)}
        if isinstance(dataset, HubDataset | DatacompDataset) and dataset.name is not None:
            revision = self._revision(dataset.name, dataset.revision)
            return {**options, "revision": revision, **self._images(dataset, None)}
        if isinstance(dataset, DatacompDataset):
            return {**options, "version": SYNTH_VERSION, **self._images(dataset, None)}
        if isinstance(dataset, SynthDataset):
            if dataset.shape == "plain":
                del options["shape"]  # such records are what they were before there were others
            return {**options, "font": self._fonts(dataset), "version": SYNTH_VERSION}
        assert isinstance(dataset, DigitsDataset), f"no identity for {dataset}"
        return {**options, "version": DIGITS_VERSION}

    def _images(self, dataset: FileDataset | HubDataset | DatacompDataset, content: Any) -> dict[str, Any]:
        """Which images were fetched, None before; nothing for a data set that names none by URL."""
        if dataset.fetch is None:
            return {}
        folder = FetchDir(self._fetch / fetch_key(dataset, content))
        return {"images": [folder.root.name, images_digest(dataset, folder)]}

    def _fonts(self, dataset: SynthDataset) -> dict[str, str | None]:
        """Hashes of the fonts that images are drawn with: the one that is named, or the best of this system."""
        if not dataset.draws_text:
            return {}
        named = [located(self._folder, dataset.font)] if dataset.font is not None else []
        files = {language: next(iter(named or candidates(language)), None) for language in dataset.languages}
        return {language: None if file is None else self._hash(file) for language, file in files.items()}

    def model_of(self, model: ModelConfig) -> dict[str, Any]:
        """What a model is: hashes of local files, revisions of hub ids."""
        options: dict[str, Any] = significant(model)
        for key in ("model_name_or_path", "tokenizer", "chat_template"):
            name = options[key]
            if isinstance(name, str) and "\n" not in name and located(self._folder, name).exists():
                options[key] = self._content(located(self._folder, name))
            elif isinstance(name, str) and key != "chat_template":
                pin = model.revision if key == "model_name_or_path" else model.tokenizer_revision
                options[key] = {"hub": name, "revision": self._revision(name, pin)}
        if model.weights is not None:
            options["weights"] = self._content(located(self._folder, model.weights))
        del options["revision"]
        options.pop("tokenizer_revision", None)
        return options

    def _revision(self, name: str, revision: str | None) -> str | None:
        if revision is None:
            self.unpinned.append(name)
        return revision

    def _content(self, path: Path) -> Any:
        """A hash of a file, or of every file below a folder by its relative name (hidden ones left out)."""
        return content_of(path, self._hash)

    def _hash(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve().name}:{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in self._hashes:
            try:
                self._hashes[key] = sha256(path)
            except OSError as error:
                raise StudyError(str(path), f"cannot be read: {error.strerror}") from None
            self._new = self._new or stat.st_size >= REMEMBERED_FROM_BYTES
        return self._hashes[key]


def _encoders(study: Study, folder: Path) -> set[str]:
    """World encoders of the hub without a revision."""
    stages = {id(stage): stage for variant in study.variants.values() for stage in variant.training.values()}
    encoders = [stage.world.encoder for stage in stages.values() if stage.world is not None]
    names = {one.model_name_or_path for one in encoders if one.revision is None}
    return {name for name in names if name is not None and not located(folder, name).exists()}
