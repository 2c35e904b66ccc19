"""Settings from `ATTRIBATCH_*` environment variables. No other module reads the environment."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from pipeline.errors import UsageError

Number = Annotated[float, Field(ge=1e-3, le=1e12, allow_inf_nan=False)]
Whole = Annotated[int, Field(gt=0, lt=10**12)]
Words = Annotated[tuple[str, ...], BeforeValidator(lambda text: tuple(str(text).replace(",", " ").split()))]


@dataclass(frozen=True, slots=True)
class Settings:
    """Where an installation stores its data, and its limits. Read once, by the command line, the page and workers."""

    home: Path  # folder of the index and the objects, unless they have URLs
    database_url: str
    objects_url: str
    s3_endpoint_url: str | None = None  # of an S3-compatible server; None: Amazon S3
    broker_url: str | None = None  # None: local workers claim units from SQL
    lease_seconds: Number = 60.0  # a worker that is silent for longer loses its unit
    device: str = "auto"  # auto, cpu, cuda, cuda:0
    allowed_modules: Words = ()  # prefixes of importable models; empty allows all
    max_attempts: Whole = 5  # claims of a unit before it fails
    max_pixels: Whole = 100_000_000  # larger images are refused before they are decoded
    sweep_seconds: Number = 10.0  # between two sweeps of a Celery worker
    max_memory_mb: Whole | None = None  # resident MiB above which a Celery worker is replaced after a unit; None: never
    metrics_host: str = "127.0.0.1"  # address on which workers serve Prometheus metrics
    metrics_port: Whole | None = None  # of the first worker process; None: no metrics
    web_token: str | None = None  # that visitors of the page must enter; None: the page listens only on 127.0.0.1
    log_format: Literal["json", "console"] | None = None  # None: json in Celery workers and beat, console elsewhere

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Settings from the environment. An empty variable counts as unset.

        Args:
            environ: variables by name; default `os.environ`.

        Raises:
            UsageError: a variable has a value that is not allowed.
        """
        env = os.environ if environ is None else environ
        given = {field.name: value for field in fields(cls) if (value := env.get(_variable(field.name)))}
        if "@" in urlsplit(given.get("s3_endpoint_url", "")).netloc:
            raise UsageError(
                "credentials do not belong into ATTRIBATCH_S3_ENDPOINT_URL; set AWS_ACCESS_KEY_ID and its secret"
            )
        home = Path(given.get("home", "attributions")).expanduser().absolute()
        urls = {
            "database_url": f"sqlite:///{quote(str(home / 'index.db'))}",
            "objects_url": (home / "objects").as_uri(),
        }
        try:
            return TypeAdapter(cls).validate_python(urls | given | {"home": home})
        except ValidationError as error:
            wrong = error.errors()[0]
            name, reason = _variable(str(wrong["loc"][0])), wrong["msg"].replace("Input", "it", 1)
            raise UsageError(f"{name}={wrong['input']!r} is not allowed: {reason}; unset it for the default") from None

    def to_env(self) -> dict[str, str]:
        """Variables that give a local worker the same settings, except the broker, which it does not use."""
        values = asdict(self) | {"allowed_modules": " ".join(self.allowed_modules)}
        del values["broker_url"]
        return {_variable(name): "" if value is None else str(value) for name, value in values.items()}


def _variable(name: str) -> str:
    return f"ATTRIBATCH_{name.upper()}"
