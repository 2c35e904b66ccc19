"""How many images of a run its nodes are fitted on."""

from pipeline.spec.run_spec import RunSpec

FIT_SHARE = 0.05  # of a run's evaluations that fitting its nodes may cost
FIT_COST = 65  # evaluations of one calibration image per path, see `pipeline.attribution.fit_profile`
FIT_IMAGES = (8, 16)  # at least, at most


def calibration_images(spec: RunSpec, count: int) -> int:
    """How many images of a run of `count` its nodes are fitted on; 0 where that would not pay."""
    if spec.nodes == "uniform" or spec.attribution != "integrated_gradients":
        return 0
    if spec.tolerance is None and spec.method == "gausslegendre":  # its nodes are where they are
        return 0
    steps = spec.n_steps if spec.tolerance is None else 33
    affordable = int(FIT_SHARE * count * steps / FIT_COST)
    least, most = FIT_IMAGES
    return min(affordable, most) if affordable >= least else 0
