"""The images of a run as a grid. Filter, sort order, page and way of drawing are in the address."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, get_args, get_type_hints

from fastapi import APIRouter, Query
from pydantic import BaseModel, BeforeValidator, Field

from db.records import ImageRow, ImageState, Run
from pipeline.errors import UsageError
from pipeline.formatting import number
from pipeline.outputs.pictures import COLOURS
from pipeline.spec.run_spec import RunSpec
from pipeline.web import redaction, sentences
from pipeline.web.pages import thumbnails
from pipeline.web.responses import CurrentRequest, View, twins, with_query

PAGE = 60
COUNTED, COUNTING_SECONDS = 10_000, 2.0  # a filter without an index reads every row, which takes seconds at a million
SORTS = {  # columns with an index: any page of a million images takes milliseconds
    "": "row",
    "-member_disagreement": "disagreement, largest first",
    "-error_estimate": "error estimate, largest first",
    "-completeness_gap": "completeness gap, largest first",
    "-border_share": "border share, largest first",
    "border_share": "border share, smallest first",
    "predicted": "predicted class",
    "label": "label",
}
FIGURES = {  # field -> label, column, operator
    "probability_below": ("Probability <", "probability", "<"),
    "border_above": ("Border share >", "border_share", ">"),
    "error_above": ("Error >", "error_estimate", ">"),
    "disagreement_above": ("Disagreement >", "member_disagreement", ">"),
}
ONLY = {"": "all images", "mispredicted": "mispredicted", "failed": "failed", "not converged": "not converged"}
FIGURE_COLUMNS = {name for name, kind in get_type_hints(ImageRow).items() if {int, float} & {kind, *get_args(kind)}}
PIXELATED = 96  # inputs smaller than this are enlarged as squares

router = APIRouter()

# A form sends an empty text for a blank field.
Figure = Annotated[
    Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)] | None,
    BeforeValidator(lambda value: None if value == "" else value),
]


class GalleryQuery(BaseModel):
    """The query string of a gallery."""

    where: str = Field("", max_length=8000, description="a filter, see `attribatch query --help`")
    predicted: str = Field("", max_length=500)
    label: str = Field("", max_length=500)
    only: Literal["", "mispredicted", "failed", "not converged"] = ""
    probability_below: Figure = None
    border_above: Figure = None
    error_above: Figure = None
    disagreement_above: Figure = None
    sort: str = Field("", max_length=50, description="a column, '-' in front for descending")
    after: str = Field("", max_length=2000, description="`next` of the page before")
    limit: int = Field(PAGE, ge=1, le=1000)
    mode: Literal["overlay", "image", "map", "positive", "negative"] = "overlay"
    colours: thumbnails.Colours = "blue-red"
    opacity: int = Field(85, ge=0, le=100, description="opacity of the map over its image, in percent")

    @property
    def condition(self) -> str | None:
        """All filters as one; None without a filter."""
        parts = [f"({self.where})"] if self.where.strip() else []
        parts += [f"{name} = {quoted(value)}" for name in ("predicted", "label") if (value := getattr(self, name))]
        if self.only:
            parts.append(self.only)
        for name, (_, column, operator) in FIGURES.items():
            if (value := getattr(self, name)) is not None:
                parts.append(f"{column} {operator} {value!r}")
        return " and ".join(parts) or None

    @property
    def mixed(self) -> bool:
        """Whether fields of the form add to the typed filter."""
        return self.condition is not None and self.condition != f"({self.where})"

    def pairs(self) -> dict[str, Any]:
        """The fields that differ from their defaults, for the shortest address of the same view."""
        return self.model_dump(exclude_defaults=True)


@twins(router, "/runs/{run}/images")
def images(request: CurrentRequest, run: str, query: Annotated[GalleryQuery, Query()]) -> View:
    """A page of a run's images."""
    opened = request.open_run(run)
    stored, rows = opened.run, tuple[ImageRow, ...]()
    problem = following = None
    try:
        if query.where.strip():
            opened.check_filter(query.where)  # without the other fields, so that the message points into the typed text
        page = opened.find(
            where=query.condition,
            sort=query.sort or None,
            limit=query.limit,
            after=query.after or None,
        )
        rows, following = page.rows, page.next
    except UsageError as error:
        problem = str(error)
    listed = [redacted_row(row, request.known_paths) for row in rows]
    pairs = query.pairs()
    data = {"run": stored.id, "where": query.condition, "sort": query.sort or None, "images": listed}
    data |= {"next": following, "error": problem}
    next_query = None if following is None else with_query(pairs, after=following)
    more = {
        "stored": stored,
        "query": query,
        "pairs": pairs,
        "tiles": [tile(stored, row, query, request.known_paths) for row in rows],
        "next_query": next_query,
        "count": len(rows) if problem is None and following is None and not query.after else None,
        "choices": {
            "sorts": SORTS if query.sort in SORTS else SORTS | {query.sort: order_in_words(query.sort)},
            "only": ONLY,
            "figures": FIGURES,
            "modes": list(thumbnails.MODES),
            "colours": COLOURS,
        },
        "pixelated": is_small(opened.spec),
        "labelled": bool(rows) or request.pipeline.has_labels(stored.id),
        "classes": opened.spec.class_names,
    }
    return View("gallery.html", data, more, listed, next_query, 200 if problem is None else 400)


