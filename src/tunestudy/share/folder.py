"""A model's folder that belongs to no job, as it is pushed: an export, a merge, or anyone's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.manifest import MANIFEST, problems, read_manifest
from tunestudy.records.redact import find_tokens
from tunestudy.report.markdown import code, escape, fenced
from tunestudy.share.content import ADAPTER_CONFIG, CARD, Files
from tunestudy.share.loading import adapter_base, how_to_load

_CONFIGS = {ADAPTER_CONFIG: "adapter", "config.json": "full", "world.json": "world", "mole_config.json": "mole"}


@contextmanager
def files_of_folder(folder: Path, repo: str) -> Iterator[Files]:
    """Its files, and a short card where it has none. StudyError for a folder that is no model, or that is damaged."""
    if not folder.is_dir():
        raise StudyError("--model", f"there is no folder `{folder}`")
    if not any((folder / name).is_file() for name in _CONFIGS):
        raise StudyError("--model", f"`{folder}` is no model or adapter: it has no {' or '.join(list(_CONFIGS)[:2])}")
    if (folder / MANIFEST).is_file() and (wrong := problems(folder)):
        raise StudyError("--model", f"`{folder}` is damaged: {wrong[0]}", exit_code=Exit.PREFLIGHT_REFUSED)
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))
    files = {path.relative_to(folder).as_posix(): path for path in found}
    _require_no_token(files)
    with TemporaryDirectory() as made:
        if CARD not in files:
            files[CARD] = Path(made) / CARD
            files[CARD].write_text(short_card(folder, repo), encoding="utf-8")
        yield files


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _require_no_token(files: Files) -> None:
    """Small text files of others may hold a token; what is on the hub cannot be called back."""
    for name, path in files.items():
        is_small_text = path.suffix in (".json", ".md", ".yaml", ".txt", ".py") and path.stat().st_size < 1 << 20
        if is_small_text and find_tokens(path.read_text(encoding="utf-8", errors="replace")):
            raise StudyError("--model", f"`{name}` holds a token; take it out first, and revoke it")


def short_card(folder: Path, repo: str) -> str:
    """What a folder says of itself."""
    from huggingface_hub import ModelCardData

    manifest = read_manifest(folder) or {}
    kind = next(kind for name, kind in _CONFIGS.items() if (folder / name).is_file())
    base = adapter_base(folder) if kind == "adapter" else None
    library = "peft" if kind == "adapter" else "transformers"
    data = ModelCardData(base_model=base[0] if base else None, library_name=library, tags=["tunestudy"])
    told = manifest.get("export") or {}
    lines = [f"- {escape(key)}: {code(value)}" for key, value in told.items() if isinstance(value, str | int | float)]
    parts = [f"# {escape(repo.rpartition('/')[2])}", fenced(how_to_load(folder, kind, repo, base), "python")]
    parts += ["\n".join(lines)] if lines else []
    return f"---\n{data.to_yaml().strip()}\n---\n\n" + "\n\n".join(parts) + "\n"
