"""What a run says about the whole data set: figures per class, shortcuts, a report. No torch, no SQL.

    from pipeline.audits import Material, audit, render

    result = audit(material)          # findings, candidates, classes, failed; result.to_json()
    html = render(result, material)   # one self-contained page

Read in this order: material, auditing, sampling, reductions, candidates, fitting, clusters, likeness, interventions,
colours, shortcuts, deciding, results, gates, illustrations, charts, repeating, report.
`sketches` serves reductions; drift and comparison are of two runs.
"""

from pipeline.audits.auditing import audit
from pipeline.audits.material import By, Material
from pipeline.audits.report import render
from pipeline.audits.results import Audit, ClassFigures, Finding, Unconfirmed

__all__ = ["Audit", "By", "ClassFigures", "Finding", "Material", "Unconfirmed", "audit", "render"]