@twins(router, "/runs/{run}/count")
def count(request: CurrentRequest, run: str, where: Annotated[str, Query(max_length=8000)]) -> View:
    """Count matching images. `count` is null above 10,000 matches or after 2 seconds."""
    found = request.open_run(run).count_up_to(where, most=COUNTED, seconds=COUNTING_SECONDS)
    more = found is not None and found > COUNTED
    data = {"where": where, "count": None if more else found, "more_than": COUNTED if more else None}
    return View("_count.html", data, {"seconds": COUNTING_SECONDS})


def redacted_row(row: ImageRow, known_paths: Sequence[str] = ()) -> dict[str, Any]:
    """A row as plain values, without the machine's paths. `known_paths` as for `redaction.redact`."""
    found = asdict(row)
    found["error"] = None if row.error is None else redaction.redact(row.error, known_paths)
    return found


def tile(run: Run, row: ImageRow, query: GalleryQuery, known_paths: Sequence[str] = ()) -> dict[str, Any]:
    """The content of one tile: the row, its address, pictures, alternative text and sorted figure.

    Args:
        run: the run of the row.
        row: a row of the page, done or failed.
        query: mode, colors and sort order of the view.
        known_paths: paths that an error may contain, as for `redaction.redact`.
    """
    done = row.state is ImageState.DONE
    kinds = thumbnails.MODES[query.mode] if done else ("image",)
    return {
        "row": row,
        "href": f"/runs/{run.id}/images/{row.row}",
        "layers": [thumbnails.address(run, row, kind, colors=query.colours) for kind in kinds],
        "alt": sentences.finding(row, known_paths),
        "figure": sorted_by(row, query.sort) if done else "",
        "wrong": done and row.label is not None and row.label != row.predicted,
    }


def order_in_words(sort: str) -> str:
    """A sort order in words: "gini, smallest first" for `gini`."""
    column = sort.removeprefix("-")
    name = column.replace("_", " ")
    if column not in FIGURE_COLUMNS:
        return f"{name}, from the last" if sort.startswith("-") else name
    return f"{name}, {'largest' if sort.startswith('-') else 'smallest'} first"


def sorted_by(row: ImageRow, sort: str) -> str:
    """Name and value of the figure that images are sorted by; empty if the column is not a figure."""
    column = sort.removeprefix("-")
    if column not in FIGURE_COLUMNS or (value := getattr(row, column)) is None:
        return ""
    name = SORTS.get(f"-{column}", order_in_words(sort)).split(",")[0]
    if isinstance(value, int):
        return f"{name} {value:,}"
    return f"{name} {number(value, 3)}" if abs(value) >= 1e-3 else f"{name} {value:.2g}"


def is_small(spec: RunSpec) -> bool:
    """Whether the model's input is so small that its pixels are shown as squares."""
    return max(spec.preprocess.height, spec.preprocess.width) < PIXELATED


def quoted(text: str) -> str:
    """A text as a quoted value of a filter."""
    return "'" + text.replace("'", "''") + "'"
