"""Format of log lines: JSON for log collectors, colored text for people. Applies to all loggers.

Ids that `structlog.contextvars` has bound (run, unit, attempt: see `pipeline.telemetry.unit`) are on every line.
"""

import logging
import sys

import structlog


def configure(log_format: str, *, level: int = logging.INFO) -> None:
    """Write all log lines to stderr from now on.

    Args:
        log_format: "json" (one object a line; times in UTC) or "console".
        level: lowest level of attribatch's own loggers; others log warnings and errors.
    """
    known: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    if log_format == "json":
        ending = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=known,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("attribatch").setLevel(level)
    logging.captureWarnings(capture=True)
