"""Images that a CSV or JSONL file names, in its order: `file_name` and, optionally, `label`."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from db.records import Entry
from pipeline.datasets.base import Files, below, is_storable, short
from pipeline.datasets.folder import Folder
from pipeline.errors import DatasetError

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson")


class Listed(Files):
    """The files below a manifest's folder that it names. A file that is missing is a failed image, not an error.

    Args:
        file: the manifest, absolute.
    """

    def __init__(self, file: Path) -> None:
        self._folder = Folder(str(file.parent))
        self._file = file
        super().__init__(self._folder)

    def entries(self) -> Iterator[Entry]:
        """See `Collection.entries`.

        Raises:
            DatasetError: a line does not parse or leads out of the manifest's folder; the message has its number.
        """
        for row, (line, key, label) in enumerate(self._lines()):
            if self._folder.leads_out(key):
                where = f"manifest {self._file}: line {line}"
                raise DatasetError(f"{where}: {key!r} is a link that leads out of {self._folder.root}; copy it there")
            yield Entry(row, key, self._folder.version(key), label)

    def count(self) -> int:
        """Lines that name an image; no file is looked for. Raises as `entries`."""
        return sum(1 for _ in self._lines())

    def _lines(self) -> Iterator[tuple[int, str, str | None]]:
        """(line number, key, label), each key relative and free of `..`."""
        read = _csv_lines if self._file.suffix.lower() == ".csv" else _json_lines
        line = 1
        try:
            with self._file.open(encoding="utf-8-sig", newline="") as file:
                for line, name, label in read(file):
                    yield line, _key(name, line), _label(label, line)
        except UnicodeDecodeError:
            raise DatasetError(f"manifest {self._file}: after line {line}, not UTF-8 text; save it as UTF-8") from None
        except ValueError as error:
            raise DatasetError(f"manifest {self._file}: {error}") from None
        except OSError as error:
            raise DatasetError(f"manifest {self._file} cannot be read: {error.strerror}") from None


def _label(label: str | None, line: int) -> str | None:
    if label is not None and not is_storable(label):
        raise ValueError(f"line {line}: label {label!r} has characters that no database stores")
    return label


def _key(name: str, line: int) -> str:
    if "://" in name:
        hint = "a manifest names files below its own folder; give s3://bucket/prefix itself as the source"
        raise ValueError(f"line {line}: file_name is a URL; {hint}")
    try:
        return below(name, "the manifest's folder")
    except ValueError as error:
        raise ValueError(f"line {line}: file_name {error}") from None


def _csv_lines(file: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
    reader = csv.reader(file, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        if "file_name" not in header:
            raise ValueError(f"line 1: no column file_name{_column_hint(header)}")
        for values in reader:
            if values and len(values) != len(header):
                raise ValueError(f"line {reader.line_num}: {len(values)} values for {len(header)} columns")
            if values:
                row = dict(zip(header, values, strict=True))
                yield reader.line_num, row["file_name"], row.get("label") or None
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: not valid CSV ({error})") from None


def _json_lines(file: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {line}: not valid JSON ({short(error)}); one object per line") from None
        name, label = (data.get("file_name"), data.get("label")) if isinstance(data, dict) else (None, None)
        if not isinstance(name, str):
            hint = _column_hint(list(data)) if isinstance(data, dict) else "; write one object per line"
            raise ValueError(f"line {line}: no text field file_name{hint}")  # noqa: TRY004 - the caller reports ValueError as a wrong line, whatever is wrong in it
        yield line, name, None if label in (None, "") else str(label)


def _column_hint(names: list[str]) -> str:
    meant = [name for name in names if name.lower().strip() in ("filename", "file", "path", "image")]
    hint = f"; rename {meant[0]!r} to file_name" if meant else "; name one of them file_name"
    return f" (found: {', '.join(names[:6])}){hint}"
