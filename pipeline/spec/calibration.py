"""The number of images that a run fits its nodes on."""

from pipeline.spec.run_spec import RunSpec

FIT_SHARE = 0.05  # largest share of a run's evaluations that the fit may cost
FIT_COST = 65  # evaluations of one calibration image per path, see `pipeline.attribution.fit_profile`
FIT_IMAGES = (8, 16)  # smallest and largest number of images


def calibration_images(spec: RunSpec, count: int) -> int:
    """The number of images to fit the nodes on, for a run of `count` images; 0 if the fit would cost too much."""
    if spec.nodes == "uniform" or spec.attribution != "integrated_gradients":
        return 0
    if spec.tolerance is None and spec.method == "gausslegendre":  # its nodes are fixed
        return 0
    steps = spec.n_steps if spec.tolerance is None else 33
    affordable = int(FIT_SHARE * count * steps / FIT_COST)
    least, most = FIT_IMAGES
    return min(affordable, most) if affordable >= least else 0
