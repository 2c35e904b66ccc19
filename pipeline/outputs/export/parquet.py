"""The index as one Parquet file: a column for each field of a row, the run in the schema's metadata."""

from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from db.encoding import IMAGE_TYPES
from pipeline.runs.stored import Selection

ROW_GROUP = 10_000
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def is_export(path: Path) -> bool:
    """Whether `write` wrote the file."""
    with path.open("rb") as file:
        try:
            return b"attribatch.id" in (pq.read_schema(file).metadata or {})
        except (pa.ArrowException, OSError):  # OSError: it ends as Parquet does, and is none
            return False


def write(selection: Selection, place: Path, _target: Path) -> int:
    """Write all rows, failed ones too. Rows written.

    The metadata of the schema holds `attribatch.<field>` of the run: id, name, spec, spec_key, source, ...
    """
    run = {f"attribatch.{name}": str(value) for name, value in asdict(selection.run).items() if value is not None}
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in IMAGE_TYPES.items()], metadata=run)
    rows, written = selection.rows(), 0
    with pq.ParquetWriter(place, schema, compression="zstd") as file:
        while batch := list(islice(rows, ROW_GROUP)):
            columns = {name: [getattr(row, name) for row in batch] for name in IMAGE_TYPES}
            file.write_table(pa.table(columns, schema=schema))
            written += len(batch)
    return written
