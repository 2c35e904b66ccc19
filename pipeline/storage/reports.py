"""JSON reports of a run: audits, evaluations and comparisons, below `runs/<run>/reports/`."""

import json
from collections.abc import Mapping
from typing import Any

from db.objects import Objects
from pipeline.errors import ObjectMissing
from pipeline.record_format import read_record
from pipeline.storage.keys import report_key


def read_report(objects: Objects, run_id: str, name: str) -> dict[str, Any] | None:
    """A stored report, for example `audit-label.json`; None if there is none. Raises RecordTooNew."""
    key = report_key(run_id, name)
    try:
        return read_record(objects.get(key), key)
    except ObjectMissing:
        return None


def put_report(objects: Objects, run_id: str, name: str, report: Mapping[str, Any]) -> None:
    """Store a report in place of an earlier one of the same name."""
    objects.put(report_key(run_id, name), json.dumps(report).encode())
