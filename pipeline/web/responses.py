"""Answers in three forms: a handler returns a `View`, and the suffix of the address selects HTML, JSON or CSV."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, pass_context
from jinja2.runtime import Context
from pydantic_core import to_jsonable_python

from db.records import ImageRow, Run, Schedule
from pipeline.errors import AttribatchError
from pipeline.outputs import charts
from pipeline.outputs.page import environment
from pipeline.runs.stored import StoredRun
from pipeline.schedules.cron import on_clock
from pipeline.web import redaction, sentences

if TYPE_CHECKING:
    from pipeline.api import Pipeline
    from pipeline.web.background import BackgroundOccasions
    from pipeline.web.security import Guard

FORMS = ("json", "csv", "html")


@dataclass(frozen=True)
class Site:
    """One server: the pipeline that it shows, its access rules, its background occasions and its templates."""

    pipeline: "Pipeline"
    guard: "Guard"
    occasions: "BackgroundOccasions"
    templates: Environment
    computes: bool  # whether this process computes waiting runs, as `attribatch up` does


@dataclass(frozen=True)
class View:
    """The result of a handler.

    `data`: body of the JSON twin, also passed to the template. `more`: values for the template only. `rows`: rows of
    the CSV twin; None writes `data` as one row.
    """

    template: str
    data: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] | None = None
    next: str | None = None  # query string of the next page
    status: int = 200


@dataclass(frozen=True)
class PageRequest:
    """One HTTP request, with the site that answers it and the runs that were opened for it."""

    http: Request
    _runs: dict[str, StoredRun] = field(default_factory=dict, init=False, repr=False)

    @property
    def site(self) -> Site:
        """The site of the server."""
        found: Site = self.http.app.state.site
        return found

    @property
    def pipeline(self) -> "Pipeline":
        """The API."""
        return self.site.pipeline

    def open_run(self, ref: str) -> StoredRun:
        """A run by its reference, looked up once per request. Raises NotFound."""
        if ref not in self._runs:
            found = self.pipeline.open_run(ref)
            self._runs.update({ref: found, found.run.id: found})
        return self._runs[ref]

    @cached_property
    def known_paths(self) -> list[str]:
        """Paths that a message may contain: of the installation, and of the run or schedule in the address."""
        found, named = redaction.settings_paths(self.pipeline.settings), self.http.path_params
        try:
            if "run" in named:
                found += redaction.record_paths(self.open_run(named["run"]).run)
            elif "name" in named:
                schedules = [each for each in self.pipeline.schedules.listed() if each.name == named["name"]]
                found += [path for each in schedules for path in redaction.record_paths(each)]
        except AttribatchError:  # there is no such run, or the database does not answer
            pass
        return found

    def redact(self, text: str, *records: Run | Schedule) -> str:
        """A message without the machine's paths. It may also contain paths of `records`."""
        paths = (path for each in records for path in redaction.record_paths(each))
        return redaction.redact(text, [*self.known_paths, *paths])

    def answer(self, view: View, form: str) -> Response:
        """The response for a view in one form: json, csv or html."""
        headers = {} if view.next is None else {"Link": f'<{self.http.url.path}?{view.next}>; rel="next"'}
        if form == "json":
            text = json.dumps(_plain(view.data), indent=2)
            return Response(text, view.status, headers, "application/json")
        if form == "csv":
            rows = _plain([view.data] if view.rows is None else view.rows)
            return Response(_csv(rows), view.status, headers, "text/csv; charset=utf-8")
        return HTMLResponse(self.render(view.template, {**view.data, **view.more}), view.status, headers)

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """The HTML of a template with these values, and with the values that every page needs."""
        site = self.site
        common = {
            "known_paths": self.known_paths,
            "request_path": self.http.url.path,
            "request_query": self.http.url.query,
            "form_token": site.guard.form_token,
            "may_log_out": site.guard.needs_login and site.guard.admits(self.http),
            "computes": site.computes or site.pipeline.settings.broker_url is not None,
        }
        return site.templates.get_template(template).render(common | dict(values))


CurrentRequest = Annotated[PageRequest, Depends()]


def twins(router: APIRouter, path: str) -> Callable[[Callable[..., View]], Callable[..., View]]:
    """Serve the views of a handler at a path as HTML, and at `path.json` and `path.csv`.

    The handler's first parameter is `request: CurrentRequest`.
    """

    def register(handler: Callable[..., View]) -> Callable[..., View]:
        for form in FORMS:  # HTML last: its route would match `name.json` as a name
            suffix = "" if form == "html" else f".{form}"
            endpoint = _answering(handler, form)
            name = f"{handler.__name__}_{form}"
            router.get(path + suffix, name=name, operation_id=name, response_class=_CLASSES[form])(endpoint)
        return handler

    return register


class _Json(Response):
    media_type = "application/json"


class _Csv(Response):
    media_type = "text/csv"


_CLASSES: dict[str, type[Response]] = {"json": _Json, "csv": _Csv, "html": HTMLResponse}


def _answering(handler: Callable[..., View], form: str) -> Callable[..., Response]:
    @wraps(handler)
    def endpoint(request: PageRequest, **given: Any) -> Response:
        return request.answer(handler(request, **given), form)

    endpoint.__annotations__ = {**endpoint.__annotations__, "return": Response}
    return endpoint


def make_templates() -> Environment:
    """The environment of the page's templates, with autoescape."""
    found = environment(Path(__file__).parent / "templates")
    found.filters |= {"moment": _moment, "on_clock": on_clock}
    found.filters |= {"query": with_query, "redact": _redact, "finding": _finding, "base_name": redaction.base_name}
    found.globals |= {"charts": charts, "words": sentences, "static_key": _static_key()}
    return found


@pass_context
def _redact(context: Context, text: str) -> str:
    return redaction.redact(text, context["known_paths"])


@pass_context
def _finding(context: Context, row: ImageRow) -> str:
    return sentences.finding(row, context["known_paths"])


def _static_key() -> str:
    """A digest that changes when a style sheet or a script changes."""
    files = sorted((Path(__file__).parent / "static").iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def with_query(pairs: Mapping[str, Any], **changes: Any) -> str:
    """A query string of the pairs, without those whose value is None, empty or False."""
    return urlencode({key: value for key, value in {**pairs, **changes}.items() if value not in (None, "", False)})


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M} UTC"


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer.writerow(names)
    for row in rows:
        values = (row.get(name) for name in names)
        writer.writerow([json.dumps(each) if isinstance(each, dict | list) else each for each in values])
    return out.getvalue()


def _plain(value: object) -> Any:
    """The value as JSON has it: dataclasses as objects; null for NaN and infinities, which JSON does not have."""
    return to_jsonable_python(value, inf_nan_mode="null")
