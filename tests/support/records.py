"""Records for the tests of db. Plain functions: processes that the tests start import them too."""

from collections.abc import Iterator

from sqlalchemy import Engine, delete

from db.records import Entry, ImageRow, ImageState, Run, Unit, UnitDraft
from db.session import write
from db.tables import metadata


def empty(engine: Engine) -> None:
    """Remove all rows."""
    with write(engine) as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))


def make_run(run_id: str = "0a1b2c3d4e5f", *, image_count: int = 12, unit_size: int = 4, **values: object) -> Run:
    defaults = {
        "id": run_id,
        "name": None,
        "spec": "{}",
        "spec_key": "5" * 64,
        "source": "{}",
        "manifest_digest": "6" * 64,
        "image_count": image_count,
        "unit_size": unit_size,
    }
    return Run(**defaults | values)  # type: ignore[arg-type]


def make_drafts(run: Run) -> Iterator[UnitDraft]:
    for number, start in enumerate(range(0, run.image_count, run.unit_size)):
        rows = range(start, min(start + run.unit_size, run.image_count))
        yield UnitDraft(number, tuple(make_entry(row) for row in rows))


def make_entry(row: int) -> Entry:
    return Entry(row=row, key=f"cats/{row:05d}.png", version=f"{row}-1700000000", label="cat" if row % 2 else None)


def make_row(run_id: str, row: int, **values: object) -> ImageRow:
    entry = make_entry(row)
    defaults = {"key": entry.key, "version": entry.version, "label": entry.label, "state": ImageState.DONE}
    return ImageRow(run_id=run_id, row=row, **defaults | values)  # type: ignore[arg-type]


def make_rows(unit: Unit, **values: object) -> list[ImageRow]:
    return [make_row(unit.run_id, entry.row, **values) for entry in unit.entries]
