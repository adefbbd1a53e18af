"""Records in files: json, jsonl, csv, tsv, parquet, arrow and WebDataset's tar, alone or a folder of them.

A file must be what its name says: its first bytes are looked at before its records are.
"""

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunestudy.config.data import FileDataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.paths import located
from tunestudy.data.fetch.wanted import images_identity, with_images
from tunestudy.data.sources import Folders, Raw
from tunestudy.data.sources.halves import HALF, holds_half, may_hold_half
from tunestudy.data.sources.tar import read_tar
from tunestudy.records.hashes import sha256

SIGNATURES = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",  # the stream form, which `datasets` writes
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"%PDF": "PDF",
    b"\x89PNG": "PNG",
    b"version https://git-lfs": "Git LFS pointer (fetch it with git lfs pull)",
    b"<!doctype": "HTML",
    b"<html": "HTML",
    b"<?xml": "XML",
}
TEXT = "text"
ROWS_AT_ONCE = 1024
"""Of a parquet file, in memory: rows may hold images."""


def read(dataset: FileDataset, folders: Folders) -> Iterator[Raw]:
    """Records of every file, in the order of file names, with the images that were fetched for them."""
    return with_images(records(dataset, folders), dataset, folders)


def records(dataset: FileDataset, folders: Folders) -> Iterator[Raw]:
    """Records as they stand in the files; images may be named by URL."""
    for path in data_files(dataset, folders.base):
        yield from read_file(path)


def read_file(path: Path) -> Iterator[Raw]:
    """Records of one file."""
    check_content(path)
    yield from READERS[path.suffix.lower()][0](path)


def identity(dataset: FileDataset, folders: Folders) -> str:
    """Names and hashes of the files, not where they lie; and which images came."""
    files = " ".join(f"{path.name} {sha256(path)}" for path in data_files(dataset, folders.base))
    return files + images_identity(dataset, folders)


def data_files(dataset: FileDataset, base_dir: Path) -> list[Path]:
    """The file itself, or every data file in the folder."""
    path = located(base_dir, dataset.path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in READERS and file.is_file())
        if not files:
            raise _refused(path, f"is a folder without {', '.join(READERS)} files")
        return files
    if not path.is_file():
        raise _refused(path, "does not exist (relative paths start at the study file)")
    if path.suffix.lower() not in READERS:
        raise _refused(path, f"ends with none of {', '.join(READERS)}")
    return [path]


def _read_jsonl(path: Path) -> Iterator[Raw]:
    for number, line in _text_lines(path):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == 1:
                raise _refused(
                    path, f"line 1 is not JSON ({error}); a .jsonl file has one JSON object per line"
                ) from error
            yield Raw(place, {}, "not JSON")
            continue
        if number == 1 and isinstance(value, list):
            raise _refused(path, "line 1 is a JSON list; a .jsonl file has one object per line (name a list .json)")
        yield _object_or_problem(place, value, may_hold_half(line))


