"""Removes the paths of this machine from messages that the page shows."""

import json
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from db.records import Run, Schedule
from pipeline.settings import Settings

_NAME = r"[^\s/\\'\"<>|:;,()\[\]{}]+"
# An absolute POSIX or Windows path, or a share. Not an address such as s3://bucket/key, and not a fraction such as 3/4.
_PATH = re.compile(
    rf"(?:(?<!\w)(?:file|sqlite(?:\+\w+)?)://[^\s/]*(?=/)|(?<![\w/\\:.~-])|(?<=\w:)(?![/\\]{{2}}))"
    rf"(?:~(?:[A-Za-z_][\w.-]*)?|[A-Za-z]:)?(?:[/\\]+{_NAME})+[/\\]?"
)
_QUOTED = re.compile(r"(?<![\w'\"])(['\"])((?:[/~]|[A-Za-z]:[/\\]|\\\\)[^'\"\n]+)\1")
_HINT = re.compile(r"; did you mean (?!['\"]).*\?")  # names a sibling file
_LOGIN = re.compile(r"(?<=://)[^\s/@]+@")
_GONE = "this file"


def base_name(location: str) -> str:
    """The last component of a path. An address in a bucket is returned unchanged."""
    local = re.match(r"(?:file|sqlite(?:\+\w+)?)://", location)
    return location if "://" in location and not local else re.split(r"[/\\]", location.rstrip("/\\"))[-1]


def redact(text: str, known_paths: Iterable[str] = ()) -> str:
    """Replace each of the machine's paths in a message by its last component.

    Args:
        text: a message for the user, for example of an exception.
        known_paths: paths that may be in it. A path with a space, a bracket or a comma in a folder's name is only
            recognized if it is one of these.
    """
    text = _LOGIN.sub("", _HINT.sub("", text))
    odd = {folder for path in known_paths for folder in _folders(path) if not _PATH.fullmatch(folder)}
    for folder in sorted(odd, key=len, reverse=True):
        found = rf"(?<![\w.~-]){re.escape(folder)}"
        text = re.sub(rf"{found}(?=[/\\])", "/_", text)  # `_PATH` matches the rest of a longer path
        text = re.sub(rf"{found}(?![\w.-])", base_name(folder).replace("\\", r"\\"), text)
    text = _QUOTED.sub(lambda match: f"{match[1]}{_named(match[2])}{match[1]}", text)
    return _PATH.sub(lambda match: _named(match.group()), text)


def settings_paths(settings: Settings) -> list[str]:
    """Paths of an installation: its home, and its objects and its database if they are local."""
    urls = settings.objects_url, settings.database_url
    local = [urlsplit(url).path for url in urls if url.startswith(("file:", "sqlite"))]
    paths = [re.sub("^/+", "/", path) for path in local]
    return [str(settings.home), *paths, *map(unquote, paths)]


def record_paths(record: Run | Schedule) -> list[str]:
    """Paths in a run or in a schedule's request: of the images, the models' code and the weights."""
    if isinstance(record, Run):
        source, models = json.loads(record.source)["location"], json.loads(record.spec)["models"]
    else:
        request = json.loads(record.request)
        source, models = request.get("source", ""), request.get("models", ())  # a newer version may have others
    found = [source, *(model["source"] for model in models), *(model.get("weights") for model in models)]
    return [path for path in found if path]


def _folders(path: str) -> list[str]:
    """An absolute path, without the name of a factory, and its parent folders. Empty for any other text."""
    if "://" in path:
        return []
    path = re.sub(r"(?<=\.py):[^/\\]*$", "", path).rstrip("/\\")
    if not re.match(r"[/\\~]|[A-Za-z]:[/\\]", path):
        return []
    ends = [match.start() for match in re.finditer(r"[/\\]", path)]
    return [path, *(path[:end] for end in ends if len(path[:end]) > 2)]


def _named(path: str) -> str:
    return base_name(path) or _GONE
