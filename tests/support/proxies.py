"""Loopback proxies before S3 and PostgreSQL that do to requests and answers what networks do."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Faults = Callable[[str, str], str]  # (method, path) -> one of the faults of `S3Proxy`


class S3Proxy(ThreadingHTTPServer):
    """Forwards each request, unless `fault` names a fault for it.

    Faults: "" forwards it; "503" refuses it; "hang" never answers; "cut" breaks off in the middle of the answer's body;
    "half" breaks off after half of the request's body; "swallow" forwards it and drops the answer.
    """

    daemon_threads = True

    def __init__(self, endpoint_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.upstream = urlsplit(endpoint_url).netloc
        self.fault: Faults = lambda method, path: ""
        self.applied: list[str] = []  # faults other than ""
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Passage(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Proxy

    def _pass(self) -> None:
        fault = self.server.fault(self.command, self.path)
        if fault:
            self.server.applied.append(fault)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "hang":
            self.server.over.wait(60)
        elif fault == "503":
            return self._answer(503, [("Content-Type", "application/xml")], b"<Error><Code>SlowDown</Code></Error>")
        elif fault == "half":
            self._forward(body[: len(body) // 2], whole=False)
        else:
            status, headers, data = self._forward(body)
            if fault != "swallow":
                return self._answer(status, headers, data, cut=fault == "cut")
        return self._hang_up()

    def _forward(self, body: bytes, *, whole: bool = True) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                upstream.putheader(name, value)
        upstream.endheaders(body)
        try:
            if not whole:
                return 0, [], b""
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        told = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if "content-length" not in told and status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        """Nothing: thousands of requests pass."""

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass


@contextlib.contextmanager
def s3_proxy(endpoint_url: str) -> Iterator[S3Proxy]:
    proxy = S3Proxy(endpoint_url)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class SqlProxy:
    """Passes bytes to PostgreSQL and back, and cuts a connection at its COMMIT of a unit's rows.

    Attributes:
        lose: "answer": the commit reaches the server, its answer does not come back; "request": it never gets there;
            None passes all. Reset once it has happened.
        lost: how often it has.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lose: str | None = None
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                cut = threading.Event()
                threading.Thread(target=self._down, args=(server, client, cut), daemon=True).start()
                threading.Thread(target=self._up, args=(client, server, cut), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        wrote = False
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                wrote = wrote or b"json_populate_recordset" in data  # rows of a unit are on their way
                if self.lose and wrote and b"COMMIT" in data:
                    how, self.lose, self.lost = self.lose, None, self.lost + 1
                    cut.set()  # nothing comes back from here on
                    if how == "answer":
                        server.sendall(data)
                        server.settimeout(5)
                        while b"COMMIT" not in server.recv(1 << 16):
                            pass
                    break
                server.sendall(data)
        _hang_up(client, server)

    def _down(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(1 << 16, socket.MSG_PEEK)) and not cut.is_set():
                client.sendall(server.recv(len(data)))
        if not cut.is_set():
            _hang_up(client, server)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextlib.contextmanager
def sql_proxy(port: int) -> Iterator[SqlProxy]:
    proxy = SqlProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