def _read_json(path: Path) -> Iterator[Raw]:
    text = "".join(line for _, line in _text_lines(path))
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data" and error.lineno > 1
        cure = "; it looks like JSON lines: name it .jsonl" if lines else ""
        raise _refused(path, f"line {error.lineno}: not JSON ({error.msg}){cure}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists of lists without end
        raise _refused(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(records, list):
        keys = f" with {', '.join(list(records)[:5])}" if isinstance(records, dict) else ""
        raise _refused(path, f"holds one JSON {type(records).__name__}{keys}, not a list of records")
    doubtful = may_hold_half(text)
    for number, value in enumerate(records):
        yield _object_or_problem(f"{path.name}[{number}]", value, doubtful)


def _read_csv(path: Path) -> Iterator[Raw]:
    csv.field_size_limit(sys.maxsize)
    delimiter, skipped, lines = _delimiter(path, (line for _, line in _text_lines(path)))
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = _column_names(path, reader.fieldnames or ())
        for row in reader:
            whole = None not in row and None not in row.values()
            place = f"{path.name}:{skipped + reader.line_num}"
            yield Raw(place, row if whole else {}, "" if whole else "wrong number of fields")
    except csv.Error as error:
        old = "its lines end with CR alone, as on old Macs; save it with LF or CRLF" if "new-line" in str(error) else ""
        message = old or f"line {skipped + reader.line_num}: not CSV ({error})"
        raise _refused(path, message) from error


def _delimiter(path: Path, lines: Iterator[str]) -> tuple[str, int, Iterator[str]]:
    """What stands between fields, how many lines were skipped, and the lines from the header on.

    Spreadsheets write semicolons where the comma is a decimal point, and some a line `sep=;` before the header. A
    header without any comma tells the rest.
    """
    header = next(lines, "")
    told = header.rstrip("\r\n")
    if told.lower().startswith("sep=") and len(told) == len("sep=;"):
        return told[-1], 1, lines
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    others = [mark for mark in ";\t," if mark in header]
    return usual if usual in header or not others else others[0], 0, itertools.chain([header], lines)


def _column_names(path: Path, written: Sequence[str]) -> list[str]:
    """Names of columns without white space around them. Raises StudyError where two are alike."""
    names = [name.strip() for name in written]
    twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if twice:
        raise _refused(path, f"has {names.count(twice[0])} columns that are called {twice[0]!r}; rename all but one")
    return names


def read_parquet(path: Path, names: Sequence[str] | None = None) -> Iterator[Raw]:
    """Records of a parquet file; with `names`, of its columns those alone."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = None if names is None else [name for name in names if name in file.schema_arrow.names]
            yield from _batches(path, file.iter_batches(ROWS_AT_ONCE, columns=columns))
    except (pa.ArrowException, OSError) as error:
        raise _refused(path, f"cannot be read as parquet: {error}") from error


def _read_arrow(path: Path) -> Iterator[Raw]:
    import pyarrow as pa
    from pyarrow import ipc

    try:
        with pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = ipc.open_file(source)
                yield from _batches(path, (file.get_batch(i) for i in range(file.num_record_batches)))
            else:
                source.seek(0)
                yield from _batches(path, ipc.open_stream(source))
    except (pa.ArrowException, OSError) as error:
        raise _refused(path, f"cannot be read as arrow: {error}") from error


Reader = Callable[[Path], Iterator[Raw]]

READERS: dict[str, tuple[Reader, str]] = {
    ".json": (_read_json, TEXT),
    ".jsonl": (_read_jsonl, TEXT),
    ".ndjson": (_read_jsonl, TEXT),
    ".csv": (_read_csv, TEXT),
    ".tsv": (_read_csv, TEXT),
    ".parquet": (read_parquet, "parquet"),
    ".arrow": (_read_arrow, "arrow"),
    ".tar": (read_tar, "tar"),
}
"""Ending → how such a file is read, and what its first bytes must say."""


def check_content(path: Path) -> None:
    """Refuse a file whose first bytes say something else than its name."""
    expected = READERS[path.suffix.lower()][1]
    with open(path, "rb") as file:
        head = file.read(4096)
    if not head.strip():
        raise _refused(path, "is empty")
    start = head.lstrip().lower() if head[:1] in b" \r\n\t<" else head
    known = next((kind for mark, kind in SIGNATURES.items() if start.startswith((mark, mark.lower()))), None)
    known = "tar" if head[257:262] == b"ustar" else known
    actual = known or ("binary data" if b"\x00" in head else TEXT)
    if actual == expected:
        return
    if actual == "binary data" and head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        actual = "UTF-16 text (save it as UTF-8)"
    raise _refused(path, f"is named {path.suffix} but its content is {actual}")


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line with its end) in UTF-8, with or without a byte order mark."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                where = f"line {number}: not UTF-8 (byte {error.start}: 0x{line[error.start]:02x})"
                cure = f"save it as UTF-8, such as by iconv -f windows-1252 -t utf-8 {path.name}"
                raise _refused(path, f"{where}; {cure}") from error


def _object_or_problem(place: str, value: Any, doubtful: bool) -> Raw:
    """doubtful: the JSON may spell half characters."""
    if not isinstance(value, dict):
        return Raw(place, {}, f"a JSON {type(value).__name__}, not an object")
    return Raw(place, {}, HALF) if doubtful and holds_half(value) else Raw(place, value)


def _batches(path: Path, batches: Any) -> Iterator[Raw]:
    number = 0
    for batch in batches:
        for columns in batch.to_pylist():
            yield Raw(f"{path.name}[{number}]", columns)
            number += 1


def _refused(path: Path, message: str) -> StudyError:
    return StudyError(at("datasets"), f"{path.name} {message}", exit_code=Exit.PREFLIGHT_REFUSED)
