"""Trains ensembles by bagging: each member on a bootstrap resample of the images (Breiman, Bagging predictors, 1996).

`records` is what is asked for and what comes of it, `images` reads and splits a labelled source, `fitting` trains one
member through its checkpoints, and `ensembles` puts them together. Knows nothing of runs and attributions.
"""
