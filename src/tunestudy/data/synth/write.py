"""A set of samples as files: `data.jsonl` beside its images, or `data.parquet` with the images inside."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.synth import SynthSettings
from tunestudy.data.synth.columns import TYPES, columns_of
from tunestudy.data.synth.fonts import Fonts, find_fonts
from tunestudy.data.synth.generate import Encoded, encode
from tunestudy.records.atomic import remove_tree, temporary_beside

IMAGES_PER_FOLDER = 1000


def write_set(
    out: Path, kinds: Sequence[SynthSettings], *, count: int, shape: str, file_format: str, num_workers: int
) -> Path:
    """Write `count` records, taken from the kinds in turn, and return the path of the file of records.

    The folder appears when all is written. Raises StudyError when it is there already with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyError(str(out), "is there already and not empty: name another folder, or remove it")
    fonts = _all_fonts(kinds)
    jobs = ((kinds[number % len(kinds)], number // len(kinds)) for number in range(count))
    encoded = encode(jobs, fonts, num_workers)
    prepared = temporary_beside(out.absolute())
    try:
        prepared.mkdir(parents=True)
        told = tqdm(encoded, total=count, unit="image", disable=not sys.stderr.isatty())
        name = _WRITERS[file_format](prepared, shape, told)
        if out.exists():
            out.rmdir()
        prepared.rename(out)
    except OSError as error:
        raise StudyError(str(out), f"cannot be written: {error.strerror}", exit_code=Exit.PREFLIGHT_REFUSED) from error
    finally:
        encoded.close()
        if prepared.exists():
            remove_tree(prepared)
    return out / name


def _all_fonts(kinds: Sequence[SynthSettings]) -> Fonts:
    found = [find_fonts(settings, Path()) for settings in kinds if settings.draws_text]
    return found[0] if found else Fonts()


def _write_jsonl(folder: Path, shape: str, encoded: Iterable[Encoded]) -> str:
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for number, one in enumerate(encoded):
            path = Path("images") / f"{number // IMAGES_PER_FOLDER:04d}" / f"{one.sample.id}.png"
            if number % IMAGES_PER_FOLDER == 0:
                (folder / path).parent.mkdir(parents=True)
            (folder / path).write_bytes(one.png)
            row = columns_of(shape, one.sample, number, path.as_posix())
            ordered = {name: row[name] for name in TYPES[shape]}
            file.write(json.dumps(ordered, ensure_ascii=False) + "\n")
    return "data.jsonl"


def _write_parquet(folder: Path, shape: str, encoded: Iterable[Encoded]) -> str:
    from tunestudy.data.synth.parquet import write_parquet

    def rows() -> Iterator[dict[str, Any]]:
        for number, one in enumerate(encoded):
            image = {"bytes": one.png, "path": f"{one.sample.id}.png"}
            yield columns_of(shape, one.sample, number, image)

    write_parquet(folder / "data.parquet", TYPES[shape], rows())
    return "data.parquet"


_WRITERS = {"jsonl": _write_jsonl, "parquet": _write_parquet}
