"""Engines, transactions and the version of the schema.

SQLite: processes can write the same file without lock errors because every write transaction begins IMMEDIATE
(measured with 4 processes and 4,000 claims: 26,443 errors with DEFERRED, none with IMMEDIATE). An engine belongs to
the process that opened it; open another one after a fork.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import SQLITE_BUSY, SQLITE_FULL, SQLITE_INTERRUPT, SQLITE_LOCKED
from sqlite3 import Connection as SqliteConnection
from sqlite3 import OperationalError as SqliteError
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, inspect, make_url, select, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)

from db.errors import IndexDamaged, IndexOutdated, StoreFull, StoreUnavailable, UsageError
from db.tables import VERSION_TABLE, now

__all__ = [
    "SCHEMA",
    "Engine",
    "Index",
    "autocommit",
    "inspect_schema",
    "migrate",
    "open_engine",
    "prepare",
    "read",
    "safe_url",
    "time_limit",
    "write",
]

MIGRATIONS = Path(__file__).parent / "migrations"
SCHEMA = max(path.name[1:5] for path in MIGRATIONS.glob("versions/r????_*.py"))  # the newest revision
BUSY_MILLISECONDS = 30_000
CACHE_KIBIBYTES = 32_768  # SQLite's default, 2 MB, is too small for the inner nodes of a million images' indexes
_LOCKED = (SQLITE_BUSY, SQLITE_LOCKED)
_DISK_FULL = "53100"  # PostgreSQL's SQLSTATE
_CANCELED = "57014"  # PostgreSQL's SQLSTATE
_STEPS = 10_000  # SQLite instructions between two looks at the clock, about a millisecond
_ADVISORY_LOCK = 0x61747472  # "attr"


def open_engine(url: str) -> Engine:
    """Return an engine for `sqlite:////path/index.db` or `postgresql://user:password@host/name`.

    The parent folder of a SQLite file is created. Call `prepare` before any other function.

    Raises:
        UsageError: the URL is of another kind, or its driver is not installed.
        StoreUnavailable: the folder cannot be created.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the rest of the URL may contain a password
        kind = url.partition(":")[0].partition("/")[0]
        raise UsageError(
            f"'{kind}...' is not a database URL; write sqlite:////path/index.db or postgresql://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _open_sqlite(parsed)
    if backend in ("postgresql", "postgres"):
        return _open_postgresql(parsed)
    raise UsageError(f"databases of kind {backend!r} are not supported; use sqlite:////path or postgresql://...")


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Open a transaction in which every query sees the same state of the database.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with _translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Open a write transaction that is committed at the end, or rolled back by an exception.

    Raises:
        StoreUnavailable: the database does not answer, is locked for 30 s, or its disk is full.
    """
    with _translated(engine), engine.execution_options(attribatch_immediate=True).begin() as connection:
        yield connection


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """Open a transaction for a single write, which PostgreSQL commits in one round trip instead of three.

    Raises:
        StoreUnavailable: the database does not answer, is locked for 30 s, or its disk is full.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with write(engine) as connection:
        yield connection


@contextmanager
def time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """Limit the time of the statements in the block. A statement that takes longer also ends the transaction.

    Raises:
        TimeoutError: a statement took longer than `seconds`.
    """
    sqlite: Any = connection.connection.driver_connection if connection.dialect.name == "sqlite" else None
    if sqlite is None:
        limit = select(func.set_config("statement_timeout", f"{max(1, 1000 * seconds):.0f}", True))  # 0: no limit
        connection.execute(limit)
    else:
        deadline = time.monotonic() + seconds
        sqlite.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        yield
    except OperationalError as error:
        codes = getattr(error.orig, "sqlite_errorcode", None), getattr(error.orig, "sqlstate", None)
        if codes not in ((SQLITE_INTERRUPT, None), (None, _CANCELED)):
            raise
        raise TimeoutError(f"the index at {safe_url(connection.engine)} took longer than {seconds:g} s") from error
    finally:
        if sqlite is not None:  # the pool reuses the connection
            sqlite.set_progress_handler(None, 0)


@dataclass(frozen=True, slots=True)
class Index:
    """The state of a database, for `attribatch migrate` and `doctor`."""

    url: str  # without the password
    revision: str | None  # revision of the schema; None before the tables are created
    ahead_seconds: float  # the database's clock minus this machine's


def inspect_schema(engine: Engine) -> Index:
    """Read the schema's revision and the clock of a database, without changing it.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    with read(engine) as connection:
        revision = _revision(connection)
        before = time.time()
        theirs: float = connection.execute(select(now())).scalar_one()
        return Index(safe_url(engine), revision, theirs - (before + time.time()) / 2)


def prepare(engine: Engine) -> None:
    """Upgrade the schema of a SQLite file; check the schema of a server, which only `migrate` changes.

    A server has other clients: after an upgrade, workers of an earlier version cannot start.

    Raises:
        IndexOutdated: a server has another schema or none, or a newer version wrote the database.
        StoreUnavailable: the database does not answer.
    """
    if engine.dialect.name == "sqlite":
        migrate(engine)
        return
    with read(engine) as connection:
        current = _revision(connection)
    if current != SCHEMA:
        _refuse_newer(engine, current)
        found = f"schema {current!r}" if current else "no schema yet"
        raise IndexOutdated(
            f"the index at {safe_url(engine)} has {found}, this version needs {SCHEMA!r}: run `attribatch migrate`"
        )


def migrate(engine: Engine) -> None:
    """Upgrade the schema to this version. Several processes may call it at once.

    An up-to-date schema takes two queries.

    Raises:
        IndexOutdated: the database was written by a newer version of attribatch.
        StoreUnavailable: the database does not answer.
    """
    with read(engine) as connection:
        if _revision(connection) == SCHEMA:
            return
    with write(engine) as connection:
        if engine.dialect.name == "postgresql":  # BEGIN IMMEDIATE has already locked a SQLite file
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        current = _revision(connection)
        if current != SCHEMA:
            _refuse_newer(engine, current)
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command  # imported here because it takes 0.1 s
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _refuse_newer(engine: Engine, current: str | None) -> None:
    """Raise IndexOutdated for a revision after `SCHEMA`: revisions are numbers of four digits."""
    if current is not None and current > SCHEMA:
        raise IndexOutdated(
            f"the index at {safe_url(engine)} has schema {current!r}, newer than {SCHEMA!r} of this version of "
            "attribatch; install a newer version, or set ATTRIBATCH_DATABASE_URL to another database"
        )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(select(text("version_num")).select_from(text(VERSION_TABLE))).scalar()
    return found


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        if _is_full(error.orig):
            raise StoreFull(
                f"no space left for the index at {safe_url(engine)}; free some space, then `attribatch retry RUN`"
            ) from error
        raise StoreUnavailable(
            f"the index at {safe_url(engine)} did not answer: {_reason(error)}; is it running, reachable and not full?"
        ) from error
    except (IntegrityError, ProgrammingError):
        raise  # caused by the statement, not by a damaged file
    except DatabaseError as error:
        remedy = "move it away, and `attribatch repair` rebuilds it from the stored maps"
        raise IndexDamaged(f"the index at {safe_url(engine)} is damaged: {_reason(error)}; {remedy}") from error


def _is_full(error: BaseException | None) -> bool:
    sqlite: int = getattr(error, "sqlite_errorcode", 0)
    return sqlite & 0xFF == SQLITE_FULL or getattr(error, "sqlstate", None) == _DISK_FULL


def safe_url(engine: Engine) -> str:
    """Return the URL of an engine without the password, which may also be in the query."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__


def _open_postgresql(url: URL) -> Engine:
    url = url.set(drivername="postgresql+psycopg")
    try:
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except ModuleNotFoundError:
        raise UsageError(
            f"{url.drivername} needs a driver that is not installed; run: pip install 'psycopg[binary]'"
        ) from None


def _open_sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise UsageError("an index in memory would be lost at the end of the process; write sqlite:////path/index.db")
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "set ATTRIBATCH_HOME to a writable folder"
        raise StoreUnavailable(f"cannot create {folder} for the index: {error.strerror}; {remedy}") from error
    engine = create_engine(url, connect_args={"timeout": BUSY_MILLISECONDS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: SqliteConnection, _record: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite begins transactions, not the driver
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")  # first, because the others may meet a lock
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")


def _switch_to_wal(connection: SqliteConnection) -> None:
    deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except SqliteError as error:  # SQLite does not wait here if two processes open a new file at once
            if error.sqlite_errorcode & 0xFF not in _LOCKED or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("attribatch_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
