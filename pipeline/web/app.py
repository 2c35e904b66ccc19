"""The application: routes, access rules, error pages. A server needs only `create_app`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Form, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from pipeline.errors import AttribatchError, NotFound, Permanent, RecordDamaged, RecordTooNew, Retryable, UsageError
from pipeline.web.background import BackgroundOccasions
from pipeline.web.pages import audit, compare, gallery, image, runs, schedules, thumbnails
from pipeline.web.responses import CurrentRequest, PageRequest, Site, View, make_templates
from pipeline.web.security import COOKIE, Guard, SecurityMiddleware, local_path

if TYPE_CHECKING:
    from pipeline.api import Pipeline

CODES: tuple[tuple[type[AttribatchError], int], ...] = (
    (NotFound, 404),
    (RecordTooNew, 409),
    (RecordDamaged, 409),
    (UsageError, 400),
    (Retryable, 503),
    (Permanent, 404),
)


def create_app(
    pipeline: "Pipeline",
    *,
    token: str | None = None,
    names: Iterable[str] = (),
    occasions: BackgroundOccasions | None = None,
    computes: bool = False,
) -> FastAPI:
    """The page of a pipeline as an ASGI application.

    Args:
        pipeline: an open pipeline; the caller closes it.
        token: token that visitors must enter; None requires no login.
        names: host names of the server, in addition to IP addresses, `localhost` and the name of the machine.
        occasions: runs occasions of schedules in the background; the caller closes it.
        computes: whether this process computes waiting runs, which the page of a waiting run mentions.

    Raises:
        UsageError: the token is shorter than 16 characters or not ASCII.
    """
    app = FastAPI(title="attribatch", docs_url=None, redoc_url=None)
    guard = Guard(token, names)
    app.state.site = Site(pipeline, guard, occasions or BackgroundOccasions(pipeline), make_templates(), computes)
    app.add_middleware(SecurityMiddleware, guard=guard)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    # The first route that matches a path answers, so the paths of pictures come before those of images.
    for module in (thumbnails, runs, gallery, image, audit, compare, schedules):
        app.include_router(module.router)
    _add_entrance(app)
    _add_errors(app)
    return app


def _add_entrance(app: FastAPI) -> None:
    @app.get("/", response_class=RedirectResponse)
    def start() -> Response:
        return RedirectResponse("/runs", 307)

    @app.get("/healthz")
    def health(request: CurrentRequest) -> dict[str, str]:
        """Report that the server and its database answer."""
        return {"status": "ok", "schema": str(request.pipeline.index.revision)}

    @app.get("/login", response_class=Response)
    def login(
        request: CurrentRequest, after: Annotated[str, Query(alias="next", max_length=4000)] = "/runs"
    ) -> Response:
        return request.answer(View("login.html", {"next": local_path(after), "wrong": False}), "html")

    @app.post("/login", dependencies=runs.WRITES, response_class=Response)
    def log_in(
        request: CurrentRequest,
        token: Annotated[str, Form(max_length=1000)] = "",
        after: Annotated[str, Form(alias="next", max_length=4000)] = "/runs",
    ) -> Response:
        guard = request.site.guard
        if not guard.is_token(token):
            return request.answer(View("login.html", {"next": local_path(after), "wrong": True}, status=403), "html")
        answer = RedirectResponse(local_path(after), 303)
        secure = request.http.url.scheme == "https"
        answer.set_cookie(COOKIE, guard.session, httponly=True, samesite="strict", secure=secure, path="/")
        return answer

    @app.post("/logout", dependencies=runs.WRITES, response_class=RedirectResponse)
    def log_out() -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/")
        return answer


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(AttribatchError)
    def on_attribatch_error(request: Request, error: Exception) -> Response:
        code = next((code for kind, code in CODES if isinstance(error, kind)), 500)
        return _error(request, code, PageRequest(request).redact(str(error)))

    @app.exception_handler(HTTPException)
    def on_http_error(request: Request, error: HTTPException) -> Response:
        return _error(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def on_invalid_input(request: Request, error: RequestValidationError) -> Response:
        parts = [f"{each['loc'][-1]}: {each['msg'].lower()}" for each in error.errors()[:3]]
        return _error(request, 422, "; ".join(parts))


def _error(request: Request, code: int, message: str) -> Response:
    path = request.url.path
    if path.endswith((".json", ".csv", ".png", ".npy")) or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": message}, code)
    return PageRequest(request).answer(View("error.html", {"code": code, "message": message}, status=code), "html")
