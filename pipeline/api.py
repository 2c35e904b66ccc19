"""The Python API: `Pipeline` is what the command line and the web page call, and nothing they do is done elsewhere.

Example:
    from pipeline.models.registry import ModelRequest

    with Pipeline.open() as pipeline:
        run = pipeline.submit(RunRequest("./images", models=(ModelRequest("torchvision:resnet50@DEFAULT"),)))
        pipeline.engine.worker(run)
        for row in pipeline.find(run.id, where="mispredicted", sort="-member_disagreement").rows:
            print(row.key, row.predicted, row.error_estimate)
"""

from pipeline.facade.running import Running
from pipeline.spec.request import RunRequest

__all__ = ["Pipeline", "RunRequest"]


class Pipeline(Running):
    """One index and one object store, opened. A context manager.

    `pipeline.facade.running` makes things happen, `pipeline.facade.answering` says what is stored.

    Args:
        settings: where they are; `Pipeline.open` takes them from the environment.
    """
