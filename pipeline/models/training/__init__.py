"""Trains ensembles by bagging: each member on a bootstrap resample of the images (Breiman, Bagging predictors, 1996).

`ensemble_manifest` holds the request and the result, `data` reads and splits a labeled source, `fit` trains one member
through its checkpoints, and `bagging` trains the ensemble.
"""
