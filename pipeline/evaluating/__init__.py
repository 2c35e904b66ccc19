"""Is the map true? Tests of a run's maps on a sample of its images, and how far they depend on the baseline.

    from pipeline.evaluating import evaluate

Read in this order: results, figures, subject, removal, imputing, randomising, stability, baselines, agreement,
measures, sampling, running. Every measure is computed on the engine that made the maps, in the same full chunks.
"""

from pipeline.evaluating.measures import MEASURES
from pipeline.evaluating.results import BaselinePair, ClassAgreement, Curve, Evaluation, Metric
from pipeline.evaluating.running import Asked, Stored, evaluate

__all__ = ["MEASURES", "Asked", "BaselinePair", "ClassAgreement", "Curve", "Evaluation", "Metric", "Stored", "evaluate"]
