"""Records to one parquet file that `datasets` reads with images as images, a batch of rows at a time."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 256
"""Rows of a group: what is held in memory."""

METADATA = {
    "mathvista_metadata": ("category", "context", "task"),
    "mathverse_metadata": ("split", "subject", "subfield"),
}
TEXTS = pa.list_(pa.string())
ARROW = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "strings": TEXTS,
    "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    "table": pa.struct({"header": TEXTS, "rows": pa.list_(TEXTS), "name": pa.string()}),
    **{kind: pa.struct(dict.fromkeys(keys, pa.string())) for kind, keys in METADATA.items()},
}

_TEXT = {"dtype": "string", "_type": "Value"}
_TEXTS = {"feature": _TEXT, "_type": "List"}
FEATURES: dict[str, Any] = {
    "string": _TEXT,
    "int64": {"dtype": "int64", "_type": "Value"},
    "float64": {"dtype": "float64", "_type": "Value"},
    "strings": _TEXTS,
    "image": {"_type": "Image"},
    "table": {"header": _TEXTS, "rows": {"feature": _TEXTS, "_type": "List"}, "name": _TEXT},
    **{kind: dict.fromkeys(keys, _TEXT) for kind, keys in METADATA.items()},
}
"""What `datasets` (4 and later) keeps about a column in the schema's metadata."""


def write_parquet(path: Path, types: dict[str, str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with these columns; images are {"bytes", "path"}."""
    features = {"info": {"features": {name: FEATURES[kind] for name, kind in types.items()}}}
    schema = pa.schema(
        [(name, ARROW[kind]) for name, kind in types.items()], metadata={"huggingface": json.dumps(features)}
    )
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(remaining, ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
