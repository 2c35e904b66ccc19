"""The format number that every stored JSON record carries, and how records are read.

A record without the number has format 1. A new field that earlier versions may ignore keeps the number: they drop it.
Any other change raises `FORMAT`, so that earlier versions refuse the record instead of misreading it.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import RecordDamaged, RecordTooNew

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT = 1  # written by this version, and the largest number that it reads

_REMEDY = "try `attribatch repair`, or repeat the command that wrote it"

Kind = TypeVar("Kind")
_adapters: "dict[type[Any], TypeAdapter[Any]]" = {}


def numbered(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its format number."""
    return {"format": FORMAT, **record}


def read_record(data: bytes | str, name: str) -> dict[str, Any]:
    """Parse a stored record, its format number included.

    Args:
        data: a JSON object.
        name: key or path of the record, for messages.

    Raises:
        RecordTooNew: its format number is none that this version reads.
        RecordDamaged: it is not a JSON object.
    """
    try:
        record: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordDamaged(f"{name} is damaged, it is not JSON ({error}); {_REMEDY}") from error
    if type(record) is not dict:
        raise RecordDamaged(f"{name} is damaged, it is not a JSON object; {_REMEDY}")
    number = record.get("format", 1)
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise RecordTooNew(
            f"{name} has format {number!r}, this version of attribatch reads formats up to {FORMAT}; upgrade attribatch"
        )
    return record


def is_newer(data: bytes) -> bool:
    """Whether a record has a format number that this version does not read; False if it is damaged."""
    try:
        read_record(data, "")
    except RecordTooNew:
        return True
    except RecordDamaged:
        return False
    return False


def build(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A dataclass from the plain values of its fields, which may be dataclasses, tuples and enums themselves.

    Args:
        kind: the dataclass to build.
        values: field values by name. Unknown names are dropped, at every depth.

    Raises:
        RecordDamaged: a field is missing, or its value is not of the field's type.
    """
    if kind not in _adapters:
        from pydantic import TypeAdapter  # takes 0.1 s, so `attribatch --help` must not import it

        _adapters[kind] = TypeAdapter(kind)
    try:
        built: Kind = _adapters[kind].validate_python(values)
    except ValueError as error:
        raise RecordDamaged(f"a stored {kind.__name__} is damaged ({_first_line(error)}); {_REMEDY}") from error
    return built


def _first_line(error: ValueError) -> str:
    """The first field that pydantic refused, and its reason."""
    found: list[dict[str, Any]] = getattr(error, "errors", list)()
    return f"{'.'.join(map(str, found[0]['loc']))}: {found[0]['msg']}" if found else str(error)
