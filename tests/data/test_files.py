"""Files of every kind, and files that are not what their name says."""

import csv
import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from tunestudy.config.data import FileDataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.data.sources import Folders, file
from tunestudy.data.sources.halves import HALF

ROWS = [{"prompt": f"q{i} é漢", "completion": f'a{i}, "quoted"\nline'} for i in range(5)]


def write_json(path):
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def write_csv(path):
    with open(path, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["prompt", "completion"], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path):
    parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)


def write_arrow_file(path):
    table = pa.Table.from_pylist(ROWS)
    with ipc.new_file(path, table.schema) as out:
        out.write_table(table, max_chunksize=2)


def write_arrow_stream(path):
    table = pa.Table.from_pylist(ROWS)
    with ipc.new_stream(path, table.schema) as out:
        out.write_table(table, max_chunksize=2)


KINDS = {
    "rows.json": write_json,
    "rows.jsonl": write_jsonl,
    "rows.ndjson": write_jsonl,
    "rows.csv": write_csv,
    "rows.tsv": write_csv,
    "rows.parquet": write_parquet,
    "rows.arrow": write_arrow_file,
    "stream.arrow": write_arrow_stream,
}


def read(tmp_path, name="."):
    return list(file.read(FileDataset(path=name), Folders(tmp_path, tmp_path / "cache")))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_same_records(tmp_path, name):
    KINDS[name](tmp_path / name)
    assert [raw.columns for raw in read(tmp_path, name)] == ROWS


def test_a_folder_is_read_by_file_name(tmp_path):
    write_jsonl(tmp_path / "b.jsonl")
    write_parquet(tmp_path / "a.parquet")
    (tmp_path / "README.md").write_text("not data")
    assert [raw.place for raw in read(tmp_path)][::5] == ["a.parquet[0]", "b.jsonl:1"]


def test_places_are_lines_of_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": "y"}\n')
    write_csv(tmp_path / "b.csv")
    assert [raw.place for raw in read(tmp_path, "a.jsonl")] == ["a.jsonl:1", "a.jsonl:3"]
    assert next(raw.place for raw in read(tmp_path, "b.csv")) == "b.csv:3"  # the quoted line break counts


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefftext\nhello\n".encode())
    assert read(tmp_path, "a.csv")[0].columns == {"text": "hello"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"text": "x"}\n{"text": \n{"text": "y"}\n', "not JSON"),
        ('{"text": "x"}\n[1, 2]\n', "a JSON list, not an object"),
        ('{"text": "x"}\nnull\n', "a JSON NoneType, not an object"),
        ('{"text": "\\ud55c"}\n{"text": "cut \\ud83d"}\n', HALF),
        ('{"text": "\\ud83d\\ude00"}\n{"id": "\\uDE00", "text": "x"}\n', HALF),
        ('{"text": "x"}\n' + "[" * 100_000 + "\n", "not JSON"),
    ],
)
def test_a_broken_line_is_a_bad_record_with_its_place(tmp_path, content, problem):
    (tmp_path / "a.jsonl").write_text(content)
    bad = [raw for raw in read(tmp_path, "a.jsonl") if raw.problem]
    assert [(raw.place, raw.problem) for raw in bad] == [("a.jsonl:2", problem)]


def test_half_a_character_in_a_list_rejects_its_record_alone(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "\\ud83d\\ude00"}, {"text": "\\ud83d"}, {"text": "x"}]')
    assert [raw.problem for raw in read(tmp_path, "a.json")] == ["", HALF, ""]


