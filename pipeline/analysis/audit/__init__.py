"""What a run says about the whole data set: figures per class, shortcuts, a report. No torch, no SQL.

    from pipeline.analysis.audit import audit

    result = audit(view)          # findings, candidates, classes, failed; result.to_json()

Read in this order: view, auditing, sampling, reductions, candidates, fitting, clusters, likeness, interventions,
colours, shortcuts, deciding, results, gates, illustrations, charts, report.
`sketches` serves reductions; drift and comparison are of two runs.
"""

from pipeline.analysis.audit.audit import audit
from pipeline.analysis.audit.results import Audit, ClassFigures, Finding, Unconfirmed
from pipeline.runs.view import By

__all__ = ["Audit", "By", "ClassFigures", "Finding", "Unconfirmed", "audit"]
