"""Every object key below `runs/`, except those of the zarr arrays (see `pipeline.storage.arrays`)."""


def run_key(run_id: str) -> str:
    """Where the run's own record lies in object storage."""
    return f"runs/{run_id}/run.json"


def manifest_key(run_id: str) -> str:
    """Where the run's manifest lies in object storage."""
    return f"runs/{run_id}/manifest.jsonl.gz"


def tuning_prefix(run_id: str) -> str:
    """Where the run's measurements lie in object storage: `nodes.json`, `precision/<device kind>.json`."""
    return f"runs/{run_id}/tuning/"


def report_key(run_id: str, name: str) -> str:
    """Where what was found about a run lies in object storage, for example `audit-label.json`; put anew each time."""
    return f"runs/{run_id}/reports/{name}"


def sidecar_key(run_id: str, number: int) -> str:
    """Where a unit's rows lie in object storage."""
    return f"runs/{run_id}/units/{number:06}.json"