def test_a_row_with_too_few_fields_is_a_bad_record(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\nx,y\nz\n1,2,3\n")
    assert [raw.problem for raw in read(tmp_path, "a.csv")] == ["", "wrong number of fields", "wrong number of fields"]


def test_spreadsheets_write_semicolons_and_tell_so(tmp_path):
    (tmp_path / "a.csv").write_text("question ;answer\n1,5 + 2?;3,5\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("sep=;\nquestion;answer\n1,5 + 2?;3,5\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text("question\tanswer\n1,5 + 2?\t3,5\n", encoding="utf-8")
    (tmp_path / "d.csv").write_text("sep=\t\nquestion\tanswer\n1,5 + 2?\t3,5\n", encoding="utf-8")
    rows = [read(tmp_path, name)[0] for name in ("a.csv", "b.csv", "c.csv", "d.csv")]
    assert all(row.columns == {"question": "1,5 + 2?", "answer": "3,5"} for row in rows)
    assert [row.place for row in rows] == ["a.csv:2", "b.csv:3", "c.csv:2", "d.csv:3"]


REFUSED = {
    "latin-1 table": ("a.csv", "question,answer\nGröße?,1\n".encode("latin-1"), "save it as UTF-8"),
    "two columns of one name": ("a.csv", b"text,text\n1,2\n", "has 2 columns that are called 'text'"),
    "old line ends": ("a.csv", b"text,n\ra,1\rb,2\r", "save it with LF or CRLF"),
    "empty": ("a.jsonl", b"", "is empty"),
    "blank": ("a.json", b" \n\n", "is empty"),
    "a number of 5000 digits": ("a.json", b"[" + b"9" * 5000 + b"]", "cannot be read as JSON: Exceeds the limit"),
    "lists without end": ("a.json", b"[" * 100_000, "cannot be read as JSON: maximum recursion"),
    "parquet as jsonl": ("a.jsonl", b"PAR1\x00\x15", "is named .jsonl but its content is parquet"),
    "text as parquet": ("a.parquet", b'{"text": "x"}', "is named .parquet but its content is text"),
    "arrow as parquet": ("a.parquet", b"ARROW1\x00\x00", "its content is arrow"),
    "html": ("a.jsonl", b"\n<!DOCTYPE html><html>404</html>", "its content is HTML"),
    "gzip": ("a.jsonl", gzip.compress(b"{}"), "its content is gzip"),
    "lfs": ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid", "its content is Git LFS pointer"),
    "binary": ("a.csv", b"abc\x00\x01\x02", "its content is binary data"),
    "utf-16": ("a.csv", "text\nhello\n".encode("utf-16"), "its content is UTF-16 text"),
    "latin-1": ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n', "line 2: not UTF-8 .*0xe9"),
    "object": ("a.json", b'{"data": [], "version": 1}', "holds one JSON dict with data, version, not a list"),
    "jsonl as json": ("a.json", b'{"text": "x"}\n{"text": "y"}\n', "line 2: not JSON .*name it .jsonl"),
    "broken json": ("a.json", b'[{"text": "x"},\n{"text" "y"}]', "line 2: not JSON"),
    "list as jsonl": ("a.jsonl", b'[{"text": "x"}]\n', "line 1 is a JSON list"),
    "prose as jsonl": ("a.jsonl", b"Once upon a time\n", "line 1 is not JSON"),
    "torn parquet": ("a.parquet", b"PAR1" + b"\x00" * 40, "cannot be read as parquet"),
    "torn arrow": ("a.arrow", b"ARROW1\x00\x00" + b"\x00" * 40, "cannot be read as arrow"),
    "open quote": ("a.csv", b'text\n"never closed\n', "not CSV"),
    "ending": ("a.xlsx", b"PK\x03\x04", "ends with none of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_not_what_its_name_says(tmp_path, case):
    name, content, message = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=message) as error:
        read(tmp_path, name)
    assert name in str(error.value) and error.value.exit_code == Exit.PREFLIGHT_REFUSED


def test_missing_files(tmp_path):
    with pytest.raises(StudyError, match=r"nothing\.jsonl does not exist"):
        read(tmp_path, "nothing.jsonl")
    with pytest.raises(StudyError, match="is a folder without"):
        read(tmp_path)


def test_the_identity_follows_content_not_place(tmp_path, folders):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "a.jsonl")
    one, two = (file.identity(FileDataset(path=f"{name}/a.jsonl"), folders) for name in "xy")
    assert one == two
    (tmp_path / "y" / "a.jsonl").write_text('{"text": "x"}\n')
    assert file.identity(FileDataset(path="y/a.jsonl"), folders) != one
