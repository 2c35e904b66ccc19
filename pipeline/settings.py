"""Where things are and how patient to be. The only reader of the environment."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """Read once, at the edge; functions take the values they need, not the settings."""

    home: Path  # holds whatever has no URL of its own
    database_url: str
    objects_url: str
    s3_endpoint_url: str | None  # of an S3-compatible server; None is Amazon's
    broker_url: str | None  # None: local workers claim straight from SQL
    lease_seconds: float  # a worker that is silent for longer loses its unit
    device: str  # auto, cpu, cuda, cuda:0
    allowed_modules: tuple[str, ...]  # prefixes of importable models; empty allows all
    max_attempts: int  # claims of one unit before it is failed
    max_pixels: int  # images with more are refused unread
    sweep_seconds: float  # between two looks of a Celery worker at what waits in SQL
    max_memory_mb: int | None  # resident MiB above which a Celery worker is replaced after a unit; None: never
    metrics_host: str  # address that Prometheus metrics of workers are served on
    metrics_port: int | None  # of the first worker process; None: no metrics
    web_token: str | None  # what visitors of the web page must know; None: it listens on this machine alone
    log_format: str | None  # json or console; None: json of Celery workers and beat, console elsewhere

    @classmethod
    def from_env(cls, environ: dict[str, str] | None = None) -> "Settings":
        """Settings from `ATTRIBATCH_*` variables.

        Raises:
            UsageError: a variable that should be a number is not.
        """
        env = dict(os.environ) if environ is None else environ
        if "@" in urlsplit(env.get("ATTRIBATCH_S3_ENDPOINT_URL", "")).netloc:
            raise UsageError(
                "credentials do not belong into ATTRIBATCH_S3_ENDPOINT_URL; set AWS_ACCESS_KEY_ID and its secret"
            )
        home = Path(env.get("ATTRIBATCH_HOME", "attributions")).expanduser().absolute()
        return cls(
            home=home,
            database_url=env.get("ATTRIBATCH_DATABASE_URL", f"sqlite:///{quote(str(home / 'index.db'))}"),
            objects_url=env.get("ATTRIBATCH_OBJECTS_URL", (home / "objects").as_uri()),
            s3_endpoint_url=env.get("ATTRIBATCH_S3_ENDPOINT_URL") or None,
            broker_url=env.get("ATTRIBATCH_BROKER_URL") or None,
            lease_seconds=_number(env, "ATTRIBATCH_LEASE_SECONDS", 60.0),
            device=env.get("ATTRIBATCH_DEVICE", "auto"),
            allowed_modules=tuple(env.get("ATTRIBATCH_ALLOWED_MODULES", "").replace(",", " ").split()),
            max_attempts=int(_number(env, "ATTRIBATCH_MAX_ATTEMPTS", 5)),
            max_pixels=int(_number(env, "ATTRIBATCH_MAX_PIXELS", 100_000_000)),
            sweep_seconds=_number(env, "ATTRIBATCH_SWEEP_SECONDS", 10.0),
            max_memory_mb=_whole(env, "ATTRIBATCH_MAX_MEMORY_MB"),
            metrics_host=env.get("ATTRIBATCH_METRICS_HOST", "127.0.0.1"),
            metrics_port=_whole(env, "ATTRIBATCH_METRICS_PORT"),
            web_token=env.get("ATTRIBATCH_WEB_TOKEN") or None,
            log_format=_one_of(env, "ATTRIBATCH_LOG_FORMAT", ("json", "console")),
        )

    def to_env(self) -> dict[str, str]:
        """The variables that give the same settings to a local worker: all but the broker, which it has no use for."""
        return {
            "ATTRIBATCH_HOME": str(self.home),
            "ATTRIBATCH_DATABASE_URL": self.database_url,
            "ATTRIBATCH_OBJECTS_URL": self.objects_url,
            "ATTRIBATCH_S3_ENDPOINT_URL": self.s3_endpoint_url or "",
            "ATTRIBATCH_LEASE_SECONDS": str(self.lease_seconds),
            "ATTRIBATCH_MAX_ATTEMPTS": str(self.max_attempts),
            "ATTRIBATCH_MAX_PIXELS": str(self.max_pixels),
            "ATTRIBATCH_DEVICE": self.device,
            "ATTRIBATCH_ALLOWED_MODULES": " ".join(self.allowed_modules),
        }


def _whole(env: dict[str, str], name: str) -> int | None:
    text = env.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**12):
        raise UsageError(f"{name}={text!r} is no whole number above 0; unset it to do without")
    return int(text)


def _one_of(env: dict[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    value = env.get(name) or None
    if value is not None and value not in choices:
        raise UsageError(f"{name}={value!r} is none of {', '.join(choices)}")
    return value


def _number(env: dict[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} is not a number; unset it for the default, {default:g}") from None
    if not 1e-3 <= value <= 1e12 or (isinstance(default, int) and value != int(value)):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise UsageError(f"{name}={text!r} must be {kind} above 0; unset it for the default, {default:g}")
    return value
