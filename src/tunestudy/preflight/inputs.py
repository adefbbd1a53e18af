"""What a study names: models, data sets, benchmarks; here, to be fetched, or unknown. And whether tokens are there."""

import ast
import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunestudy.config.benchmark import LmEval
from tunestudy.config.data import DatacompDataset, FileDataset
from tunestudy.config.job import Job
from tunestudy.config.model import ModelConfig
from tunestudy.config.order import ScoreOrder
from tunestudy.config.paths import located
from tunestudy.config.study import Study
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.points import Point, not_needed, ok, refused, some, warning
from tunestudy.records.hub_cache import hub_cache, snapshot_folder
from tunestudy.records.locked import Lock, Named, item_problems
from tunestudy.study.load import LoadedStudy
from tunestudy.study.locked import Locking
from tunestudy.study.nearest import did_you_mean

HUB = "https://huggingface.co"
PATIENCE_S = 6.0
FILES_OPENED = 1000
RUN_ONCE = "run once where the hub answers, with the HF_HOME of the jobs, or take another task"
NOTHING_TO_DO = "all jobs are done"
ON = {"1", "true", "yes", "on"}


def model_points(asked: Asked) -> Iterator[Point]:
    """The study's model and those that scorers of curricula read with: local folders and architectures."""
    if not asked.starts:
        yield not_needed("model", NOTHING_TO_DO)
        return
    known = model_types() if asked.starts_here else set()
    for key, model in models_of(asked.study).items():
        yield from _model(key, model, asked.base, known)


def models_of(study: Study) -> dict[str, ModelConfig]:
    """By the key that names each."""
    found = {"model": study.model}
    for variant in study.variants.values():
        for name, stage in variant.training.items():
            if isinstance(stage.order, ScoreOrder) and isinstance(stage.order.scorer, ModelConfig):
                found[f"{name}.order.scorer"] = stage.order.scorer
    return found


def _model(check: str, model: ModelConfig, base: Path, known: set[str]) -> Iterator[Point]:
    if model.architecture is not None:
        if known and model.architecture not in known:
            told = f"transformers knows no architecture `{model.architecture}`"
            yield refused(check, told, did_you_mean(model.architecture, sorted(known)))
        else:
            yield ok(check, f"{model.architecture} with random weights")
        return
    assert model.model_name_or_path is not None
    folder = located(base, model.model_name_or_path)
    if folder.is_dir():
        yield _model_folder(check, folder, known, trusted=model.trust_remote_code)


def _model_folder(check: str, folder: Path, known: set[str], *, trusted: bool) -> Point:
    config_file, index = folder / "config.json", folder / "model.safetensors.index.json"
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    except FileNotFoundError:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        return refused(check, f"{folder} has no config.json; it holds {held}", "name the folder of a whole model")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return refused(check, f"{folder}: its json files cannot be read: {error}", "fetch the model again")
    absent = sorted(name for name in set(shards) or {"model.safetensors"} if not (folder / name).is_file())
    if absent:
        cure = "convert its .bin files to safetensors" if any(folder.glob("*.bin")) else "fetch the model again"
        return refused(check, f"{folder} lacks {', '.join(absent[:3])}{', …' if len(absent) > 3 else ''}", cure)
    kind = str(config.get("model_type"))
    if known and kind not in known and not trusted:
        cure = f"a newer transformers, or trust_remote_code; {did_you_mean(kind, sorted(known))}"
        return refused(check, f"{folder} is a `{kind}`, which this transformers does not know", cure)
    count = len(set(shards)) or 1
    return ok(check, f"{folder}: {kind}, {count} file{'s' * (count > 1)} of weights, all there")


def model_types() -> set[str]:
    """Architectures that the installed transformers knows, read from its source: importing it would import torch."""
    spec = importlib.util.find_spec("transformers")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        return set()
    found: set[str] = set()
    for name in ("auto_mappings.py", "configuration_auto.py"):
        file = Path(next(iter(folders))) / "models" / "auto" / name
        if file.is_file():
            found |= set(_configurations(ast.parse(file.read_text(encoding="utf-8"))))
    return found


