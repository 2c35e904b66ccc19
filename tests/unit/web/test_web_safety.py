"""Who may ask and who may change something; what a browser is allowed to do with an answer."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from pipeline.api import Pipeline
from pipeline.errors import UsageError
from pipeline.web.app import create_app
from pipeline.web.redaction import record_paths, redact, settings_paths
from pipeline.web.security import COOKIE, Guard, local_path
from pipeline.web.server import Place, served
from tests.support.installation import Installation
from tests.unit.web.conftest import BASE, HTML

TOKEN = "a token that is long enough"


@pytest.fixture(scope="module")
def visitor(opened: Pipeline) -> Iterator[TestClient]:
    """A client of a server that asks for a token."""
    app = create_app(opened, token=TOKEN)
    with TestClient(app, base_url="https://10.0.0.7:8077", headers=HTML, follow_redirects=False) as client:
        yield client


def test_every_answer_carries_the_policy(browser: TestClient, installation: Installation) -> None:
    run = installation.run.id
    for path in ("/runs", "/runs.json", f"/runs/{run}/images/0/map.png", "/static/page.js", "/nothing", "/healthz"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
    assert browser.get("/runs").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8077", "", "localhost.evil", "a b", "[::1"])
def test_a_name_that_is_not_the_servers_is_refused(host: str, browser: TestClient) -> None:
    assert browser.get("/runs", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8077", "[::1]:8077", "192.168.0.3"])
def test_addresses_and_this_machine_are_its_names(host: str, browser: TestClient) -> None:
    assert browser.get("/healthz", headers={"host": host}).status_code == 200


def writes(client: TestClient) -> list[str]:
    schema = client.get("/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json()
    found = [path for path, methods in schema["paths"].items() if "post" in methods]
    assert not [path for path, methods in schema["paths"].items() if set(methods) - {"get", "post"}]
    return [path.format(run="first", name="nightly", what="remove") for path in found]


def test_no_change_without_the_value_that_only_own_pages_hold(browser: TestClient, form_token: str) -> None:
    addresses = writes(browser)
    assert len(addresses) >= 6
    for path in addresses:
        assert browser.post(path).status_code == 403, path
        assert browser.post(path, data={"form_token": "0" * 64}).status_code == 403, path
        for header in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            found = browser.post(path, data={"form_token": form_token}, headers=header)
            assert found.status_code == 403, (path, header)
    allowed = browser.post("/runs/first/cancel", data={"form_token": form_token}, headers={"origin": BASE})
    assert allowed.status_code == 303


def test_bodies_are_bounded(browser: TestClient, form_token: str) -> None:
    large = browser.post("/schedules", content=b"x" * 70_000)
    assert large.status_code == 413
    stream = browser.post("/schedules", content=iter([b"form_token=1"]))
    assert stream.status_code == 411


def test_with_a_token_nothing_is_shown_before_the_login(visitor: TestClient, installation: Installation) -> None:
    for path in ("/runs", f"/runs/{installation.run.id}/images", f"/runs/{installation.run.id}/images/0/map.png"):
        found = visitor.get(path)
        assert found.status_code == 303
        assert found.headers["location"].startswith("/login?next=%2Fruns"), path
    assert visitor.get("/runs.json", headers={"accept": "application/json"}).status_code == 401
    assert visitor.get("/openapi.json", headers={"accept": "*/*"}).status_code == 401
    assert visitor.get("/healthz").status_code == 200
    login = visitor.get("/login").text
    assert installation.run.id not in login
    assert "Log out" not in login


def test_login_with_the_token_and_out_again(visitor: TestClient) -> None:
    form = visitor.app.state.site.guard.form_token  # type: ignore[attr-defined]
    wrong = visitor.post("/login", data={"form_token": form, "token": TOKEN + "!", "next": "/schedules"})
    assert wrong.status_code == 403
    assert "set-cookie" not in wrong.headers
    right = visitor.post("/login", data={"form_token": form, "token": TOKEN, "next": "/schedules"})
    assert (right.status_code, right.headers["location"]) == (303, "/schedules")
    cookie = right.headers["set-cookie"].lower()
    assert all(part in cookie for part in (COOKIE, "httponly", "samesite=strict", "secure"))
    assert TOKEN not in right.headers["set-cookie"]
    assert "Log out" in visitor.get("/runs").text
    assert visitor.post("/runs/first/cancel").status_code == 403, "the cookie alone changes nothing"
    visitor.post("/logout", data={"form_token": form})
    assert visitor.get("/runs").status_code == 303


def test_programs_send_the_token_along(visitor: TestClient) -> None:
    program = {"authorization": f"Bearer {TOKEN}"}
    assert visitor.get("/runs.json", headers=program).json()["count"] == 2
    assert visitor.get("/runs.json", headers={"authorization": "Bearer no"}).status_code == 303
    assert visitor.post("/runs/first/cancel", headers=program).status_code == 303


def test_an_open_address_without_a_long_token_is_refused(opened: Pipeline) -> None:
    """A short token and an open address without one are refused."""
    with pytest.raises(UsageError, match="16 ASCII characters"):
        Guard("short")
    with pytest.raises(UsageError, match="ATTRIBATCH_WEB_TOKEN"):
        Place(host="0.0.0.0").check()
    for host in ("127.0.0.1", "localhost", "::1"):
        Place(host=host).check()
    with served(opened, Place(port=0)) as first:
        port = int(first.url.rstrip("/").rpartition(":")[2])
        with (
            pytest.raises(UsageError, match=rf"^port {port} of 127.0.0.1 is in use .*; choose another `Place.port`$"),
            served(opened, Place(port=port)),
        ):
            pass


@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/runs/x?where=a%20b", "/runs/x?where=a%20b"),
        ("//evil.example", "/runs"),
        ("/\\evil.example", "/runs"),
        ("https://evil.example", "/runs"),
        ("javascript:alert(1)", "/runs"),
        ("/runs\r\nset-cookie: a=b", "/runs"),
    ],
)
def test_after_the_login_nobody_is_led_elsewhere(asked: str, led: str) -> None:
    assert local_path(asked) == led


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/srv/data/x/images does not exist", "images does not exist"),
        ("model '/home/a/net.py:make': its weights changed", "model 'net.py:make': its weights changed"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "x.py", line 3'),
        ("C:\\data\\a.png is gone", "a.png is gone"),
        ("s3://bucket/some/prefix and 3/4 of cat/0.png", "s3://bucket/some/prefix and 3/4 of cat/0.png"),
        ("predicted != label", "predicted != label"),
        ("file:///srv/a/x.png is gone", "x.png is gone"),
        ("//srv/share/f and \\\\srv\\share\\g", "f and g"),
        ("sqlite:////home/ann/index.db is locked", "index.db is locked"),
        ("error:/a/b/c, s3://b/c/d, ~ann/x and ~/y, about ~3/4", "error:c, s3://b/c/d, x and y, about ~3/4"),
        ("[Errno 2] No such file: '/srv/my data (1)/x, y.png'", "[Errno 2] No such file: 'x, y.png'"),
        ("/srv/imgs does not exist; did you mean /srv/my images?", "imgs does not exist"),
        ("no column 'a'; did you mean 'b'?", "no column 'a'; did you mean 'b'?"),
        ("postgresql://ann:secret@db/x is away", "postgresql://db/x is away"),
    ],
)
def test_messages_name_files_but_not_where_they_lie(said: str, shown: str) -> None:
    assert redact(said) == shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/srv/my data (1)/scans, old does not exist", "scans, old does not exist"),
        ("no image in /srv/my data (1)/scans, old/cat/0.png here", "no image in 0.png here"),
        ("/srv/my data (1)/net.py:make and file:///srv/my%20data%20%281%29/x", "net.py:make and x"),
        ("/srv/my data (1)/weights of ann.pt: digest differs", "weights of ann.pt: digest differs"),
        ("/srv/my data (1) is away, /srv/else/x too", "my data (1) is away, x too"),
    ],
)
def test_known_folders_with_odd_names_are_no_exception(said: str, shown: str) -> None:
    place = "/srv/my data (1)"
    assert redact(said, [f"{place}/scans, old", f"{place}/net.py:make", f"{place}/weights of ann.pt"]) == shown


def test_places_of_an_installation_and_of_its_runs_are_known(opened: Pipeline, installation: Installation) -> None:
    found = settings_paths(opened.settings) + record_paths(installation.run)
    assert {str(installation.home), str(installation.home / "objects"), str(installation.home / "index.db")} <= {*found}
    assert {str(installation.images), str(installation.root / "member-0.safetensors")} <= {*found}


def test_a_run_of_another_machines_paths_shows_none_of_them(opened: Pipeline, installation: Installation) -> None:
    from pipeline.web.sentences import redacted_source

    source = '{"kind":"folder","location":"C:\\\\Users\\\\ann\\\\scans"}'
    assert redacted_source(replace(installation.run, source=source)) == {"kind": "folder", "name": "scans"}
