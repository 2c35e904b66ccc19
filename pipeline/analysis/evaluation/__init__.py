"""Are the maps faithful? Tests of a run's maps on a sample of its images, and their dependence on the baseline.

    from pipeline.analysis.evaluation import EvaluationRequest, evaluate

Read in this order: results, subject, removal, `randomisation`, stability, baseline_dependence, measures, evaluate.
Every measure is computed by the engine that made the maps, in the same full chunks.
"""

from pipeline.analysis.evaluation.evaluate import EvaluationRequest, evaluate
from pipeline.analysis.evaluation.measures import MEASURES
from pipeline.analysis.evaluation.results import BaselinePair, ClassAgreement, Curve, Evaluation, Metric

__all__ = [
    "MEASURES",
    "BaselinePair",
    "ClassAgreement",
    "Curve",
    "Evaluation",
    "EvaluationRequest",
    "Metric",
    "evaluate",
]