def _configurations(tree: ast.Module) -> Iterator[str]:
    """First words of pairs such as `("qwen3", "Qwen3Config")`, and keys of such dictionaries."""
    for node in ast.walk(tree):
        pairs: list[tuple[ast.expr | None, ast.expr]] = []
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            pairs = [(node.elts[0], node.elts[1])]
        elif isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        for key, value in pairs:
            if not (isinstance(key, ast.Constant) and isinstance(value, ast.Constant)):
                continue
            if isinstance(key.value, str) and str(value.value).endswith("Config"):
                yield key.value


def data_points(loaded: LoadedStudy) -> Iterator[Point]:
    """Data sets that lie in files, and benchmarks. What files hold the plan has hashed already."""
    files = {
        name: dataset.path
        for name, dataset in loaded.study.datasets.items()
        if isinstance(dataset, FileDataset | DatacompDataset) and dataset.path is not None
    }
    unread = []
    for name, path in files.items():
        if problem := _unreadable(located(loaded.path.parent, path)):
            unread.append(f"{name}: {problem}")
    if unread:
        yield refused("data", "; ".join(unread), "put the files there, with rights to read them")
    elif files:
        yield ok("data", f"{some(list(files))}: there, and hashed by the plan")
    made = [name for name, one in loaded.study.datasets.items() if name not in files and one.hub_id is None]
    if made:
        yield ok("data made here", f"{some(made)}: nothing to fetch")
    yield _benchmarks(loaded.study)
    if loaded.locking is not None and loaded.locking.lock is not None:
        for name, why in loaded.locking.unlockable.items():
            yield warning(name, f"{why}, so not locked: jobs ask the hub", RUN_ONCE)


def _unreadable(path: Path) -> str:
    """Why a file, or one of a folder's, cannot be read; empty where all can."""
    try:
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        for file in files[:FILES_OPENED]:
            with open(file, "rb") as opened:
                opened.read(1)
    except OSError as error:
        return f"{error.filename or path} cannot be read: {error.strerror}"
    return "" if files else f"{path} holds no files"


def _benchmarks(study: Study) -> Point:
    if not study.benchmarks:
        return warning("benchmarks", "none: nothing will be compared", "add benchmarks to the study")
    harness = [name for name, one in study.benchmarks.items() if isinstance(one, LmEval)]
    own = [name for name in study.benchmarks if name not in harness]
    told = [f"{some(own)}: from the study's data sets"] if own else []
    if harness:
        told.append(
            f"{', '.join(harness)}: tasks of lm-evaluation-harness, which fetches their data and some metrics itself; "
            "`tunestudy fetch` says what is not locked"
        )
    return ok("benchmarks", "; ".join(told))


def hub_points(asked: Asked) -> Iterator[Point]:
    """Everything that has a hub id: in the hub's cache, or to be fetched, which needs the hub to answer."""
    locking = asked.loaded.locking
    if locking is None or not locking.named:
        yield not_needed("hub", "the study names nothing of the hub")
        return
    named = [one for one in locking.named if asked.starts and _is_read(one, asked.unfinished, locking)]
    if not named:
        yield not_needed("hub", "what is still to do reads nothing of it" if asked.starts else NOTHING_TO_DO)
        return
    lock, cache = locking.lock, hub_cache({**os.environ, **asked.study.env})
    missing = [one for one in named if not is_cached(one, lock, cache)]
    there = [str(one) for one in named if one not in missing]
    if there:
        yield ok("hub cache", f"{some(there)}: in {cache}")
    loose = [one.id for one in named if one.revision is None and (lock is None or not lock.covers(one))]
    if loose:
        cure = "`tunestudy fetch STUDY` locks it, or give `revision:`"
        yield warning("pinned", f"{some(loose)}: no revision, so what is served may change", cure)
    if missing:
        point = hub_point(missing, cache)
        if point.state == "refused" and not asked.is_local:
            told = f"{point.found}; the machines that {asked.resources.executor} chooses may have them"
            point = warning("hub", told, point.remedy)
        yield point


