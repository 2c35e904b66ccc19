"""Is the map true? Tests of a run's maps on a sample of its images, and how far they depend on the baseline.

    from pipeline.analysis.evaluation import evaluate

Read in this order: results, figures, subject, removal, imputing, randomising, stability, baselines, agreement,
measures, sampling, running. Every measure is computed on the engine that made the maps, in the same full chunks.
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
