"""Engines, transactions and the schema's version. Knows nothing of what the tables mean.

SQLite: many processes write one file without a lock error because every write begins IMMEDIATE (measured with
4 processes and 4,000 claims: 26,443 errors when deferred, none when immediate). An engine belongs to the
process that opened it: open another one after a fork.
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
    "look_at",
    "migrate",
    "open_engine",
    "reading",
    "saying",
    "shown",
    "within",
    "writing",
]

SCHEMA = "0005"  # the newest revision in db/migrations/versions; a test holds the two together
BUSY_MILLISECONDS = 30_000
CACHE_KIBIBYTES = 32_768  # SQLite's own 2 MB hold no path to the leaves of the indexes of a million images
_LOCKED = (SQLITE_BUSY, SQLITE_LOCKED)
_DISK_FULL = "53100"  # PostgreSQL's SQLSTATE
_CANCELED = "57014"  # likewise
_STEPS = 10_000  # of SQLite, about a millisecond
_ADVISORY_LOCK = 0x61747472  # "attr"


def open_engine(url: str) -> Engine:
    """An engine for `sqlite:////path/index.db` or `postgresql://user:password@host/name`.

    The parent folder of a SQLite file is made. Call `migrate` before anything else.

    Raises:
        UsageError: the URL is of another kind, or its driver is not installed.
        StoreUnavailable: the folder cannot be made.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the rest may hold a password
        kind = url.partition(":")[0].partition("/")[0]
        raise UsageError(
            f"'{kind}...' is no database URL; write sqlite:////path/index.db or postgresql://user@host/name"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _open_sqlite(parsed)
    if backend in ("postgresql", "postgres"):
        return _open_postgresql(parsed)
    raise UsageError(f"databases of kind {backend!r} are not supported; use sqlite:////path or postgresql://...")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the database throughout.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with _translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: committed at the end, rolled back by an exception.

    Raises:
        StoreUnavailable: the database does not answer, is locked for 30 s, or its disk is full.
    """
    with _translated(engine), engine.execution_options(attribatch_immediate=True).begin() as connection:
        yield connection


@contextmanager
def saying(engine: Engine) -> Iterator[Connection]:
    """For one statement that writes: PostgreSQL commits it by itself, in one round trip instead of three.

    Raises:
        StoreUnavailable: as `writing`.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with writing(engine) as connection:
        yield connection


@contextmanager
def within(connection: Connection, seconds: float) -> Iterator[None]:
    """Break off a statement of a transaction that takes too long. The transaction is over then.

    Raises:
        TimeoutError: the time was up.
    """
    sqlite: Any = connection.connection.driver_connection if connection.dialect.name == "sqlite" else None
    if sqlite is None:
        limit = select(func.set_config("statement_timeout", f"{max(1, 1000 * seconds):.0f}", True))  # 0 is none
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
        raise TimeoutError(f"the index at {shown(connection.engine)} took longer than {seconds:g} s") from error
    finally:
        if sqlite is not None:  # the pool gives the connection to others
            sqlite.set_progress_handler(None, 0)


@dataclass(frozen=True, slots=True)
class Index:
    """What `attribatch migrate` and `doctor` say of a database."""

    url: str  # without its password
    revision: str | None  # of its schema; None: it has no tables yet
    ahead_seconds: float  # its clock minus this machine's


def look_at(engine: Engine) -> Index:
    """Look at a database without changing it.

    Raises:
        StoreUnavailable: it does not answer.
    """
    with reading(engine) as connection:
        revision = _revision(connection)
        before = time.time()
        theirs: float = connection.execute(select(now())).scalar_one()
        return Index(shown(engine), revision, theirs - (before + time.time()) / 2)


def migrate(engine: Engine) -> None:
    """Bring the schema up to date. Several processes may do so at once; an up-to-date one costs two queries.

    Raises:
        IndexOutdated: the database was written by a newer version of attribatch.
        StoreUnavailable: the database does not answer.
    """
    with reading(engine) as connection:
        if _revision(connection) == SCHEMA:
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":  # SQLite is locked by BEGIN IMMEDIATE already
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        current = _revision(connection)
        if current != SCHEMA:
            _upgrade(connection, current)


def _upgrade(connection: Connection, current: str | None) -> None:
    from alembic import command  # 0.1 s: only those who migrate pay for it
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        if current is not None:
            ScriptDirectory.from_config(config).get_revision(current)
    except CommandError:
        raise IndexOutdated(
            f"the index at {shown(connection.engine)} has schema {current!r}, this version of attribatch "
            f"knows {SCHEMA!r} at most; install a newer one, or point ATTRIBATCH_DATABASE_URL elsewhere"
        ) from None
    command.upgrade(config, "head")


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
                f"no space left for the index at {shown(engine)}; free some, then `attribatch retry RUN`"
            ) from error
        raise StoreUnavailable(
            f"the index at {shown(engine)} did not answer: {_reason(error)}; is it running, reachable and not full?"
        ) from error
    except (IntegrityError, ProgrammingError):
        raise  # ours
    except DatabaseError as error:
        remedy = "move it away, and `attribatch repair` rebuilds it from the stored maps"
        raise IndexDamaged(f"the index at {shown(engine)} is damaged: {_reason(error)}; {remedy}") from error


def _is_full(error: BaseException | None) -> bool:
    sqlite: int = getattr(error, "sqlite_errorcode", 0)
    return sqlite & 0xFF == SQLITE_FULL or getattr(error, "sqlstate", None) == _DISK_FULL


def shown(engine: Engine) -> str:
    """The URL of an engine without its password, wherever it stands."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__


def _open_postgresql(url: URL) -> Engine:
    url = url.set(drivername="postgresql+psycopg")
    try:
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except ModuleNotFoundError:
        raise UsageError(
            f"{url.drivername} needs a driver that is not installed: pip install 'psycopg[binary]'"
        ) from None


def _open_sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise UsageError("an index in memory would not survive a restart; write sqlite:////path/index.db")
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "set ATTRIBATCH_HOME to a folder that can be written"
        raise StoreUnavailable(f"cannot make {folder} for the index: {error.strerror}; {remedy}") from error
    engine = create_engine(url, connect_args={"timeout": BUSY_MILLISECONDS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: SqliteConnection, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: _begin_sqlite does
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")  # before all others: they may meet a lock
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
        except SqliteError as error:  # two processes that open a new file at once: SQLite does not wait here by itself
            if error.sqlite_errorcode & 0xFF not in _LOCKED or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("attribatch_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