def _is_read(named: Named, unfinished: Sequence[Job], locking: Locking) -> bool:
    """Whether jobs that are still to do read it: any model, of data sets those that they name. All without a plan."""
    if named.kind == "model" or not unfinished:
        return True
    datasets = {dataset.hub_id for job in unfinished for dataset in job.datasets.values()}
    benchmarks = {name for job in unfinished for name in job.evaluations}
    tasks = {task for name in benchmarks for task in locking.tasks.get(name, ())}
    found = locking.lock.tasks if locking.lock is not None else {}
    read = {name for task in tasks for name, *_ in found.get(task, {}).get("reads") or ()}
    return named.id in datasets | read


def is_cached(named: Named, lock: Lock | None, cache: Path) -> bool:
    """Whether all files that are locked are in the hub's cache; of what is not locked, some of its revision."""
    item = lock.find(named) if lock is not None else None
    if item is not None:
        return not any(item_problems(item, cache))
    folder = snapshot_folder(cache, named.kind, named.id, "any").parent.parent
    ref = folder / "refs" / (named.revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else named.revision or "main"
    snapshot = folder / "snapshots" / commit
    return snapshot.is_dir() and any(path.exists() for path in snapshot.iterdir())


def hub_home() -> Path:
    """Where the hub's client keeps its token, unless it is told of another place."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface"
    return Path(os.environ.get("HF_HOME") or default).expanduser()


def hub_point(missing: Sequence[Named], cache: Path) -> Point:
    """Whether the hub answers for what is not in its cache; waits for at most `PATIENCE_S` seconds."""
    check, names = "hub", some([one.id for one in missing])
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ON:
        cure = "unset HF_HUB_OFFLINE for one `tunestudy fetch STUDY`, on a machine with internet"
        return refused(check, f"{names}: not in {cache}, and HF_HUB_OFFLINE is set", cure)
    address, silent = hub_address(os.environ), no_answer(os.environ)
    if silent:
        cure = "`tunestudy fetch STUDY` on a machine with internet and the same HF_HOME, or set a proxy or HF_ENDPOINT"
        return refused(check, f"{names}: not in {cache}, and {silent}", cure)
    return warning(check, f"{names}: not fetched yet; {address} answers", "tunestudy fetch STUDY, before a GPU is held")


def hub_address(environment: Mapping[str, str]) -> str:
    """Of the hub that its client asks."""
    return environment.get("HF_ENDPOINT", HUB).rstrip("/")


def no_answer(environment: Mapping[str, str]) -> str:
    """That the hub cannot be reached, and why; empty where it answers. Waits for at most `PATIENCE_S` seconds."""
    address = hub_address(environment)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE_S):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        return f"{address} cannot be reached: {getattr(error, 'reason', None) or error}"
    return ""


def token_point(loaded: LoadedStudy) -> Point:
    """Whether the hub's token is there, never what it is."""
    check, there = "Hugging Face token", hub_token_source()
    if there is not None:
        return ok(check, f"there, by {there}")
    cure = "hf auth login, or export HF_TOKEN"
    if any(stage.push_to_hub for one in loaded.study.variants.values() for stage in one.stages.values()):
        return warning(check, "none: results to push will wait for `tunestudy push`", cure)
    if loaded.locking is not None and loaded.locking.named:
        return warning(check, "none: gated and private repositories will refuse", cure)
    return not_needed(check, "none; the study names nothing of the hub")


def hub_token_source() -> str | None:
    """Where a token of the hub comes from, in the order in which its client looks."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return f"${name}"
    file = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser()
    return "`hf auth login`" if file.is_file() and file.stat().st_size else None
