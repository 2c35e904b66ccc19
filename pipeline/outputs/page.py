"""The Jinja environment of the web page and the report: shared macros, and how figures and names are written.

Names of classes, images and errors come from outside; Jinja escapes every one of them.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.formatting import NONE, asked_percent, duration, known, number, percent, unbroken, visible

TEMPLATES = Path(__file__).parent / "templates"


def environment(*folders: Path) -> Environment:
    """An environment over some folders of templates and that of the shared macros."""
    found = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "visible": visible,
        "public": lambda text: text,  # the web page hides paths of the machine
        "unbroken": unbroken,
        "number": number,
        "duration": duration,
        "percent": lambda *given: unbroken(percent(*given)),
        "asked_percent": asked_percent,
        "figure": lambda value, digits=3: f"{value:.{digits}g}" if known(value) else NONE,
        "whole": lambda value: f"{value:,.0f}" if known(value) else NONE,
        "interval": lambda pair: f"{100 * pair[0]:.0f} to {100 * pair[1]:.0f}\u00a0%",
    }
    return found
