"""A loopback server that gives the S3 answers that a test has written down."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from db.objects import S3

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>so it goes</Message></Error>'


class Scripted(ThreadingHTTPServer):
    """Gives its `answers` in order: (status, error code or body, bytes promised). The last one stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, str, int | None]] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        answers = self.server.answers
        status, text, promised = answers.pop(0) if len(answers) > 1 else answers[0]
        body = (ERROR.format(code=text) if status >= 400 else text).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.send_header("ETag", '"v1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = promised is not None

    do_GET = do_PUT = do_HEAD = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Scripted, S3]]:
    """A server and a client of it: one for all tests, a client takes 0.5 s to make."""
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    objects = S3("bucket", "some/prefix", endpoint_url=server.url)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ACCESS_KEY_ID", "key")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patched.setattr("botocore.endpoint.time.sleep", lambda _: None)  # backoff: up to 20 s otherwise
        yield server, objects
    objects.close()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running: tuple[Scripted, S3]) -> Scripted:
    running[0].answers, running[0].seen = [], []
    return running[0]
