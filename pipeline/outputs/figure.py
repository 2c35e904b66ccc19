"""One image of a run as a figure: gathers what is stored of it and hands it to `pipeline.outputs.pictures`."""

import numpy as np
import torch

from db.objects import Objects
from db.records import ImageRow, ImageState, Run
from pipeline.attribution import baseline_stack
from pipeline.errors import UsageError
from pipeline.outputs.pictures import Explained, figure
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import PATH_POINTS, Floats
from pipeline.storage.reader import MapReader, read_maps

STRIP_ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def show(objects: Objects, run: Run, row: ImageRow, pixels: Floats, samples: Floats | None) -> bytes:
    """A PNG of one image of a run.

    Args:
        objects: where the maps are.
        run: the row's.
        row: with a map.
        pixels: (C, H, W) of the model's input.
        samples: (S, C, H, W) of the run's `samples` baselines, None where it has none.

    Raises:
        UsageError: the image failed, so there is nothing to show.
    """
    if row.state is ImageState.FAILED or row.map_run is None or row.map_row is None:
        raise UsageError(f"image {row.key!r} has no map to show: {row.error}")
    spec = RunSpec.from_json(run.spec)
    reader = MapReader(objects, row.map_run)
    std = reader.std([row.map_row])
    outputs, gradients = reader.path([row.map_row])[0]
    image = torch.from_numpy(pixels)
    stack, _ = baseline_stack(spec.baselines, image[None], [row.sha256 or ""], seed=spec.seed, samples=_tensor(samples))
    start = stack[0, 0].numpy()  # the first declared baseline stands for all in the strip, and is named there
    return figure(
        Explained(
            key=row.key,
            target=row.target or "",
            predicted=row.predicted or "",
            probability=_number(row.probability),
            completeness_gap=_number(row.completeness_gap),
            error_estimate=_number(row.error_estimate),
            image=pixels,
            map=read_maps(objects, [row])[0],
            std=None if std is None else std[0],
            alphas=np.linspace(0, 1, PATH_POINTS),
            outputs=outputs,
            gradients=gradients,
            strip=np.stack([start + alpha * (pixels - start) for alpha in STRIP_ALPHAS]),
            strip_alphas=np.asarray(STRIP_ALPHAS),
            strip_baseline=str(spec.baselines[0]),
            baselines=len(stack),
            output=spec.output,
        )
    )


def _tensor(samples: Floats | None) -> "torch.Tensor | None":
    return None if samples is None else torch.from_numpy(samples)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
