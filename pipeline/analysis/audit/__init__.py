"""Audit of a run over the whole data set: figures per class and shortcuts. No torch, no SQL.

    from pipeline.analysis.audit import audit

    result = audit(view)          # findings, candidates, classes, failed; result.to_json()

Read in this order: audit, survey, classes, boxes, propose, clusters, appearance, measure, casts, search, thresholds,
decide, results, gate_figures.
"""

from pipeline.analysis.audit.audit import audit
from pipeline.analysis.audit.results import Audit, ClassFigures, Finding, Unconfirmed
from pipeline.runs.view import By

__all__ = ["Audit", "By", "ClassFigures", "Finding", "Unconfirmed", "audit"]
